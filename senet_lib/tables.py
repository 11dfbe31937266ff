"""A study's results as the tables of its report: numbers first (fractions, seconds), then as a person reads them.

Every function takes `StudyResults` and returns a DataFrame of numbers; `shown_*` turns one into text with units, in
percent. `to_html` and `to_markdown` write any of them; whatever came from outside (labels, class names, errors) is
escaped there and nowhere else.
"""

import html
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from senet_lib import stats
from senet_lib.results import SPLITS, StudyResults

MINUS = "\N{MINUS SIGN}"
# Images of the test sets that published accuracies are measured on; for Wilson's interval
TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "fashion_mnist": 10_000}
BOOTSTRAP_SEED = 0
THRESHOLDS = (0.90, 0.92, 0.93, 0.94)  # accuracies to which CIFAR-10's fast recipes are timed


# -------------------------------------------------------------------------------------------------- what a study holds


def evaluated(results: StudyResults) -> str:
    """What the evaluated images are called: 'test', or 'validation' with a validation split."""
    on = set(results.done["evaluated_on"]) or {"holdout" if results.study["recipe"].get("holdout") else "test"}
    return " or ".join(words for split, words in SPLITS.items() if split in on)


def models(results: StudyResults) -> dict[str, str]:
    """label -> model name, in the study's order: what the plots need."""
    return {label: network["model"] for label, network in results.study["networks"].items()}


def finished_history(results: StudyResults) -> pd.DataFrame:
    """The history of finished runs: a curve that stops half-way would bend the mean."""
    return results.history[results.history["run_id"].isin(results.done["run_id"])]


def accuracies(results: StudyResults) -> dict[str, dict[int, float]]:
    """label -> {seed: last epoch's accuracy}, finished runs only; every network of the study is a key."""
    found: dict[str, dict[int, float]] = {label: {} for label in results.labels}
    for run in results.done.itertuples():
        found[run.label][run.seed] = float(run.test_accuracy)
    return found


def planned_comparisons(results: StudyResults) -> list[tuple[str, str]]:
    """(treatment, baseline) of every comparison: those that the study names, else each network with the baseline."""
    named = results.study.get("comparisons")
    if named:
        return [tuple(pair) for pair in named]
    baseline = results.study["baseline"]
    return [(label, baseline) for label in results.labels if label != baseline]


def compare(results: StudyResults) -> list[stats.Comparison]:
    """The study's comparisons by the pre-declared rule; the bootstrap's seed is fixed."""
    return stats.compare_all(accuracies(results), planned_comparisons(results), np.random.default_rng(BOOTSTRAP_SEED))


# ------------------------------------------------------------------------------------------------------------- numbers


def networks(results: StudyResults, comparisons: Sequence[stats.Comparison]) -> pd.DataFrame:
    """One row a network: label, model, knobs, params, macs, n, planned, mean, sd, low, high, difference and its low and
    high (to the baseline), seconds_per_epoch (None where the study is not timed), published, published_runs,
    published_source; where a run has an accuracy with test-time augmentation also its tta_mean, tta_low, tta_high,
    beside the plain accuracy's and never in them."""
    baseline = results.study["baseline"]
    against = {pair.treatment: pair.difference for pair in comparisons if pair.baseline == baseline}
    rows = []
    for label, network in results.study["networks"].items():
        runs = results.runs[results.runs["label"] == label]
        done = runs[runs["status"] == "done"]
        row = {"label": label, "model": network["model"], "knobs": _knobs(network.get("knobs"))}
        row |= {"params": _first(done["params"]), "macs": _first(done["macs"]), "n": len(done), "planned": len(runs)}
        row |= _sample_columns(done["test_accuracy"])
        difference = against.get(label)
        row |= {
            "difference": difference.point if difference else None,
            "difference_low": difference.low if difference else None,
            "difference_high": difference.high if difference else None,
            "seconds_per_epoch": None,
        }
        if len(done) and results.timed:
            row["seconds_per_epoch"] = done["seconds_per_epoch"].astype(float).mean()
        published = network.get("published") or {}
        row |= {
            "published": published.get("accuracy"),
            "published_runs": published.get("runs"),
            "published_source": published.get("source"),
        }
        if results.done["tta_accuracy"].notna().any():  # a study without it has the same table as ever
            augmented = _sample_columns(done["tta_accuracy"].dropna())
            row |= {f"tta_{name}": augmented[name] for name in ("mean", "low", "high")}
        rows.append(row)
    return _numeric(pd.DataFrame(rows), except_for=("label", "model", "knobs", "published_source"))


def comparison_table(comparisons: Sequence[stats.Comparison]) -> pd.DataFrame:
    """One row a comparison, with everything that `stats.Comparison` holds."""
    rows = [
        {
            "treatment": pair.treatment,
            "baseline": pair.baseline,
            "n_treatment": pair.n_treatment,
            "n_baseline": pair.n_baseline,
            "difference": pair.difference.point,
            "welch_low": pair.difference.low,
            "welch_high": pair.difference.high,
            "welch_p": pair.welch.p,
            "welch_p_holm": pair.p_welch_holm,
            "n_pairs": pair.n_pairs,
            "bca_low": pair.bca.low,
            "bca_high": pair.bca.high,
            "sign_flip_p": pair.p_sign_flip,
            "sign_flip_p_holm": pair.p_sign_flip_holm,
            "superiority": pair.superiority,
            "detectable": pair.detectable,
            "verdict": pair.verdict,
        }
        for pair in comparisons
    ]
    names = ["treatment", "baseline", "n_treatment", "n_baseline", "difference", "welch_low", "welch_high", "welch_p"]
    names += ["welch_p_holm", "n_pairs", "bca_low", "bca_high", "sign_flip_p", "sign_flip_p_holm", "superiority"]
    table = pd.DataFrame(rows, columns=[*names, "detectable", "verdict"])
    return _numeric(table, except_for=("treatment", "baseline", "verdict"))


def mcnemar(results: StudyResults) -> pd.DataFrame:
    """Exact McNemar of each comparison's two trained models, seed by seed: treatment, baseline, seed, only_treatment,
    only_baseline (images that it alone has right), p. Models evaluated on different images are left out."""
    correct = {
        run: (group["true"].to_numpy(), (group["true"] == group["predicted"]).to_numpy())
        for run, group in results.predictions.groupby(["label", "seed"], sort=False)
    }
    rows = []
    for treatment, baseline in planned_comparisons(results):
        for seed in results.study["seeds"]:
            if (treatment, seed) not in correct or (baseline, seed) not in correct:
                continue
            (true, ours), (same, theirs) = correct[treatment, seed], correct[baseline, seed]
            if not np.array_equal(true, same):
                continue
            test = stats.mcnemar_exact(ours, theirs)
            rows.append((treatment, baseline, seed, test.only_first, test.only_second, test.p))
    return pd.DataFrame(rows, columns=["treatment", "baseline", "seed", "only_treatment", "only_baseline", "p"])


def confusions(results: StudyResults) -> dict[str, np.ndarray]:
    """label -> (K, K) shares of each true class, rows = true, over all finished runs together; a class without an
    evaluated image is a row of NaN."""
    size = len(results.study["classes"])
    found = {}
    for label in results.labels:
        rows = results.predictions[results.predictions["label"] == label]
        if rows.empty:
            continue
        pairs = rows["true"].to_numpy(dtype=np.int64) * size + rows["predicted"].to_numpy(dtype=np.int64)
        counts = np.bincount(pairs, minlength=size * size).reshape(size, size)  # (K * K,) -> (K, K)
        with np.errstate(invalid="ignore"):
            found[label] = counts / counts.sum(axis=1, keepdims=True)
    return found


def class_accuracies(results: StudyResults) -> pd.DataFrame:
    """Accuracy within each class: label, class, n (seeds), mean, sd, low, high, and the difference to the baseline with
    its Welch interval (difference, difference_low, difference_high)."""
    classes, baseline = results.study["classes"], results.study["baseline"]
    right = results.predictions.assign(right=results.predictions["true"] == results.predictions["predicted"])
    shares = right.groupby(["label", "seed", "true"])["right"].mean() if len(right) else pd.Series(dtype=float)
    samples = {}
    for (label, _, index), value in shares.items():
        samples.setdefault((label, int(index)), []).append(float(value))
    rows = []
    for label in results.labels:
        for index, name in enumerate(classes):
            values = samples.get((label, index))
            if not values:
                continue
            row = {"label": label, "class": name, "n": len(values), **_sample_columns(values)}
            theirs = samples.get((baseline, index))
            if theirs and label != baseline:
                interval = stats.welch_difference(values, theirs).interval
                row |= {"difference": interval.point}
                row |= {"difference_low": interval.low, "difference_high": interval.high}
            rows.append(row)
    names = ["label", "class", "n", "mean", "sd", "low", "high", "difference", "difference_low", "difference_high"]
    return _numeric(pd.DataFrame(rows, columns=names), except_for=("label", "class"))


def confused_pairs(results: StudyResults, most: int = 8) -> pd.DataFrame:
    """The pairs of classes most often taken for one another, whichever way round: first, second, and one column a
    network: the share of the two classes' images that went to the other. Largest mean over the networks first."""
    shares, classes = confusions(results), results.study["classes"]
    rows = []
    for i, j in combinations(range(len(classes)), 2):
        row = {label: (matrix[i, j] + matrix[j, i]) / 2 for label, matrix in shares.items()}
        rows.append({"first": classes[i], "second": classes[j], **row})
    table = pd.DataFrame(rows, columns=["first", "second", *shares])
    order = table[list(shares)].mean(axis=1).sort_values(ascending=False, kind="stable").index if shares else []
    table = table.loc[order].head(most)
    return table[(table[list(shares)] > 0).any(axis=1)].reset_index(drop=True) if shares else table


def cost(results: StudyResults, table: pd.DataFrame) -> pd.DataFrame:
    """From `networks`: label, params, macs, seconds_per_epoch, and train_seconds (training of a whole run, mean over
    seeds), each also as a factor to the baseline's (`*_factor`). Without seconds where the study is not timed."""
    timed = results.done if results.timed else results.done.iloc[:0]
    whole = timed.groupby("label")["train_seconds"].apply(lambda values: values.astype(float).mean())
    table = table[["label", "model", "params", "macs", "seconds_per_epoch"]]
    table = table.assign(train_seconds=table["label"].map(whole).astype(float))
    reference = table[table["label"] == results.study["baseline"]]
    factors = {
        f"{column}_factor": table[column] / (reference[column].iloc[0] if len(reference) else np.nan)
        for column in ("params", "macs", "seconds_per_epoch", "train_seconds")
    }
    return table.assign(**factors)


def time_to(results: StudyResults, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
    """Seconds of training, without the evaluations, until the end of the first epoch whose evaluated accuracy is at
    least the threshold; it may fall below it again. One row a network and threshold: label, threshold, n (finished
    runs), reached (how many of them ever do), min and max over those, and mean, which is there only if all n do: over
    those alone it would flatter a network whose slow runs never get there."""
    history = finished_history(results).astype({"train_seconds": float}).sort_values("epoch", kind="stable")
    history = history.assign(seconds=history.groupby("run_id")["train_seconds"].cumsum())
    rows = []
    for label in results.labels:
        n = int((results.done["label"] == label).sum())
        for threshold in thresholds:
            there = history[(history["label"] == label) & (history["test_accuracy"] >= threshold)]
            first = there.groupby("run_id")["seconds"].first().astype(float)
            row = {"label": label, "threshold": threshold, "n": n, "reached": len(first)}
            row["mean"] = first.mean() if len(first) == n else None
            rows.append(row | {"min": first.min(), "max": first.max()})
    names = ["label", "threshold", "n", "reached", "mean", "min", "max"]
    return _numeric(pd.DataFrame(rows, columns=names), except_for=("label",))


def published(results: StudyResults, table: pd.DataFrame) -> pd.DataFrame:
    """From `networks`, where there is a published accuracy: ours beside it, with Wilson's interval for a single
    published run on a test set of known size, and where it was published."""
    rows = []
    images = TEST_IMAGES.get(results.study["data"])
    for row in table[table["published"].notna()].itertuples():
        single = pd.isna(row.published_runs) or row.published_runs == 1
        wilson = stats.wilson_interval(round(row.published * images), images) if images and single else None
        rows.append(
            {
                "label": row.label,
                "mean": row.mean,
                "low": row.low,
                "high": row.high,
                "n": row.n,
                "published": row.published,
                "published_low": wilson.low if wilson else None,
                "published_high": wilson.high if wilson else None,
                "published_runs": row.published_runs,
                "gap": row.mean - row.published,
                "published_source": row.published_source,
            }
        )
    names = [
        "label",
        "mean",
        "low",
        "high",
        "n",
        "published",
        "published_low",
        "published_high",
        "published_runs",
        "gap",
    ]
    return _numeric(pd.DataFrame(rows, columns=[*names, "published_source"]), except_for=("label", "published_source"))


def runs(results: StudyResults) -> pd.DataFrame:
    """Every planned run in the plan's order: run_id, label, seed, status, epochs (trained so far), the last epoch's
    accuracy and loss, train_seconds, error, resumed_anyway (where it went on from a state of other data, versions or
    threads, on demand)."""
    trained = results.history.groupby("run_id")["epoch"].max() if len(results.history) else pd.Series(dtype=float)
    table = results.runs[["run_id", "label", "seed", "status", "test_accuracy", "test_loss", "train_seconds", "error"]]
    table = table.assign(epochs=table["run_id"].map(trained).fillna(0).astype(int))
    table.loc[(table["status"] == "missing") & (table["epochs"] > 0), "status"] = "interrupted"
    anyway = {run: "; ".join(record.get("resumed_anyway", [])) for run, record in results.environments.items()}
    table = table.assign(resumed_anyway=[anyway.get(run, "") for run in table["run_id"]])
    return _numeric(table, except_for=("run_id", "label", "status", "error", "resumed_anyway"))


def environment(results: StudyResults) -> pd.DataFrame:
    """setting, value: what the runs' environments say; values that differ between runs are all there."""
    flat: dict[str, list[str]] = {}
    for record in results.environments.values():
        for key, value in _flatten(record):
            seen = flat.setdefault(key, [])
            if value not in seen:
                seen.append(value)
    rows = [(key, "; ".join(values)) for key, values in flat.items()]
    return pd.DataFrame(rows, columns=["setting", "value"])


def recipe(results: StudyResults) -> pd.DataFrame:
    """setting, value of the study's one recipe; then what single networks do otherwise, as 'lr of NETWORK'."""
    rows = [(key, _text(value)) for key, value in results.study["recipe"].items()]
    for label, network in results.study["networks"].items():
        rows += [(f"{key} of {label}", _text(value)) for key, value in (network.get("recipe") or {}).items()]
    return pd.DataFrame(rows, columns=["setting", "value"])


# ------------------------------------------------------------------------------------------------------- as people read


def shown_networks(table: pd.DataFrame, metric: str, baseline: str) -> pd.DataFrame:
    shown = pd.DataFrame(
        {
            "Network": table["label"],
            "Parameters": table["params"].map(count),
            "MACs (M)": table["macs"].map(millions),
            f"{metric.capitalize()} (%)": [
                mean_spread(row.mean, row.sd, row.n, row.planned) for row in table.itertuples()
            ],
            "95 % CI": [interval(row.low, row.high, row.n) for row in table.itertuples()],
            f"Difference to {baseline} (pp)": [
                "baseline"
                if row.label == baseline
                else difference(row.difference, row.difference_low, row.difference_high)
                for row in table.itertuples()
            ],
            "s / epoch": table["seconds_per_epoch"].map(seconds),
            "Published (%)": [
                "" if pd.isna(row.published) else f"{percent(row.published)}, {row.published_source}"
                for row in table.itertuples()
            ],
        }
    )
    if table["seconds_per_epoch"].isna().all():
        shown = shown.drop(columns="s / epoch")
    if "tta_mean" in table:
        title = f"{metric.capitalize()} with test-time augmentation (%)"
        shown.insert(shown.columns.get_loc("95 % CI") + 1, title, [_shown_tta(row) for row in table.itertuples()])
    return shown


def _shown_tta(row) -> str:
    if pd.isna(row.tta_mean):
        return "none"
    return f"{percent(row.tta_mean)} ({interval(row.tta_low, row.tta_high, row.n)})"


def shown_models(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Network": table["label"],
            "Model": table["model"],
            "What differs from the model's defaults": table["knobs"].replace("", "nothing"),
        }
    )


def shown_comparisons(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Comparison": _pair_names(table),
            "n": [
                str(row.n_treatment) if row.n_treatment == row.n_baseline else f"{row.n_treatment} and {row.n_baseline}"
                for row in table.itertuples()
            ],
            "Difference, Welch 95 % (pp)": [
                difference(row.difference, row.welch_low, row.welch_high) for row in table.itertuples()
            ],
            "BCa bootstrap 95 %": [
                "none" if pd.isna(row.bca_low) else span(row.bca_low, row.bca_high, points)
                for row in table.itertuples()
            ],
            "Welch p (Holm)": [p_pair(row.welch_p, row.welch_p_holm) for row in table.itertuples()],
            "Sign-flip p (Holm)": [p_pair(row.sign_flip_p, row.sign_flip_p_holm) for row in table.itertuples()],
            "P(superior)": [f"{row.superiority:.2f}" for row in table.itertuples()],
            "Detectable at 80 % (pp)": [
                "none" if pd.isna(row.detectable) else f"{100 * row.detectable:.2f}" for row in table.itertuples()
            ],
            "Verdict": table["verdict"],
        }
    )


def shown_mcnemar(table: pd.DataFrame) -> pd.DataFrame:
    """One row a comparison, the p of each seed; with the counts where there is one seed."""
    seeds = sorted(table["seed"].unique())
    if len(seeds) == 1:
        return pd.DataFrame(
            {
                "Trained models": _pair_names(table),
                "Right only in the first": table["only_treatment"].map(count),
                "Right only in the second": table["only_baseline"].map(count),
                "Exact p": table["p"].map(p_value),
            }
        )
    rows = []
    for (treatment, baseline), found in table.groupby(["treatment", "baseline"], sort=False):
        p = found.set_index("seed")["p"]
        row = {"Trained models": f"{treatment} against {baseline}"}
        rows.append(row | {f"p, seed {seed}": p_value(p[seed]) if seed in p else "" for seed in seeds})
    return pd.DataFrame(rows)


def shown_confused_pairs(table: pd.DataFrame) -> pd.DataFrame:
    pairs = [f"{first} / {second}" for first, second in zip(table["first"], table["second"], strict=True)]
    shares = {f"{label} (%)": table[label].map(percent) for label in table.columns[2:]}
    return pd.DataFrame({"Classes": pairs, **shares})


def shown_cost(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    def with_factor(value: str, factor: float) -> str:
        return value if pd.isna(factor) else f"{value} ({factor:.2f}x)"

    columns = {
        "Parameters": ("params", count),
        "MACs (M)": ("macs", millions),
        "Seconds per epoch": ("seconds_per_epoch", seconds),
        "Seconds of a run": ("train_seconds", run_seconds),
    }
    shown = {
        f"{title} (factor to {baseline})": [
            with_factor(format_value(value), factor)
            for value, factor in zip(table[column], table[f"{column}_factor"], strict=True)
        ]
        for title, (column, format_value) in columns.items()
        if table[column].notna().any()
    }
    return pd.DataFrame({"Network": table["label"], **shown})


def shown_time_to(table: pd.DataFrame) -> pd.DataFrame:
    """One row a network, a column for each threshold that a run reaches; without a row where none reaches any."""
    reached = table[table.groupby("threshold")["reached"].transform("sum") > 0]
    rows = []
    for label, found in reached.groupby("label", sort=False):
        row = {"Network": label}
        rows.append(row | {f"Seconds to {100 * goal.threshold:g} %": _shown_goal(goal) for goal in found.itertuples()})
    return pd.DataFrame(rows)


def _shown_goal(goal) -> str:
    """'403 (398 to 410) in 3 of 3': mean, smallest and largest; without the mean where it would leave runs out."""
    if not goal.n:
        return "no finished run"
    of = f"{goal.reached} of {goal.n}"
    if not goal.reached:
        return of
    seen = run_seconds(goal.min) if goal.reached == 1 else span(goal.min, goal.max, run_seconds)
    if goal.reached == goal.n > 1:
        seen = f"{run_seconds(goal.mean)} ({seen})"
    return f"{seen} in {of}"


def shown_published(table: pd.DataFrame, setting: str) -> pd.DataFrame:
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
                + (", runs not stated" if pd.isna(row.published_runs) else f", n = {row.published_runs:.0f}")
                for row in table.itertuples()
            ],
            "Ours minus published (pp)": ["" if pd.isna(gap) else points(gap) for gap in table["gap"]],
            "Published where, in which setting": table["published_source"],
        }
    )


def shown_runs(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Run": table["run_id"],
            "Seed": table["seed"].astype(str),
            "Status": table["status"] + table["resumed_anyway"].map(lambda where: ", resumed anyway" if where else ""),
            "Epochs": table["epochs"].astype(str),
            f"{metric.capitalize()} (%)": table["test_accuracy"].map(percent),
            "Loss": ["" if pd.isna(value) else f"{value:.4f}" for value in table["test_loss"]],
            "Training": table["train_seconds"].map(duration),
            "Error": table["error"].fillna(""),
        }
    )


def shown_settings(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(columns={"setting": "Setting", "value": "Value"})


# ---------------------------------------------------------------------------------------------------- single quantities


def percent(fraction: float | None) -> str:
    return "" if pd.isna(fraction) else f"{100 * fraction:.2f}"


def points(fraction: float) -> str:
    """A difference in percentage points, signed; a zero has no sign."""
    text = f"{100 * fraction:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", MINUS)


def span(low: float, high: float, format_value) -> str:
    return f"{format_value(low)} to {format_value(high)}"


def interval(low: float | None, high: float | None, n: int) -> str:
    if not pd.isna(low):
        return span(low, high, percent)
    return {0: "", 1: "n = 1: no interval"}.get(n, "all seeds alike: no interval")


def difference(point: float | None, low: float | None, high: float | None) -> str:
    if pd.isna(point):
        return "not compared"
    return f"{points(point)} ({'no interval' if pd.isna(low) else span(low, high, points)})"


def mean_spread(mean: float, sd: float | None, n: int, planned: int) -> str:
    if n == 0:
        return f"no finished run (of {planned})"
    size = f"n = {n}" if n == planned else f"n = {n} of {planned}"
    return f"{percent(mean)} ({size})" if pd.isna(sd) else f"{percent(mean)} ± {percent(sd)} ({size})"


def count(value: float | None) -> str:
    return "" if pd.isna(value) else f"{value:,.0f}"


def millions(value: float | None) -> str:
    return "" if pd.isna(value) else f"{value / 1e6:,.1f}"


def seconds(value: float | None) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def run_seconds(value: float | None) -> str:
    """Of a whole run, which may take three seconds or days."""
    return count(value) if not pd.isna(value) and value >= 100 else seconds(value)


def duration(value: float | None) -> str:
    if pd.isna(value):
        return ""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def p_value(p: float | None) -> str:
    if pd.isna(p):
        return "none"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_pair(p: float | None, corrected: float | None) -> str:
    return "none" if pd.isna(p) else f"{p_value(p)} ({p_value(corrected)})"


# ------------------------------------------------------------------------------------------------------- HTML, Markdown

_NUMERIC = set(f"0123456789.,+-±()%<=:n osx{MINUS}")
# What could be markup in Markdown or start a formula, as character references, which are never markup
_MARKUP = {ord(c): f"&#{ord(c)};" for c in "\\`*[]{}|#$~!^"}


def escape(text: object) -> str:
    """Text from outside, harmless in HTML: printable, one line, no markup."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    return html.escape(" ".join(printable.split()))


def escape_markdown(text: object) -> str:
    """Text from outside, harmless in Markdown and in the HTML that is made of it."""
    escaped = escape(text).replace("&#x27;", "'").translate(_MARKUP)
    # An underscore inside a word is no emphasis, and labels are full of them; a scheme or a www would become a link
    escaped = "".join(
        "&#95;"
        if c == "_" and not (0 < i < len(escaped) - 1 and escaped[i - 1].isalnum() and escaped[i + 1].isalnum())
        else c
        for i, c in enumerate(escaped)
    )
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;")


def to_html(shown: pd.DataFrame) -> str:
    """A table of text as HTML, escaped; columns of numbers are aligned to the right, intervals keep to one line."""
    right = [_is_numeric(shown.iloc[:, i]) for i in range(shown.shape[1])]

    def cell(value: object, numeric: bool) -> str:
        text = str(value)
        short = len(text) <= 26 and any(c.isdigit() for c in text)
        kind = "number" if numeric else "short" if short else "long" if len(text) > 26 else ""
        return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"

    head = "".join(
        f"<th{kind}>{escape(name)}</th>"
        for name, kind in zip(shown.columns, [' class="number"' if numeric else "" for numeric in right], strict=True)
    )
    body = "\n".join(
        "<tr>" + "".join(cell(value, numeric) for value, numeric in zip(row, right, strict=True)) + "</tr>"
        for row in shown.itertuples(index=False)
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def to_markdown(shown: pd.DataFrame) -> str:
    """A table of text as a Markdown table, escaped."""
    right = [_is_numeric(shown.iloc[:, i]) for i in range(shown.shape[1])]
    lines = [[escape_markdown(name) for name in shown.columns], ["--:" if numeric else "---" for numeric in right]]
    lines += [[escape_markdown(value) for value in row] for row in shown.itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _is_numeric(column: pd.Series) -> bool:
    texts = [text for text in column.astype(str) if text]
    return bool(texts) and all(set(text) <= _NUMERIC and any(c.isdigit() for c in text) for text in texts)


# --------------------------------------------------------------------------------------------------------------- pieces


def _sample_columns(values: Sequence[float]) -> dict[str, float | None]:
    values = [float(value) for value in values]
    if not values:
        return dict.fromkeys(("mean", "sd", "low", "high"))
    sample = stats.describe(values)
    return {"mean": sample.mean, "sd": sample.sd, "low": sample.interval.low, "high": sample.interval.high}


def _pair_names(table: pd.DataFrame) -> list[str]:
    return [f"{row.treatment} against {row.baseline}" for row in table.itertuples()]


def _first(column: pd.Series) -> float | None:
    return column.iloc[0] if len(column) else None


def _numeric(table: pd.DataFrame, except_for: Sequence[str]) -> pd.DataFrame:
    """Every other column as numbers; None becomes NaN. Whole columns of integers stay integers."""
    return table.assign(**{name: pd.to_numeric(table[name]) for name in table.columns if name not in except_for})


def _knobs(knobs: Mapping[str, object] | None) -> str:
    return ", ".join(f"{key} = {_text(value)}" for key, value in (knobs or {}).items())


def _flatten(record: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        rows += _flatten(value, f"{name} / ") if isinstance(value, Mapping) else [(name, _text(value))]
    return rows


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
