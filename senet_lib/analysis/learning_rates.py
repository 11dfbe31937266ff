"""Learning-rate checks: networks trained at several learning rates, and whether the sign of a difference depends on the
rate that they share.

A check is a study with a validation split in which networks occur again with another `lr` and everything else equal.
Nothing is said about a study evaluated on test images: a rate chosen there would be chosen on the test set.
"""

import json
from dataclasses import dataclass

import pandas as pd

from senet_lib.analysis.comparisons import accuracies, data_of_networks, planned_comparisons, run_model
from senet_lib.analysis.format import percent, points
from senet_lib.analysis.markup import escape_markdown
from senet_lib.results import StudyResults


@dataclass(frozen=True)
class Signs:
    """A difference in mean accuracy at the common learning rate, and with both networks at their own best rates."""

    treatment: str
    baseline: str
    common: float  # fractions
    own: float
    best: tuple[float, float]  # the learning rates of treatment and baseline

    @property
    def differ(self) -> bool:
        """Whether the two differences have different signs, to a hundredth of a percentage point."""
        return round(self.common, 4) * round(self.own, 4) < 0


def by_rate(results: StudyResults) -> pd.DataFrame:
    """One row per network and learning rate, of the networks with several rates.

    Columns: network (its label at the study's own rate), lr, n (finished runs), mean (validation accuracy; NaN without
    a finished run). No rows if a run was evaluated on test images, or if the runs used different data.
    """
    rows, values = [], accuracies(results)
    on_validation = set(results.done["evaluated_on"]) == {"holdout"}
    if on_validation and len(set.union(*data_of_networks(results).values())) == 1:
        common = results.study["recipe"]["lr"]
        for labels in _labels_by_rate(results, common):
            for lr, label in sorted(labels.items()):
                found = pd.Series(values[label], dtype=float)
                rows.append({"network": labels[common], "lr": lr, "n": len(found), "mean": found.mean()})
    return pd.DataFrame(rows, columns=["network", "lr", "n", "mean"])


def _labels_by_rate(results: StudyResults, common: float) -> list[dict[float, str]]:
    """For each network with several rates, one of them the common one: learning rate -> label."""
    groups: dict[str, dict[float, str]] = {}
    for label, network in results.study["networks"].items():
        recipe = dict(network.get("recipe") or {})
        lr = recipe.pop("lr", common)
        same = json.dumps([network["model"], network.get("knobs") or {}, recipe], sort_keys=True)
        groups.setdefault(same, {}).setdefault(lr, label)
    return [labels for labels in groups.values() if common in labels and len(labels) > 1]


def best_rates(table: pd.DataFrame) -> dict[str, float]:
    """network -> its learning rate with the highest mean; only networks whose rates all have equally many runs.
    `table` from `by_rate`."""
    found = {}
    for network, rows in table.groupby("network", sort=False):
        if rows["n"].min() == rows["n"].max() > 0:
            found[network] = float(rows.loc[rows["mean"].idxmax(), "lr"])
    return found


def signs(results: StudyResults, table: pd.DataFrame) -> list[Signs]:
    """The planned comparisons whose networks have finished runs at all rates. `table` from `by_rate`."""
    mean = table.set_index(["network", "lr"])["mean"]
    best, common = best_rates(table), results.study["recipe"]["lr"]
    found = []
    for ours, theirs in planned_comparisons(results):
        if ours in best and theirs in best:
            shared = float(mean[ours, common] - mean[theirs, common])
            own = float(mean[ours, best[ours]] - mean[theirs, best[theirs]])
            found.append(Signs(ours, theirs, shared, own, (best[ours], best[theirs])))
    return found


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network, with its accuracy at each rate and its best rate. `table` from `by_rate`."""
    best, rows = best_rates(table), []
    for network, found in table.groupby("network", sort=False):
        of = dict(zip(found["lr"], found["mean"], strict=True))
        row = {"Network": network} | {f"lr {lr:g} (%)": percent(of.get(lr)) for lr in sorted(set(table["lr"]))}
        rows.append(row | {"Best rate": f"{best[network]:g}" if network in best else "open"})
    return pd.DataFrame(rows)


def in_words(results: StudyResults, table: pd.DataFrame, sd: float | None = None) -> str:
    """Whether the signs differ, one item per planned comparison, then what limits the check; empty if no network has
    several rates. `table` from `by_rate`.

    sd: standard deviation of a run's accuracy over seeds, of the study that is checked; by default that of the check.
    """
    if table.empty:
        return ""
    common = results.study["recipe"]["lr"]
    compared = signs(results, table)
    lines = [f"- {_one_sign(pair, common)}" for pair in compared]
    if not compared:
        lines.append("- No planned comparison has finished runs of both networks at all learning rates yet.")
    for network, best in best_rates(table).items():
        tried = table.loc[table["network"] == network, "lr"]
        ends = {tried.min(): ("lowest", "lower"), tried.max(): ("highest", "higher")}
        if best in ends:
            extreme, beyond = ends[best]
            lines.append(
                f"- The best rate of {escape_markdown(network)} ({best:g}) is the {extreme} one tried. A {beyond} one"
                " may be better."
            )
    if (n := int(table["n"].min())) == 1:
        lines.append("- One seed per learning rate locates the range but cannot separate adjacent values.")
    if compared:
        lines.append(f"- {_chance(run_model(results).sd if sd is None else sd, n)}")
    return "\n".join(lines)


def _one_sign(pair: Signs, common: float) -> str:
    ours, theirs = escape_markdown(pair.treatment), escape_markdown(pair.baseline)
    return (
        f"{ours} minus {theirs}: {points(pair.common)} pp at the common learning rate {common:g}, {points(pair.own)} pp"
        f" with each at its own best rate ({' and '.join(f'{rate:g}' for rate in pair.best)})."
        f" The signs {'differ' if pair.differ else 'do not differ'}."
    )


def _chance(sd: float | None, n: int) -> str:
    """How far apart two means of n runs are by the seeds alone; n: the smallest number of seeds at a rate."""
    if sd is None:
        return (
            "How much such a difference varies between seeds is not known here, so these signs are observations of"
            " single runs, not findings."
        )
    apart = percent(1.96 * (2 / n) ** 0.5 * sd)
    return (
        f"By the seeds alone, 95 % of the differences between two equally good networks lie within ±{apart} pp"
        f" (standard deviation of a run {percent(sd)} pp). Choosing the best rate adds to this. A smaller difference"
        " establishes no sign."
    )
