"""The pre-declared rule that turns a difference between two networks into a verdict, and the comparisons of a study."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from senet_lib.analysis.contrasts import Estimate, RunModel, detectable, simultaneous
from senet_lib.analysis.stats import (
    LEVEL,
    MARGIN,
    Interval,
    bca_difference,
    probability_of_superiority,
    sign_flip_p,
)

BETTER, WORSE, INCONCLUSIVE = "better", "worse", "inconclusive"
EQUIVALENT = f"equivalent within {100 * MARGIN:g} pp"
NO_GAIN, NO_LOSS = f"no gain of {100 * MARGIN:g} pp or more", f"no loss of {100 * MARGIN:g} pp or more"
EARLY = "early training"
UNPLANNED = "not planned, no verdict"
VERDICTS = (BETTER, WORSE, EQUIVALENT, NO_GAIN, NO_LOSS, INCONCLUSIVE, EARLY)

# A network is in early training if it misclassifies more than half of the training images in the last epoch, or if
# its training accuracy rose by more than 5 pp in the last epoch.
EARLY_BELOW, EARLY_RISE = 0.5, 0.05

FEWEST_FOR_BCA = 5  # below, the bootstrap's interval is much too narrow
FEWEST_FOR_SIGN_FLIPS = 6  # below, no result can be significant: the smallest p of five pairs is 0.0625


@dataclass(frozen=True)
class Comparison:
    """One network against another.

    estimate: the difference treatment minus baseline; its interval and p are corrected over the planned comparisons of
    the study. bca and p_sign_flip are paired by seed, uncorrected, and do not affect the verdict; they are None unless
    one machine trained both networks, or the same machine both runs of each seed. superiority compares runs of
    different seeds, too, so it is None unless one machine trained both networks.
    """

    treatment: str
    baseline: str
    n_treatment: int
    n_baseline: int
    n_pairs: int  # seeds that both networks have
    estimate: Estimate
    bca: Interval | None
    p_sign_flip: float | None
    superiority: float | None  # P(treatment > baseline) + P(equal) / 2
    detectable: float | None  # smallest true difference detected with 80 % power at this n and spread
    verdict: str

    @property
    def difference(self) -> Interval:
        return self.estimate.interval


def verdict(difference: Interval, *, early: bool = False, margin: float = MARGIN) -> str:
    """The rule, applied to the simultaneous interval of a planned difference; `in_words` states it."""
    if not difference.exists:
        return INCONCLUSIVE
    if early:
        return EARLY
    if difference.low > 0:
        return BETTER
    if difference.high < 0:
        return WORSE
    no_gain, no_loss = difference.high < margin, difference.low > -margin
    if no_gain and no_loss:
        return EQUIVALENT
    return NO_GAIN if no_gain else NO_LOSS if no_loss else INCONCLUSIVE


def in_words(margin: float = MARGIN, level: float = LEVEL) -> str:
    """The rule that `verdict` follows, in words."""
    pp = f"{100 * margin:g} pp"
    return (
        f"Every verdict follows from the {100 * level:g} % confidence interval of the mean difference; the intervals of"
        " a study hold for all of its planned comparisons at once. Better (worse): the interval lies entirely above"
        f" (below) 0. Otherwise, equivalent within {pp}: it lies entirely within ±{pp}; no gain of {pp} or more: its"
        f" upper end is below +{pp}; no loss of {pp} or more: its lower end is above −{pp}; inconclusive: all other"
        " cases, including comparisons without an interval. Early training, which replaces every verdict that rests on"
        f" an interval: one of the two networks misclassifies more than {100 * (1 - EARLY_BELOW):g} % of the training"
        f" images in the last epoch, or its training accuracy rose by more than {100 * EARLY_RISE:g} pp in the last"
        " epoch."
    )


def compare(
    values: Mapping[str, Mapping[int, float]],
    pairs: Sequence[tuple[str, str]],
    rng: np.random.Generator,
    *,
    machines: Mapping[str, Mapping[int, str]] | None = None,
    early: Collection[str] = (),
    planned: int | None = None,
) -> list[Comparison]:
    """Every comparison (treatment, baseline) of `pairs` whose networks both have a finished run.

    values: network -> {seed: accuracy}; the networks that are not compared, too, add to the pooled deviation.
    machines: network -> {seed: machine}. early: networks in early training. planned: the number of planned comparisons,
    if more than `pairs`; 0: these are not planned, so each is considered alone and has no verdict.
    """
    pairs = [pair for pair in pairs if all(values.get(label) for label in pair)]
    model = RunModel(values, machines)
    contrasts = [{treatment: 1.0, baseline: -1.0} for treatment, baseline in pairs]
    if planned == 0:
        estimates = [simultaneous(model, [contrast])[0] for contrast in contrasts]
    else:
        estimates = simultaneous(model, contrasts, planned)
    found = []
    for (treatment, baseline), estimate in zip(pairs, estimates, strict=True):
        decided = verdict(estimate.interval, early=bool({treatment, baseline} & set(early)))
        ours, theirs = values[treatment], values[baseline]
        common = sorted(set(ours) & set(theirs))
        paired = [ours[seed] for seed in common], [theirs[seed] for seed in common]
        comparable = machines is None or on_the_same_machines(machines, treatment, baseline)
        one_machine = comparable and (machines is None or len({*machines[treatment].values()}) == 1)
        usable = len(common) if comparable else 0  # pairs
        found.append(
            Comparison(
                treatment=treatment,
                baseline=baseline,
                n_treatment=len(ours),
                n_baseline=len(theirs),
                n_pairs=len(common),
                estimate=estimate,
                bca=bca_difference(*paired, rng) if usable >= FEWEST_FOR_BCA else None,
                p_sign_flip=sign_flip_p(*paired, rng) if usable >= FEWEST_FOR_SIGN_FLIPS else None,
                superiority=probability_of_superiority([*ours.values()], [*theirs.values()]) if one_machine else None,
                detectable=None
                if estimate.error is None
                else detectable(estimate.error, estimate.degrees, estimate.critical),
                verdict=UNPLANNED if planned == 0 else decided,
            )
        )
    return found


def on_the_same_machines(machines: Mapping[str, Mapping[int, str]], first: str, second: str) -> bool:
    """Whether one machine trained all runs of both networks, or the same machine both runs of each seed."""
    places = machines[first], machines[second]
    return places[0] == places[1] or len({*places[0].values(), *places[1].values()}) == 1
