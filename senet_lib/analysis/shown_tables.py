"""The tables of `tables.py` as text, with units; accuracies in percent."""

from collections.abc import Mapping

import pandas as pd

from senet_lib.analysis.format import (
    count,
    difference,
    duration,
    interval,
    mean_spread,
    millions,
    p_value,
    percent,
    points,
    run_seconds,
    seconds,
    span,
)
from senet_lib.analysis.stats import ONE_SEED
from senet_lib.analysis.tables import CLASS_PAIR, attention_blocks

# Columns of `comparisons` that a study may lack; its caption explains those that it has
BCA, SIGN_FLIP, DETECTABLE = "BCa 95 % CI (pp)", "Sign-flip p", "Detectable (pp)"
SUPERIOR = "P(superior)"
MEAN_CI = "95 % CI of the accuracy (%)"


def networks(
    table: pd.DataFrame,
    metric: str,
    baseline: str,
    *,
    changes: Mapping[str, str] | None = None,
    sources: bool = True,
) -> pd.DataFrame:
    """One row per network, the accuracy and the difference first; columns that would be empty are omitted.

    changes: label -> what is different about it, an additional column. sources: whether a published accuracy is
    followed by its source.
    """
    one_control = set(table["control"].dropna()) <= {baseline}
    unit = "pp, no interval" if table["difference_low"].isna().all() else "pp"
    shown = pd.DataFrame(
        {
            "Network": table["label"],
            "Changes": [changes[label] or "none" for label in table["label"]] if changes else "none",
            f"{metric.capitalize()} (%)": [
                mean_spread(row.mean, row.sd, row.n, row.planned) for row in table.itertuples()
            ],
            f"Difference from {baseline if one_control else 'its control'} ({unit})": [
                "baseline" if row.label == baseline and pd.isna(row.control) else found
                for row, found in zip(
                    table.itertuples(),
                    _differences(table, "difference", "difference_low", "difference_high"),
                    strict=True,
                )
            ],
            "Control": "" if one_control else table["control"].fillna(""),
            "Parameters": table["params"].map(count),
            "MACs (M)": table["macs"].map(millions),
            MEAN_CI: [interval(row.low, row.high, row.n) for row in table.itertuples()],
            "Training time per epoch (s)": table["seconds_per_epoch"].map(seconds),
            "Published (%)": [
                "" if pd.isna(row.published) else percent(row.published) + (f", {row.published_source}" * sources)
                for row in table.itertuples()
            ],
        }
    )
    if "tta_mean" in table:
        augmented = f"{metric.capitalize()} with test-time augmentation (%)"
        shown.insert(shown.columns.get_loc(MEAN_CI) + 1, augmented, [_tta(row) for row in table.itertuples()])
    empty = ("", "none", "not compared", "baseline", ONE_SEED)
    return shown[[name for name in shown if not shown[name].isin(empty).all()]]


def _tta(row) -> str:
    if pd.isna(row.tta_mean):
        return "none"
    return percent(row.tta_mean) + ("" if pd.isna(row.tta_low) else f" ({span(row.tta_low, row.tta_high, percent)})")


def models(table: pd.DataFrame) -> pd.DataFrame:
    carried = table["model"].map(attention_blocks)
    return pd.DataFrame(
        {
            "Network": table["label"],
            "Model": table["model"],
            "Blocks with SE or SK": ["unknown" if found is None else f"{found[0]} of {found[1]}" for found in carried],
            "Options set by the study": table["knobs"].replace("", "none"),
        }
    )


def comparisons(table: pd.DataFrame, caveats: Mapping[tuple[str, str], str] | None = None) -> pd.DataFrame:
    """One row per comparison, its verdict first, then its caveat; columns without a value are omitted.

    caveats: from `sentences.caveats`.
    """
    n = [f"{a}" if a == b else f"{a} and {b}" for a, b in zip(table["n_treatment"], table["n_baseline"], strict=True)]
    pairs = zip(table["treatment"], table["baseline"], strict=True)
    shown = pd.DataFrame(
        {
            "Comparison": _pair_names(table),
            "Verdict": table["verdict"],
            "Caveat": [(caveats or {}).get(pair, "none") for pair in pairs],
            "Difference (pp, no interval)" if table["low"].isna().all() else "Difference, 95 % CI (pp)": _differences(
                table, "difference", "low", "high"
            ),
            "p": table["p"].map(p_value),
            "n": n,
            BCA: [
                "none" if pd.isna(row.bca_low) else span(row.bca_low, row.bca_high, points)
                for row in table.itertuples()
            ],
            SIGN_FLIP: table["sign_flip_p"].map(p_value),
            SUPERIOR: [
                "none"
                if min(row.n_treatment, row.n_baseline) < 2 or pd.isna(row.superiority)
                else f"{row.superiority:.2f}"
                for row in table.itertuples()
            ],
            DETECTABLE: ["none" if pd.isna(value) else f"{100 * value:.2f}" for value in table["detectable"]],
        }
    )
    return shown[[name for name in shown if not (shown[name] == "none").all()]] if len(shown) else shown


def mcnemar(table: pd.DataFrame) -> pd.DataFrame:
    """One row per comparison, with the p of each seed; with a single seed, also the counts."""
    seeds = sorted(table["seed"].unique())
    if len(seeds) == 1:
        return pd.DataFrame(
            {
                "Trained models": _pair_names(table),
                "Correct by the first only": table["only_treatment"].map(count),
                "Correct by the second only": table["only_baseline"].map(count),
                "Exact p": table["p"].map(p_value),
            }
        )
    rows = []
    for (treatment, baseline), found in table.groupby(["treatment", "baseline"], sort=False):
        p = found.set_index("seed")["p"]
        row = {"Trained models": f"{treatment} against {baseline}"}
        rows.append(row | {f"p, seed {seed}": p_value(p[seed]) if seed in p else "" for seed in seeds})
    return pd.DataFrame(rows)


def confused_pairs(table: pd.DataFrame) -> pd.DataFrame:
    pairs = [f"{first} / {second}" for first, second in zip(*(table[name] for name in CLASS_PAIR), strict=True)]
    shares = {f"{label} (%)": table[label].map(percent) for label in table.columns[2:]}
    return pd.DataFrame({"Classes": pairs, **shares})


def cost(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    def with_ratio(value: str, ratio: float) -> str:
        return value if pd.isna(ratio) else f"{value} ({ratio:.2f}x)"

    columns = {
        "Parameters": ("params", count),
        "MACs (M)": ("macs", millions),
        "Training time per epoch (s)": ("seconds_per_epoch", seconds),
        "Training time per run (s)": ("train_seconds", run_seconds),
    }
    compared = f" (ratio to {baseline})" if table["params_factor"].notna().any() else ""
    shown = {
        f"{title}{compared}": [
            with_ratio(format_value(value), ratio)
            for value, ratio in zip(table[column], table[f"{column}_factor"], strict=True)
        ]
        for title, (column, format_value) in columns.items()
        if table[column].notna().any()
    }
    return pd.DataFrame({"Network": table["label"], **shown} if shown else {})


def time_to(table: pd.DataFrame) -> pd.DataFrame:
    """One row per network, one column per threshold that some run reaches; no rows if no run reaches any."""
    reached = table[table.groupby("threshold")["reached"].transform("sum") > 0]
    rows = []
    for label, found in reached.groupby("label", sort=False):
        row = {"Network": label}
        rows.append(row | {f"To {100 * goal.threshold:g} % (s)": _goal(goal) for goal in found.itertuples()})
    return pd.DataFrame(rows)


def _goal(goal) -> str:
    """'403 (398 to 410), 3 of 3 runs': mean (smallest to largest); no mean unless all of several runs reach it."""
    if not goal.n:
        return "no finished run"
    of = f"{goal.reached} of {goal.n} runs"
    if not goal.reached:
        return of
    seen = run_seconds(goal.min) if goal.reached == 1 else span(goal.min, goal.max, run_seconds)
    if goal.reached == goal.n > 1:
        seen = f"{run_seconds(goal.mean)} ({seen})"
    return f"{seen}, {of}"


def published(table: pd.DataFrame, setting: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Network": table["label"],
            f"Ours (%; {setting})": [
                "no finished run"
                if pd.isna(row.mean)
                else percent(row.mean)
                + ("" if pd.isna(row.low) else f" ({span(row.low, row.high, percent)})")
                + f", n = {row.n}"
                for row in table.itertuples()
            ],
            "Published (%)": [
                percent(row.published)
                + (
                    ""
                    if pd.isna(row.published_low)
                    else f" (Wilson {span(row.published_low, row.published_high, percent)})"
                )
                + (", number of runs not stated" if pd.isna(row.published_runs) else f", n = {row.published_runs:.0f}")
                for row in table.itertuples()
            ],
            "Ours minus published (pp)": ["" if pd.isna(gap) else points(gap) for gap in table["gap"]],
            "Source and setting of the published value": table["published_source"],
        }
    )


def runs(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One row per run that was started."""
    table = table[table["status"] != "missing"]
    return pd.DataFrame(
        {
            "Run": table["run_id"],
            "Seed": table["seed"].astype(str),
            "Status": table["status"],
            "Epochs": table["epochs"].astype(str),
            f"{metric.capitalize()} (%)": table["test_accuracy"].map(percent),
            "Loss": ["" if pd.isna(value) else f"{value:.4f}" for value in table["test_loss"]],
            "Training time": table["train_seconds"].map(duration),
            "Error": table["error"].fillna(""),
        }
    )


def settings(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"setting": "Setting", "value": "Value"})


def _differences(table: pd.DataFrame, point: str, low: str, high: str) -> list[str]:
    """The differences in these columns with their intervals; without a word on intervals if no row has one."""
    if table[low].isna().all():
        return ["not compared" if pd.isna(value) else points(value) for value in table[point]]
    return [difference(*values) for values in zip(table[point], table[low], table[high], strict=True)]


def _pair_names(table: pd.DataFrame) -> list[str]:
    return [f"{row.treatment} against {row.baseline}" for row in table.itertuples()]
