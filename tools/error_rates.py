"""Measure in simulated studies how often the rule for a verdict errs, and write the table of docs/statistics.md.

    python tools/error_rates.py

Takes about ten minutes on one core. A test repeats one part of the table.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from senet_lib.analysis.contrasts import RunModel, simultaneous
from senet_lib.analysis.markup import to_markdown
from senet_lib.analysis.rule import BETTER, EQUIVALENT, NO_GAIN, NO_LOSS, WORSE, verdict
from senet_lib.analysis.stats import MARGIN

STUDIES = 10_000
SD = 0.0015
PAIRS = (("se", "plain"), ("sk", "plain"), ("sk", "wide"), ("wide", "plain"))  # those of studies/fast.yaml
PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"


@dataclass(frozen=True)
class Scenario:
    """Made-up studies of four networks. gains and factors: one per network, plain, se, sk, wide."""

    name: str
    seeds: int
    gains: tuple[float, ...] = (0, 0, 0, 0)  # true accuracy minus that of plain
    factors: tuple[float, ...] = (1, 1, 1, 1)  # standard deviation, as a multiple of SD
    moved: bool = False  # whether sk and wide trained their last seed on a machine with 0.5 pp more
    missing: bool = False  # whether se has no run yet


@dataclass(frozen=True)
class Rates:
    """Shares of the studies. missed: a simultaneous interval misses its true difference; wrong_sign: a comparison is
    better or worse and truly is not; wrong_bound: a gain (loss) of the margin or more is ruled out by the verdict and
    truly is there; welch: deviations were found to differ."""

    missed: float
    wrong_sign: float
    wrong_bound: float
    welch: float


NULL, GAINS = "no true difference", "true gains of exactly 0.3 pp over plain"
UNEQUAL = "one standard deviation {} times the others"
SCENARIOS = (
    *(Scenario(NULL, seeds) for seeds in (2, 3, 5, 25)),
    *(Scenario(GAINS, seeds, gains=(0, MARGIN, MARGIN, MARGIN)) for seeds in (3, 5, 25)),
    Scenario("no true difference; two machines", 5, moved=True),
    Scenario("no true difference; one network without runs", 3, missing=True),
    *(Scenario(UNEQUAL.format(2), seeds, factors=(1, 2, 1, 1)) for seeds in (3, 5, 25)),
    *(Scenario(UNEQUAL.format(3), seeds, factors=(1, 3, 1, 1)) for seeds in (3, 5, 25)),
)


def simulate(scenario: Scenario, studies: int = STUDIES) -> Rates:
    rng = np.random.default_rng(0)
    labels = ("plain", "se", "sk", "wide")
    gains = dict(zip(labels, scenario.gains, strict=True))
    pairs = [pair for pair in PAIRS if not (scenario.missing and "se" in pair)]
    truth = [gains[treatment] - gains[baseline] for treatment, baseline in pairs]
    contrasts = [{treatment: 1.0, baseline: -1.0} for treatment, baseline in pairs]
    last = scenario.seeds - 1
    elsewhere = {(label, last) for label in ("sk", "wide")} if scenario.moved else set()
    place = {label: {s: str((label, s) in elsewhere) for s in range(scenario.seeds)} for label in labels}
    counts = np.zeros(4)
    for _ in range(studies):
        noise = SD * np.array(scenario.factors)[:, None] * rng.standard_normal((4, scenario.seeds))
        values = {
            label: {s: 0.93 + gains[label] + row[s] + 0.005 * ((label, s) in elsewhere) for s in range(scenario.seeds)}
            for label, row in zip(labels, noise, strict=True)
            if not (scenario.missing and label == "se")
        }
        model = RunModel(values, place)
        found = [estimate.interval for estimate in simultaneous(model, contrasts, len(PAIRS))]
        verdicts = [verdict(interval) for interval in found]
        counts += (
            any(not i.low <= true <= i.high for i, true in zip(found, truth, strict=True)),
            any(_wrong_sign(*pair) for pair in zip(verdicts, truth, strict=True)),
            any(_wrong_bound(*pair) for pair in zip(verdicts, truth, strict=True)),
            model.unequal,
        )
    return Rates(*counts / studies)


def _wrong_sign(verdict: str, true: float) -> bool:
    return (verdict == BETTER and true <= 0) or (verdict == WORSE and true >= 0)


def _wrong_bound(verdict: str, true: float) -> bool:
    no_gain, no_loss = verdict in (EQUIVALENT, NO_GAIN), verdict in (EQUIVALENT, NO_LOSS)
    return (no_gain and true >= MARGIN) or (no_loss and true <= -MARGIN)


def table() -> str:
    rows = []
    for scenario in SCENARIOS:
        rates = simulate(scenario)
        shown = {"Simulated studies": scenario.name, "Seeds": str(scenario.seeds)}
        shown |= {"An interval misses (%)": rates.missed, "False better or worse (%)": rates.wrong_sign}
        shown |= {"False bound (%)": rates.wrong_bound, "Welch used (%)": rates.welch}
        rows.append({key: f"{100 * value:.1f}" if isinstance(value, float) else value for key, value in shown.items()})
    return to_markdown(pd.DataFrame(rows))


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- rates -->\n")
    _, _, after = rest.partition("<!-- /rates -->")
    PAGE.write_text(f"{before}<!-- rates -->\n{table()}<!-- /rates -->{after}", encoding="utf-8")
