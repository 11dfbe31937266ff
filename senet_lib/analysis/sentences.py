"""A study's findings as sentences in Markdown. All numbers come from the results; all external text is escaped."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from senet_lib.analysis import stats
from senet_lib.analysis.format import count, difference, duration, millions, percent, points, run_seconds, span
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.tables import confusions, evaluated
from senet_lib.analysis.tables import runs as run_table
from senet_lib.results import StudyResults

NBSP = "\N{NO-BREAK SPACE}"


# ------------------------------------------------------------------------------------------- the study and its progress


def notice(results: StudyResults) -> str:
    """Which runs are missing, for the top of the report; empty when every planned run is done."""
    planned = run_table(results)
    left = planned[planned["status"] != "done"]
    if left.empty:
        return ""
    counts = "; ".join(
        f"{len(runs)} {word} ({names(runs['run_id'])})" for word, runs in left.groupby("status", sort=False)
    )
    without = [label for label in results.labels if label not in set(results.done["label"])]
    absent = f" Without a finished run, and so in no figure: {names(without, 10)}." if without else ""
    if results.done.empty:
        return f"**No run of this study is finished**, so it says nothing yet: {counts}."
    return (
        f"**This study is incomplete**: {len(results.done)} of {len(planned)} planned runs are finished; {counts}."
        f"{absent} Everything below speaks of the finished runs alone."
    )


def sample_sizes(results: StudyResults) -> str:
    """'n = 6 seeds', followed by the networks with a different number; for captions."""
    counts = results.done["label"].value_counts().reindex(results.labels, fill_value=0)
    counts = counts[counts > 0]
    if counts.empty:
        return f"n{NBSP}={NBSP}0 seeds"
    usual = counts.mode().max()
    others = ", ".join(f"{escape_markdown(label)}: {n}" for label, n in counts.items() if n != usual)
    return f"n{NBSP}={NBSP}{usual} seed{'s' if usual > 1 else ''}" + (f" ({others})" if others else "")


def last_epoch(results: StudyResults) -> str:
    """'the last epoch (10)'."""
    return f"the last epoch ({results.study['recipe']['epochs']})"


def how_to_reproduce(results: StudyResults) -> str:
    """The command that reproduces these results; the suffixes of `name+data+3epoch` are DATA and LIMIT_EPOCHS."""
    name, *deviations = results.study["name"].split("+")
    options = [
        f"LIMIT_EPOCHS={part.removesuffix('epoch')}" if part.endswith("epoch") else f"DATA={data_name(results)}"
        for part in deviations
    ]
    return escape_markdown(" ".join(["make reproduce", f"STUDY={name}", *options]))


def data_name(results: StudyResults) -> str:
    """The data set's name; for a folder only the last path component, so that no local path is published."""
    kind, _, place = results.study["data"].partition(":")
    return f"folder:{place.rstrip('/').rsplit('/', 1)[-1]}" if place else kind


def deviations(results: StudyResults) -> list[str]:
    """Caveats for reading the numbers: the study's own notes, then what the run records show."""
    study, found = results.study, []
    if study.get("notes"):
        found.append(escape_markdown(study["notes"]))
    if held := study["recipe"].get("holdout"):
        found.append(
            f"Evaluated on a validation split of {held:,} training images; the test set was not used, and these"
            " accuracies are not test accuracies."
        )
    if study["recipe"].get("evaluate_in_training_mode"):
        found.append(
            "Evaluated in training mode, as one of the studied sources does: batch normalisation used, and learnt from,"
            " the evaluated batches. These accuracies are not comparable with any others."
        )
    if len(results.done["evaluated_on"].unique()) > 1:
        found.append("Some runs were evaluated on the test set and some on a validation split: do not compare them.")
    found += untimed(results).splitlines()
    found += incomparable_seconds(results).splitlines()
    records = list(results.environments.values())
    commits = {record.get("git_commit") for record in records}
    if len(commits) > 1:
        found.append(f"The runs come from {len(commits)} different commits of the code.")
    if any(commit and commit.endswith("+changes") for commit in commits):
        found.append("Some runs come from a working tree with uncommitted changes.")
    fingerprints = [(record.get("data") or {}).get("fingerprints") for record in records]
    if any(prints != study.get("fingerprints") for prints in fingerprints):
        found.append("**Some runs saw other data than the study planned**: the fingerprints differ.")
    for run in run_table(results).query("resumed_anyway != ''").itertuples():
        found.append(
            f"**{escape_markdown(run.run_id)} was resumed anyway** ({escape_markdown(run.resumed_anyway)}): its numbers"
            " need not be those of an undisturbed run."
        )
    return found or ["None recorded."]


# ------------------------------------------------------------------------------------------------------------- findings


def verdict(results: StudyResults, comparisons: Sequence[stats.Comparison]) -> str:
    """The study's question and its finding, in two sentences."""
    asked = f"**Asked:** {escape_markdown(results.study['question'])}"
    return f"{asked}\n\n**Found:** {_found(results, comparisons)}"


def _found(results: StudyResults, comparisons: Sequence[stats.Comparison]) -> str:
    done = results.done
    if done.empty:
        return f"Nothing yet: none of the {len(results.runs)} planned runs is finished."
    where = f"After {last_epoch(results)} and over {sample_sizes(results)}"
    if not comparisons:
        return f"{where}, {ranking(results)}; there are no two networks to compare yet."
    if not any(pair.difference.exists for pair in comparisons):
        reasons = sorted({pair.difference.reason for pair in comparisons})
        return (
            f"Inconclusive by the rule below, since no comparison has an interval ({'; '.join(reasons)}); "
            f"after {last_epoch(results)} {ranking(results)}."
        )
    return f"{where}, by the rule below: {'; '.join(map(one_verdict, comparisons))}."


def one_verdict(pair: stats.Comparison) -> str:
    """'**a** is **better** than b (+0.50 pp, 95 % CI +0.20 to +0.80)'; a clause for use in a list."""
    ours, theirs = f"**{escape_markdown(pair.treatment)}**", escape_markdown(pair.baseline)
    found = pair.difference
    if not found.exists:
        return f"{ours} against {theirs} is inconclusive ({points(found.point)} pp, {found.reason})"
    seen = f"{points(found.point)} pp, 95 % CI {span(found.low, found.high, points)}"
    if pair.verdict in (stats.BETTER, stats.WORSE):
        small = ", though within the margin" if max(abs(found.low), abs(found.high)) < stats.MARGIN else ""
        return f"{ours} is **{pair.verdict}** than {theirs} ({seen}{small})"
    if pair.verdict == stats.NO_DIFFERENCE:
        return f"{ours} shows **no difference larger than {100 * stats.MARGIN:g} pp** to {theirs} ({seen})"
    corrected = found.low > 0 or found.high < 0
    note = f"; not significant after Holm's correction, p = {pair.p_welch_holm:.3f}" if corrected else ""
    return f"{ours} against {theirs} is **inconclusive** ({seen}{note})"


def ranking(results: StudyResults) -> str:
    """'the test accuracies are a 93.10 %, b 92.80 %': means, highest first."""
    means = results.done.groupby("label")["test_accuracy"].apply(lambda values: values.astype(float).mean())
    means = means.sort_values(ascending=False, kind="stable")
    kind = f"mean {evaluated(results)}" if results.done["label"].value_counts().max() > 1 else evaluated(results)
    listed = ", ".join(f"{escape_markdown(label)} {percent(mean)} %" for label, mean in means.items())
    return f"the {kind} {'accuracies are' if len(means) > 1 else 'accuracy is'} {listed}"


def augmented(results: StudyResults, table: pd.DataFrame) -> str:
    """The gain from test-time augmentation, and that no other number uses it; empty if no run has it. `table` from
    `tables.networks`."""
    if "tta_mean" not in table:
        return ""
    rows = table[table["tta_mean"].notna()].itertuples()
    listed = ", ".join(f"{escape_markdown(row.label)} {points(row.tta_mean - row.mean)}" for row in rows)
    return (
        "Test-time augmentation takes the mean of a network's outputs over several views of each image (moved by a"
        " pixel; mirrored too where training mirrors); its column has a 95 % t interval of its own. Its mean minus the"
        f" plain {evaluated(results)} accuracy is, in percentage points: {listed}. It is an additional figure: every"
        " other number here, verdicts included, is the plain accuracy."
    )


def generalisation(results: StudyResults, history: pd.DataFrame) -> str:
    """Training accuracy minus evaluated accuracy at the last epoch, by network."""
    if history.empty:
        return ""
    last = history[history["epoch"] == history.groupby("run_id")["epoch"].transform("max")]
    gaps = (last["train_accuracy"] - last["test_accuracy"]).astype(float).groupby(last["label"]).mean()
    listed = ", ".join(f"{escape_markdown(label)} {points(gaps[label])}" for label in results.labels if label in gaps)
    return (
        f"At {last_epoch(results)} the training accuracy minus the {evaluated(results)} accuracy is, in percentage"
        f" points: {listed}."
        " Training accuracy is measured on augmented images while the weights still move, so it can lie below."
    )


def most_confused(results: StudyResults) -> str:
    """Each network's most frequent single confusion."""
    classes, found = results.study["classes"], []
    for label, shares in confusions(results).items():
        errors = np.nan_to_num(shares.copy())
        np.fill_diagonal(errors, 0)
        true, predicted = np.unravel_index(errors.argmax(), errors.shape)
        if errors[true, predicted] > 0:
            found.append(
                f"{escape_markdown(label)}: {percent(errors[true, predicted])} % of {escape_markdown(classes[true])}"
                f" taken for {escape_markdown(classes[predicted])}"
            )
    return f"The most frequent single confusion of each network: {'; '.join(found)}." if found else ""


def class_effects(results: StudyResults, table: pd.DataFrame) -> str:
    """Each network's largest gain and loss by class against the baseline, and how many CIs exclude 0 by chance."""
    changed = table.dropna(subset=["difference"])
    if changed.empty:
        return ""
    found = []
    for label, rows in changed.groupby("label", sort=False):
        best, worst = rows.loc[rows["difference"].idxmax()], rows.loc[rows["difference"].idxmin()]
        apart = rows[(rows["difference_low"] > 0) | (rows["difference_high"] < 0)]
        counted = (
            f"{len(apart)} of {len(rows)} class intervals exclude 0" if rows["difference_low"].notna().any() else ""
        )
        found.append(
            f"- {escape_markdown(label)}: highest difference on {_class_difference(best)}; lowest on"
            f" {_class_difference(worst)}" + (f"; {counted}" if counted else "")
        )
    classes = len(results.study["classes"])
    return (
        f"Against {escape_markdown(results.study['baseline'])}, in percentage points (Welch 95 % CI over seeds, not"
        f" corrected for the number of classes: by chance alone about {0.05 * classes:.2g} of {classes} exclude 0):\n\n"
        + "\n".join(found)
    )


def _class_difference(row: pd.Series) -> str:
    found = difference(row["difference"], row["difference_low"], row["difference_high"])
    return f"{escape_markdown(row['class'])}, {found}"


def cost(table: pd.DataFrame, baseline: str) -> str:
    """The cost of each network relative to the baseline; `table` from `tables.cost`."""
    rows = table[(table["label"] != baseline) & table["seconds_per_epoch_factor"].notna()]
    if rows.empty:
        return ""
    reference = table.set_index("label").loc[baseline, "train_seconds"]
    listed = "; ".join(
        f"{escape_markdown(row.label)} needs {row.seconds_per_epoch_factor:.2f}x the time of an epoch, and"
        f" {_more_or_less(row.train_seconds - reference)} a run, for {row.macs_factor:.2f}x the multiply-adds"
        for row in rows.itertuples()
    )
    return f"Beside {escape_markdown(baseline)} ({run_seconds(reference)} s a run), {listed}."


def untimed(results: StudyResults) -> str:
    """Statement shown instead of times where the study declares them invalid; otherwise empty."""
    if results.timed:
        return ""
    return (
        "No seconds are reported: the runs shared their machine with each other or with other work, or were on several"
        " machines."
    )


def incomparable_seconds(results: StudyResults) -> str:
    """One line per setting in which the finished runs' environments differ; empty if there is none."""
    kinds = {"device": "devices", "processor": "processors", "precision": "precisions", "threads": "numbers of threads"}
    found = []
    for key, name in kinds.items():
        values = sorted({str(record.get(key)) for record in results.environments.values()})
        if len(values) > 1:
            found.append(f"The runs used different {name} ({names(values)}): their seconds cannot be compared.")
    return "\n".join(found)


def same_cost(networks: pd.DataFrame) -> str:
    """Statement shown instead of the accuracy-against-cost figure where networks have equal cost; otherwise empty.
    `networks` from `tables.networks`."""
    costs = networks[["params", "macs"]].drop_duplicates()
    if len(networks) < 2 or len(costs) > 1 or costs.isna().any(axis=None):
        return ""
    params, macs = costs.iloc[0]
    return f"All networks have {count(params)} parameters and {millions(macs)} million multiply-adds an image."


def _more_or_less(seconds: float) -> str:
    return f"{run_seconds(abs(seconds))} s {'more' if seconds >= 0 else 'less'}"


def time_to(results: StudyResults, table: pd.DataFrame) -> str:
    """How to read the times to an accuracy; empty if no run reaches one. `table` from `tables.time_to`."""
    if not table["reached"].any():
        return ""
    return (
        "These times describe the curve and are no stopping rule: nothing was stopped at an accuracy or chosen by one,"
        f" and the number of a run stays that of {last_epoch(results)}."
    )


def single_models(table: pd.DataFrame) -> str:
    """How often McNemar's test distinguishes two trained models; `table` from `tables.mcnemar`."""
    if table.empty:
        return ""
    found = [
        f"{escape_markdown(treatment)} against {escape_markdown(baseline)}: p under 0.05 for"
        f" {(rows['p'] < 0.05).sum()} of {len(rows)} seeds"
        for (treatment, baseline), rows in table.groupby(["treatment", "baseline"], sort=False)
    ]
    return f"{'; '.join(found)}."


def detectable(comparisons: Sequence[stats.Comparison]) -> str:
    """The minimum detectable difference of each comparison."""
    known = [pair for pair in comparisons if pair.detectable is not None]
    if not known:
        return "How small a difference this study could have seen cannot be said: that needs two seeds and a spread."
    listed = ", ".join(
        f"{escape_markdown(pair.treatment)} against {escape_markdown(pair.baseline)} {100 * pair.detectable:.2f}"
        for pair in known
    )
    return (
        f"The smallest true difference that this many seeds find with 80 % power, in percentage points: {listed}."
        " An inconclusive comparison rules out nothing much smaller than that."
    )


def total_time(results: StudyResults) -> str:
    """The total training time of all finished runs."""
    return duration(float(results.done["train_seconds"].astype(float).sum()))


def names(values: Sequence[str], most: int = 4) -> str:
    """'a, b, c and 5 more', escaped."""
    values = list(values)
    listed = ", ".join(map(escape_markdown, values[:most]))
    return f"{listed} and {len(values) - most} more" if len(values) > most else listed
