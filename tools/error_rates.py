"""Measure in simulated studies how often the rule for a verdict errs and what it detects, and write the tables of
docs/statistics.md.

    python tools/error_rates.py

Takes about ten minutes on one core. A test repeats parts of the tables.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from senet_lib.analysis.contrasts import RunModel, simultaneous
from senet_lib.analysis.markup import to_markdown
from senet_lib.analysis.power import detectable_by_plan
from senet_lib.analysis.rule import BETTER, EQUIVALENT, NO_GAIN, NO_LOSS, WORSE, verdict
from senet_lib.analysis.stats import MARGIN, Interval
from senet_lib.files import write_text
from senet_lib.project import project_root
from senet_lib.report.results_pages import filled_page
from senet_lib.study import load_study

STUDIES = 10_000
SD = 0.0015
NETWORKS = ("plain", "se", "sk", "wide")
PAIRS = (("se", "plain"), ("sk", "plain"), ("sk", "wide"), ("wide", "plain"))  # those of studies/fast.yaml
LARGE = load_study("source_a_short", project_root() / "studies")
PAGE = project_root() / "docs" / "statistics.md"
Run = tuple[str, int]  # network, seed


@dataclass(frozen=True)
class Scenario:
    """Made-up studies. By default every network has every seed, on one machine, without true differences."""

    name: str
    seeds: int
    networks: tuple[str, ...] = NETWORKS
    pairs: tuple[tuple[str, str], ...] = PAIRS
    gains: Mapping[str, float] = field(default_factory=dict)  # true accuracy minus that of the others
    factors: Mapping[str, float] = field(default_factory=dict)  # standard deviation, as a multiple of SD
    elsewhere: Mapping[Run, str] = field(default_factory=dict)  # machine of the runs that another one trained
    without: frozenset[Run] = frozenset()  # runs that are missing

    def truth(self, pair: tuple[str, str]) -> float:
        return self.gains.get(pair[0], 0) - self.gains.get(pair[1], 0)


@dataclass(frozen=True)
class Rates:
    """Shares of the studies. missed: a simultaneous interval misses its true difference; wrong_sign: a comparison is
    better or worse and truly is not; wrong_bound: a gain (loss) of the margin or more is ruled out by the verdict and
    truly is there; welch: deviations were found to differ."""

    missed: float
    wrong_sign: float
    wrong_bound: float
    welch: float


# Of two seeds, the second is on the second machine; but all runs of sk are there, and none of wide
APART = {("plain", 1): "second", ("se", 1): "second", ("sk", 0): "second", ("sk", 1): "second"}
NULL, GAINS = "no true difference", "true gains of exactly 0.3 pp over plain"
GAIN = dict.fromkeys(("se", "sk", "wide"), MARGIN)
SCENARIOS = (
    *(Scenario(NULL, seeds) for seeds in (2, 3, 5, 25)),
    *(Scenario(GAINS, seeds, gains=GAIN) for seeds in (3, 5, 25)),
    Scenario("two machines", 5, elsewhere={("sk", 4): "second", ("wide", 4): "second"}),
    Scenario("two machines, which trained sk and wide apart", 2, elsewhere=APART),
    Scenario("the same, deviation of plain 3 times the others", 2, elsewhere=APART, factors={"plain": 3}),
    Scenario("last seed of each network on a machine of its own", 3, elsewhere={(name, 2): name for name in NETWORKS}),
    Scenario("one network without runs", 3, without=frozenset(("se", seed) for seed in range(3))),
    Scenario("plain with 2 seeds, the others with 5", 5, without=frozenset(("plain", seed) for seed in (2, 3, 4))),
    *(Scenario("deviation of se 2 times the others", seeds, factors={"se": 2}) for seeds in (3, 5, 25)),
    *(Scenario("deviation of se 3 times the others", seeds, factors={"se": 3}) for seeds in (3, 5, 25)),
    *(Scenario("deviation of plain 2 times the others", seeds, factors={"plain": 2}) for seeds in (3, 5)),
    *(Scenario("deviation of plain 3 times the others", seeds, factors={"plain": 3}) for seeds in (3, 5)),
    Scenario(f"{GAINS}, whose deviation is 3 times the others", 3, gains=GAIN, factors={"plain": 3}),
    Scenario(
        "plain with 2 seeds and 3 times the others' deviation, the others with 5",
        5,
        factors={"plain": 3},
        without=frozenset(("plain", seed) for seed in (2, 3, 4)),
    ),
    *(
        Scenario(
            f"the plan of source_a_short, deviation of sknet50 {factor} times the others",
            seeds,
            networks=tuple(LARGE.networks),
            pairs=LARGE.comparisons,
            factors={"sknet50": factor},
        )
        for factor in (2, 3)
        for seeds in (2, 3, 5)
    ),
)
POWER_SEEDS = (2, 3, 5, 10, 25)


def simulate(scenario: Scenario, studies: int = STUDIES) -> Rates:
    truth = [scenario.truth(pair) for pair in scenario.pairs if _has_runs(scenario, pair)]
    counts = np.zeros(4)
    for model, found in _studies(scenario, studies):
        verdicts = [verdict(interval) for interval in found]
        counts += (
            any(i.exists and not i.low <= true <= i.high for i, true in zip(found, truth, strict=True)),
            any(_wrong_sign(*pair) for pair in zip(verdicts, truth, strict=True)),
            any(_wrong_bound(*pair) for pair in zip(verdicts, truth, strict=True)),
            model.unequal,
        )
    return Rates(*counts / studies)


def power(seeds: int, studies: int = STUDIES) -> float:
    """The share of studies that find se better, if its true gain is the one that `make plan` states for 80 % power."""
    gain = detectable_by_plan(SD, seeds, PAIRS, len(NETWORKS))
    scenario = Scenario("", seeds, gains={"se": gain})
    return sum(found[0].low > 0 for _, found in _studies(scenario, studies)) / studies


def _studies(scenario: Scenario, studies: int) -> Iterator[tuple[RunModel, list[Interval]]]:
    """Each made-up study's model, and the intervals of the comparisons whose networks both have runs."""
    rng, networks = np.random.default_rng(0), scenario.networks
    pairs = [pair for pair in scenario.pairs if _has_runs(scenario, pair)]
    contrasts = [{treatment: 1.0, baseline: -1.0} for treatment, baseline in pairs]
    place = {name: {s: scenario.elsewhere.get((name, s), "") for s in range(scenario.seeds)} for name in networks}
    scales = np.array([[SD * scenario.factors.get(name, 1)] for name in networks])
    for _ in range(studies):
        noise = scales * rng.standard_normal((len(networks), scenario.seeds))
        values = {
            name: {
                seed: 0.93 + scenario.gains.get(name, 0) + row[seed] + 0.005 * ((name, seed) in scenario.elsewhere)
                for seed in range(scenario.seeds)
                if (name, seed) not in scenario.without
            }
            for name, row in zip(networks, noise, strict=True)
        }
        model = RunModel(values, place)
        yield model, [estimate.interval for estimate in simultaneous(model, contrasts, len(scenario.pairs))]


def _has_runs(scenario: Scenario, pair: tuple[str, str]) -> bool:
    return all(any((name, seed) not in scenario.without for seed in range(scenario.seeds)) for name in pair)


def _wrong_sign(verdict: str, true: float) -> bool:
    return (verdict == BETTER and true <= 0) or (verdict == WORSE and true >= 0)


def _wrong_bound(verdict: str, true: float) -> bool:
    no_gain, no_loss = verdict in (EQUIVALENT, NO_GAIN), verdict in (EQUIVALENT, NO_LOSS)
    return (no_gain and true >= MARGIN) or (no_loss and true <= -MARGIN)


def error_table() -> str:
    rows = []
    for scenario in SCENARIOS:
        rates = simulate(scenario)
        boundary = any(abs(scenario.truth(pair)) >= MARGIN for pair in scenario.pairs)
        rows.append(
            {
                "Simulated studies": scenario.name,
                "Seeds": str(scenario.seeds),
                "An interval misses (%)": _percent(rates.missed),
                "False better or worse (%)": _percent(rates.wrong_sign),
                "False bound (%)": _percent(rates.wrong_bound) if boundary else "–",
                "Welch used (%)": _percent(rates.welch),
            }
        )
        print(" ".join(rows[-1].values()), flush=True)
    return to_markdown(pd.DataFrame(rows))


def power_table() -> str:
    rows = [{"Seeds": str(seeds), "Detected (%)": _percent(power(seeds))} for seeds in POWER_SEEDS]
    return to_markdown(pd.DataFrame(rows))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    write_text(PAGE, filled_page(PAGE, {"power": power_table(), "rates": error_table()}))
