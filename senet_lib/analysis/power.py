"""What a study can find, before it is run: the smallest difference that its seeds detect, and the seeds that a
difference needs.

Assumes that all networks have the same standard deviation over seeds. Each planned comparison is tested at
alpha / (number of comparisons), the level of Holm's first step, so a study detects at least what is stated here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from senet_lib.analysis.format import percent
from senet_lib.analysis.stats import ALPHA, MARGIN, POWER, detectable_difference

MOST_SEEDS = 1000


@dataclass(frozen=True)
class Spread:
    """The standard deviation over seeds within networks, pooled over `networks` networks with `runs` runs in all."""

    sd: float
    runs: int
    networks: int


def pooled_spread(samples: Iterable[Sequence[float]]) -> Spread | None:
    """The pooled standard deviation of the samples (one per network, one accuracy per seed), weighted by degrees of
    freedom. None unless a network has two different accuracies."""
    samples = [np.asarray(values, dtype=float) for values in samples if len(values) > 1]
    degrees = sum(len(values) - 1 for values in samples)
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in samples)
    if not squares > 0:
        return None
    return Spread(float(np.sqrt(squares / degrees)), sum(map(len, samples)), len(samples))


def detectable(sd: float, seeds: int, comparisons: int) -> float | None:
    """The smallest true difference that `seeds` seeds per network detect with 80 % power; None for one seed."""
    return detectable_difference(sd, sd, seeds, seeds, alpha=ALPHA / comparisons)


def seeds_needed(difference: float, sd: float, comparisons: int) -> int | None:
    """The seeds per network that detect a true difference with 80 % power; None above 1,000."""
    low, high = 1, MOST_SEEDS  # `low` seeds do not suffice; the detectable difference falls with the seeds
    if detectable(sd, high, comparisons) > difference:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(sd, middle, comparisons) <= difference else (middle, high)
    return high


def power_lines(spread: Spread | None, source: str, seeds: int, comparisons: int) -> list[str]:
    """Sentences for `make plan`. source: whose runs `spread` was computed from."""
    if spread is None:
        return ["Power: unknown until a network of this study has finished runs of two seeds."]
    tests = f"{comparisons} planned comparisons" if comparisons > 1 else "1 planned comparison"
    found, needed = detectable(spread.sd, seeds, comparisons), seeds_needed(MARGIN, spread.sd, comparisons)
    needs = f"{needed} seeds" if needed else f"more than {MOST_SEEDS:,} seeds"
    return [
        f"Power of the {tests}, at a standard deviation over seeds of {percent(spread.sd)} pp "
        f"({spread.runs} runs of {spread.networks} networks, {source}):",
        f"  {seeds} seeds per network detect a difference of {percent(found)} pp with {100 * POWER:g} % power."
        if found
        else "  One seed per network detects nothing: there is no interval.",
        f"  A difference of {100 * MARGIN:g} pp needs {needs} per network.",
    ]
