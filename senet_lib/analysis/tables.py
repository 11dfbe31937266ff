"""A study's results as tables of numbers: fractions and seconds.

Most functions take `StudyResults` and return a DataFrame; `shown_tables.py` turns it into text.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from senet_lib.analysis import rule, stats
from senet_lib.analysis.comparisons import (  # noqa: F401 (the notebooks and other rooms take all of them from here)
    BOOTSTRAP_SEED,
    accuracies,
    compare,
    controls,
    data_of_networks,
    data_of_pair,
    finished_history,
    first_controls,
    independent_sd,
    machines,
    planned_comparisons,
    planned_pairs,
    run_model,
    runs_elsewhere,
)
from senet_lib.analysis.format import as_text
from senet_lib.analysis.markup import escape_markdown
from senet_lib.data.catalog import DATASETS
from senet_lib.metrics import confusion_counts
from senet_lib.models.registry import NETWORKS
from senet_lib.results import SPLITS, StudyResults

CLASS_PAIR = ("first class", "second class")  # a network's label has no space, so it cannot be a column of this name
THRESHOLDS = (0.90, 0.92, 0.93, 0.94)  # target accuracies for which fast CIFAR-10 recipes report training time
MANY = 8  # configurations; a study with more shows some of them in detail


def evaluated(results: StudyResults) -> str:
    """The name of the evaluated images: 'test', or 'validation' with a validation split."""
    on = set(results.done["evaluated_on"]) or {"holdout" if results.study["recipe"].get("holdout") else "test"}
    return " or ".join(words for split, words in SPLITS.items() if split in on)


def models(results: StudyResults) -> dict[str, str]:
    """label -> model name, in the study's order; input of the plots."""
    return {label: network["model"] for label, network in results.study["networks"].items()}


def epochs(results: StudyResults) -> list[str]:
    """['17', 'resnet20: 10']: the study's number of epochs, followed by the networks that have another one."""
    usual, networks = results.study["recipe"]["epochs"], results.study["networks"].items()
    own = {label: (network.get("recipe") or {}).get("epochs", usual) for label, network in networks}
    return [str(usual), *(f"{escape_markdown(label)}: {number}" for label, number in own.items() if number != usual)]


def in_detail(results: StudyResults, table: pd.DataFrame) -> list[str]:
    """The labels to show in curves and confusion matrices, in the study's order: all of them; with more than `MANY`,
    those that the study names in its comparisons; with more than `MANY` of these, or none, the baseline and the three
    networks of the highest and of the lowest mean accuracy. `table` from `networks`."""
    if len(table) <= MANY:
        return results.labels
    compared = named_in_comparisons(results)
    if 0 < len(compared) <= MANY:
        return [label for label in results.labels if label in compared]
    ranked = table.dropna(subset=["mean"]).sort_values("mean", kind="stable")["label"]
    chosen = {results.study["baseline"], *ranked.head(3), *ranked.tail(3)}
    return [label for label in results.labels if label in chosen]


def named_in_comparisons(results: StudyResults) -> set[str]:
    """The labels that the study's file names in its comparisons; empty if it names none."""
    return {label for pair in results.study.get("comparisons") or () for label in pair}


def changes(results: StudyResults) -> dict[str, str]:
    """label -> the options and recipe settings of this network that not all networks of the study share, as text."""
    own = {
        label: {"model": network["model"]} | (network.get("knobs") or {}) | (network.get("recipe") or {})
        for label, network in results.study["networks"].items()
    }
    values = {key: [settings.get(key) for settings in own.values()] for settings in own.values() for key in settings}
    shared = {key for key, found in values.items() if all(value == found[0] for value in found)}
    return {
        label: _knobs(
            {key: value for key, value in settings.items() if key not in shared and (key, value) != ("model", label)}
        )
        for label, settings in own.items()
    }


def attention_blocks(model: str) -> tuple[int, int] | None:
    """The residual blocks of a registered network that carry SE or SK, and all of them; None if unknown."""
    network = NETWORKS.get(model)
    if network is None or network.arch is None:
        return None
    blocks = sum(network.arch.depths)
    return (0 if network.family.name == "resnet" else blocks), blocks


def networks(results: StudyResults, comparisons: Sequence[rule.Comparison]) -> pd.DataFrame:
    """One row per network.

    Columns: label, model, knobs, params, macs, n, planned, mean, sd, low, high; control (the baseline if the network is
    compared with it, else the first network that it is compared with), difference, difference_low and difference_high
    (from the control); seconds_per_epoch (None if the study is not timed); published, published_runs, published_source.
    If a run has an accuracy with test-time augmentation, also tta_mean, tta_low, tta_high; the other columns never
    include it.
    """
    baseline = results.study["baseline"]
    found = {(pair.treatment, pair.baseline): pair for pair in comparisons}
    against = {label: found[label, control] for label, control in first_controls([*found], baseline).items()}
    rows = []
    for label, network in results.study["networks"].items():
        runs = results.runs[results.runs["label"] == label]
        done = runs[runs["status"] == "done"]
        row = {"label": label, "model": network["model"], "knobs": _knobs(network.get("knobs"))}
        row |= {"params": _first(done["params"]), "macs": _first(done["macs"]), "n": len(done), "planned": len(runs)}
        row |= _sample_columns(done["test_accuracy"])
        difference = against[label].difference if label in against else None
        row |= {
            "control": against[label].baseline if label in against else None,
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
        if results.done["tta_accuracy"].notna().any():
            augmented = _sample_columns(done["tta_accuracy"].dropna())
            row |= {f"tta_{name}": augmented[name] for name in ("mean", "low", "high")}
        rows.append(row)
    return _numeric(pd.DataFrame(rows), except_for=("label", "model", "knobs", "control", "published_source"))


def comparison_table(comparisons: Sequence[rule.Comparison]) -> pd.DataFrame:
    """One row per comparison. low, high, p: corrected over the planned comparisons; se: the standard error of the
    difference; degrees: its degrees of freedom. The bootstrap interval and the sign-flip p are not corrected."""
    rows = [
        {
            "treatment": pair.treatment,
            "baseline": pair.baseline,
            "verdict": pair.verdict,
            "n_treatment": pair.n_treatment,
            "n_baseline": pair.n_baseline,
            "difference": pair.difference.point,
            "low": pair.difference.low,
            "high": pair.difference.high,
            "p": pair.estimate.p,
            "se": pair.estimate.error,
            "degrees": pair.estimate.degrees,
            "n_pairs": pair.n_pairs,
            "bca_low": pair.bca and pair.bca.low,
            "bca_high": pair.bca and pair.bca.high,
            "sign_flip_p": pair.p_sign_flip,
            "superiority": pair.superiority,
            "detectable": pair.detectable,
        }
        for pair in comparisons
    ]
    names = ["treatment", "baseline", "verdict", "n_treatment", "n_baseline", "difference", "low", "high", "p", "se"]
    names += ["degrees", "n_pairs", "bca_low", "bca_high", "sign_flip_p", "superiority", "detectable"]
    return _numeric(pd.DataFrame(rows, columns=names), except_for=("treatment", "baseline", "verdict"))


def mcnemar(results: StudyResults) -> pd.DataFrame:
    """McNemar's exact test of the two trained models of each comparison and seed.

    Columns: treatment, baseline, seed, only_treatment, only_baseline (images that only it classifies correctly), p.
    Models trained on different data or evaluated on different images are omitted.
    """
    correct = {
        run: (group["true"].to_numpy(), (group["true"] == group["predicted"]).to_numpy())
        for run, group in results.predictions.groupby(["label", "seed"], sort=False)
    }
    rows, data = [], data_of_networks(results)
    for treatment, baseline in planned_comparisons(results):
        if len(data_of_pair(data, (treatment, baseline))) > 1:
            continue
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
    """label -> (K, K) confusion matrix over all finished runs: shares of each true class, rows = true. A class
    without an evaluated image is a row of NaN."""
    size = len(results.study["classes"])
    found = {}
    for label in results.labels:
        rows = results.predictions[results.predictions["label"] == label]
        if rows.empty:
            continue
        counts = confusion_counts(rows["true"].to_numpy(), rows["predicted"].to_numpy(), size)
        with np.errstate(invalid="ignore"):
            found[label] = counts / counts.sum(axis=1, keepdims=True)
    return found


def class_accuracies(results: StudyResults) -> pd.DataFrame:
    """Accuracy within each class.

    Columns: label, class, n (seeds), mean, sd, low, high, control (as in `networks`; the baseline for a network that is
    in no planned comparison), difference, difference_low, difference_high (from the control, Welch interval,
    uncorrected; none if the two networks' data differ).
    """
    classes, known = results.study["classes"], controls(results, results.labels)
    right = results.predictions.assign(right=results.predictions["true"] == results.predictions["predicted"])
    shares = right.groupby(["label", "seed", "true"])["right"].mean() if len(right) else pd.Series(dtype=float)
    samples = {}
    for (label, _, index), value in shares.items():
        samples.setdefault((label, int(index)), []).append(float(value))
    rows = []
    for label in results.labels:
        control = known.get(label)
        for index, name in enumerate(classes):
            values = samples.get((label, index))
            if not values:
                continue
            row = {"label": label, "class": name, "n": len(values), **_sample_columns(values)}
            theirs = samples.get((control, index))
            if theirs:
                interval = stats.welch_difference(values, theirs)
                row |= {"control": control, "difference": interval.point}
                row |= {"difference_low": interval.low, "difference_high": interval.high}
            rows.append(row)
    names = ["label", "class", "n", "mean", "sd", "low", "high"]
    names += ["control", "difference", "difference_low", "difference_high"]
    return _numeric(pd.DataFrame(rows, columns=names), except_for=("label", "class", "control"))


def confused_pairs(results: StudyResults, most: int = 8) -> pd.DataFrame:
    """The class pairs most often confused with each other, in either direction; largest mean over networks first.

    Columns: `CLASS_PAIR`, and one per network: the mean of the two classes' shares misclassified as the other.
    """
    shares, classes = confusions(results), results.study["classes"]
    rows = []
    for i, j in combinations(range(len(classes)), 2):
        row = {label: (matrix[i, j] + matrix[j, i]) / 2 for label, matrix in shares.items()}
        rows.append(dict(zip(CLASS_PAIR, (classes[i], classes[j]), strict=True)) | row)
    table = pd.DataFrame(rows, columns=[*CLASS_PAIR, *shares])
    order = table[list(shares)].mean(axis=1).sort_values(ascending=False, kind="stable").index if shares else []
    table = table.loc[order].head(most)
    return table[(table[list(shares)] > 0).any(axis=1)].reset_index(drop=True) if shares else table


def cost(results: StudyResults, table: pd.DataFrame) -> pd.DataFrame:
    """The cost of each network; `table` from `networks`.

    Columns: label, model, params, macs, seconds_per_epoch, train_seconds (training of a whole run, mean over seeds),
    and each cost as a factor to the baseline's (`*_factor`). Times are NaN if the study is not timed.
    """
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
    """Training time, without evaluation, to the end of the first epoch whose evaluated accuracy reaches the threshold.

    The accuracy may fall below the threshold again. One row per network and threshold. Columns: label, threshold, n
    (finished runs), reached (runs that reach it), and mean, min, max over those. The mean is given only if all n reach
    it: otherwise it would favour a network whose slow runs never do.
    """
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
    """Our accuracy beside the published one, for the rows of `networks` that have one.

    A single published run on a test set of known size has Wilson's interval. published_source: where it was published.
    """
    rows = []
    dataset = DATASETS.get(results.study["data"])
    images = dataset and dataset.test_images
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
    names = ["label", "mean", "low", "high", "n", "published", "published_low", "published_high", "published_runs"]
    table = pd.DataFrame(rows, columns=[*names, "gap", "published_source"])
    return _numeric(table, except_for=("label", "published_source"))


def runs(results: StudyResults) -> pd.DataFrame:
    """Every planned run, in the plan's order.

    Columns: run_id, label, seed, status, epochs (trained so far), test_accuracy and test_loss (last epoch),
    train_seconds, error.
    """
    trained = results.history.groupby("run_id")["epoch"].max() if len(results.history) else pd.Series(dtype=float)
    table = results.runs[["run_id", "label", "seed", "status", "test_accuracy", "test_loss", "train_seconds", "error"]]
    table = table.assign(epochs=table["run_id"].map(trained).fillna(0).astype(int))
    table.loc[(table["status"] == "missing") & (table["epochs"] > 0), "status"] = "interrupted"
    return _numeric(table, except_for=("run_id", "label", "status", "error"))


def without_place(data: str) -> str:
    """The data set's name; of a folder's path only the last part, so that no local path is published."""
    kind, _, place = data.partition(":")
    return f"folder:{place.rstrip('/').rsplit('/', 1)[-1]}" if place else kind


def environment(results: StudyResults) -> pd.DataFrame:
    """setting, value from the runs' environment records; values that differ between runs are all listed."""
    flat: dict[str, list[str]] = {}
    for record in results.environments.values():
        for key, value in _flatten(record):
            value = without_place(value) if key == "data / name" else value
            seen = flat.setdefault(key, [])
            if value not in seen:
                seen.append(value)
    rows = [(key, "; ".join(values)) for key, values in flat.items()]
    return pd.DataFrame(rows, columns=["setting", "value"])


def recipe(results: StudyResults) -> pd.DataFrame:
    """setting, value of the study's recipe, followed by each network's own values as 'lr of NETWORK'."""
    rows = [(key, as_text(value)) for key, value in results.study["recipe"].items()]
    for label, network in results.study["networks"].items():
        rows += [(f"{key} of {label}", as_text(value)) for key, value in (network.get("recipe") or {}).items()]
    return pd.DataFrame(rows, columns=["setting", "value"])


def _sample_columns(values: Sequence[float]) -> dict[str, float | None]:
    values = [float(value) for value in values]
    if not values:
        return dict.fromkeys(("mean", "sd", "low", "high"))
    sample = stats.describe(values)
    return {"mean": sample.mean, "sd": sample.sd, "low": sample.interval.low, "high": sample.interval.high}


def _first(column: pd.Series) -> float | None:
    return column.iloc[0] if len(column) else None


def _numeric(table: pd.DataFrame, except_for: Sequence[str]) -> pd.DataFrame:
    """All other columns as numbers; None becomes NaN. A column of integers stays integer."""
    return table.assign(**{name: pd.to_numeric(table[name]) for name in table.columns if name not in except_for})


def _knobs(knobs: Mapping[str, object] | None) -> str:
    return ", ".join(f"{key} = {as_text(value)}" for key, value in (knobs or {}).items())


def _flatten(record: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in record.items():
        name = f"{prefix}{key}"
        parts = value if isinstance(value, list) else [value]
        if parts and all(isinstance(part, Mapping) for part in parts):
            rows += [row for part in parts for row in _flatten(part, f"{name} / ")]
        else:
            rows.append((name, as_text(value)))
    return rows
