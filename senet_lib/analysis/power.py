"""What a study can find, before it is run: the smallest difference that its seeds detect, and the seeds that a
difference needs.

Assumes that all networks have the same standard deviation over seeds and the same seeds, and one machine, and that the
deviations are not found to differ: Welch's intervals, which the rule then uses, detect less (docs/statistics.md). A
difference is detected if the simultaneous interval of its comparison excludes 0, as the rule demands.
"""

from collections.abc import Sequence

import numpy as np

from senet_lib.analysis.contrasts import JointT, RunModel, correlation, detectable
from senet_lib.analysis.format import percent
from senet_lib.analysis.stats import MARGIN, POWER

MOST_SEEDS = 1000


def detectable_by_plan(sd: float, seeds: int, pairs: Sequence[tuple[str, str]], networks: int) -> float | None:
    """The smallest true difference that one of the planned comparisons detects with 80 % power, if every network has
    this number of seeds; None for one seed."""
    if seeds < 2:
        return None
    labels = sorted({label for pair in pairs for label in pair})
    signs = np.array([[(label == pair[0]) - (label == pair[1]) for label in labels] for pair in pairs], dtype=float)
    degrees = networks * (seeds - 1)
    critical = JointT(correlation(signs), degrees).critical()
    return detectable(sd * np.sqrt(2 / seeds), degrees, critical)


def seeds_needed(difference: float, sd: float, pairs: Sequence[tuple[str, str]], networks: int) -> int | None:
    """The seeds per network that detect a true difference with 80 % power; None above 1,000."""
    low, high = 1, MOST_SEEDS  # `low` seeds do not suffice; the detectable difference falls with the seeds
    if detectable_by_plan(sd, high, pairs, networks) > difference:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable_by_plan(sd, middle, pairs, networks) <= difference else (middle, high)
    return high


def power_lines(
    model: RunModel | None, source: str, seeds: int, pairs: Sequence[tuple[str, str]], networks: int
) -> list[str]:
    """Sentences for `make plan`.

    model: finished runs that give the standard deviation; source: where they are. pairs: the planned comparisons.
    networks: the number of networks of the study.
    """
    if model is None:
        return ["Power: unknown until a network of this study has finished runs of two seeds."]
    tests = f"{len(pairs)} planned comparisons" if len(pairs) > 1 else "1 planned comparison"
    found = detectable_by_plan(model.sd, seeds, pairs, networks)
    needed = seeds_needed(MARGIN, model.sd, pairs, networks)
    needs = f"{needed} seeds" if needed else f"more than {MOST_SEEDS:,} seeds"
    return [
        f"Power of the {tests}, at a standard deviation over seeds of {percent(model.sd)} pp "
        f"({len(model.values)} runs of {len(model.labels)} networks, {source}):",
        f"  {seeds} seeds per network detect a difference of {percent(found)} pp with {100 * POWER:g} % power,"
        " if the deviations of the networks are not found to differ."
        if found
        else "  One seed per network detects nothing: there is no interval.",
        f"  A difference of {100 * MARGIN:g} pp needs {needs} per network.",
        *["  In these runs the deviations were found to differ, so less is detected, and more seeds are needed."]
        * model.unequal,
    ]
