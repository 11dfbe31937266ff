"""A study's findings as sentences in Markdown. All numbers come from the results; all external text is escaped."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from senet_lib.analysis import stats
from senet_lib.analysis.format import count, difference, duration, millions, percent, points, run_seconds, span
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.tables import confusions, data_of_networks, evaluated
from senet_lib.analysis.tables import runs as run_table
from senet_lib.results import StudyResults

NBSP = "\N{NO-BREAK SPACE}"


# ------------------------------------------------------------------------------------------- the study and its progress


def notice(results: StudyResults) -> str:
    """What limits the results, for the top of the report: missing runs and data that changed between runs. Empty if
    every planned run is done, on the same data."""
    return " ".join(filter(None, (_incomplete(results), _mixed_data(results))))


def _mixed_data(results: StudyResults) -> str:
    data = data_of_networks(results)
    if len(set.union(*data.values())) < 2:
        return ""
    changed = names([label for label, prints in data.items() if len(prints) > 1], 10)
    return (
        "**Runs of this study used different data**"
        + (f" (between the runs of {changed})" if changed else "")
        + ": networks whose data differ are not compared. To get comparable runs, restore the original data, delete the"
        " runs that used other data, and reproduce the study again."
    )


def _incomplete(results: StudyResults) -> str:
    planned = run_table(results)
    left = planned[planned["status"] != "done"]
    if left.empty:
        return ""
    counts = "; ".join(
        f"{len(runs)} {word} ({names(runs['run_id'])})" for word, runs in left.groupby("status", sort=False)
    )
    without = [label for label in results.labels if label not in set(results.done["label"])]
    absent = f" No finished run, so in no figure: {names(without, 10)}." if without else ""
    if results.done.empty:
        return f"**No run of this study has finished**, so there are no results yet: {counts}."
    return (
        f"**This study is incomplete**: {len(results.done)} of {len(planned)} planned runs have finished; {counts}."
        f"{absent} All results below are of the finished runs only."
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
    """The command that reproduces these results."""
    variables = dict(results.study.get("make_variables") or {"STUDY": results.study["name"]})
    if "DATA" in variables:
        variables["DATA"] = data_name(results)
    return escape_markdown(" ".join(["make reproduce", *(f"{name}={value}" for name, value in variables.items())]))


def data_name(results: StudyResults) -> str:
    """The data set's name; of a folder's path only the last part, so that no local path is published."""
    kind, _, place = results.study["data"].partition(":")
    return f"folder:{place.rstrip('/').rsplit('/', 1)[-1]}" if place else kind


def deviations(results: StudyResults) -> list[str]:
    """Caveats for reading the numbers: the study's own notes, then what the run records show."""
    study, found = results.study, []
    if study.get("notes"):
        found.append(escape_markdown(study["notes"]))
    if held := study["recipe"].get("holdout"):
        found.append(
            f"Evaluated on a validation split of {held:,} training images. The test set was not used; these are not"
            " test accuracies."
        )
    if study["recipe"].get("evaluate_in_training_mode"):
        found.append(
            "Evaluated in training mode, as in one of the studied sources: batch normalisation used the statistics of"
            " the evaluated batches and updated its running statistics with them. These accuracies cannot be compared"
            " with others."
        )
    if len(results.done["evaluated_on"].unique()) > 1:
        found.append("Some runs were evaluated on the test set, others on a validation split: they cannot be compared.")
    found += untimed(results).splitlines()
    found += incomparable_seconds(results).splitlines()
    records = list(results.environments.values())
    commits = {record.get("git_commit") for record in records}
    if len(commits) > 1:
        found.append(f"The runs used {len(commits)} different commits of the code.")
    if any(commit and commit.endswith("+changes") for commit in commits):
        found.append("Some runs used code with uncommitted changes.")
    # A validation split has fingerprints of its own, so only runs on the whole data set are compared with the study's
    whole = results.done[results.done["evaluated_on"] == "test"]["run_id"]
    fingerprints = [(results.environments[run_id].get("data") or {}).get("fingerprints") for run_id in whole]
    if any(prints != study.get("fingerprints") for prints in fingerprints):
        found.append("**Some runs used other data than planned**: their data fingerprints differ from the study's.")
    return found or ["None recorded."]


# ------------------------------------------------------------------------------------------------------------- findings


def verdict(results: StudyResults, comparisons: Sequence[stats.Comparison]) -> str:
    """The study's question and its answer, one paragraph each."""
    question = f"**Question:** {escape_markdown(results.study['question'])}"
    return f"{question}\n\n**Result:** {_answer(results, comparisons)}"


def _answer(results: StudyResults, comparisons: Sequence[stats.Comparison]) -> str:
    done = results.done
    if done.empty:
        return f"none yet; 0 of {len(results.runs)} planned runs have finished."
    where = f"After {last_epoch(results)}, {sample_sizes(results)}"
    if not comparisons:
        none = "No planned comparison has finished runs of both networks on the same data."
        return f"{where}, {ranking(results)}. {none}"
    if not any(pair.difference.exists for pair in comparisons):
        reasons = sorted({pair.difference.reason for pair in comparisons})
        return (
            f"Inconclusive by the rule below, because no comparison has a confidence interval ({'; '.join(reasons)})."
            f" After {last_epoch(results)}, {ranking(results)}."
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
        small = ", but within the margin" if max(abs(found.low), abs(found.high)) < stats.MARGIN else ""
        return f"{ours} is **{pair.verdict}** than {theirs} ({seen}{small})"
    if pair.verdict == stats.NO_DIFFERENCE:
        return f"{ours} shows **no difference larger than {100 * stats.MARGIN:g} pp** from {theirs} ({seen})"
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
    """The gain from test-time augmentation; empty if no run has it. `table` from `tables.networks`."""
    if "tta_mean" not in table:
        return ""
    rows = table[table["tta_mean"].notna()].itertuples()
    listed = ", ".join(f"{escape_markdown(row.label)} {points(row.tta_mean - row.mean)}" for row in rows)
    return (
        "Test-time augmentation (TTA) averages a network's outputs over several views of each image: shifted by one"
        f" pixel, and also mirrored if training mirrors. Mean {evaluated(results)} accuracy with TTA minus accuracy"
        f" without it, in percentage points: {listed}. All other numbers, including the verdicts, are without TTA."
    )


def generalisation(results: StudyResults, history: pd.DataFrame) -> str:
    """Training accuracy minus evaluated accuracy at the last epoch, per network."""
    if history.empty:
        return ""
    last = history[history["epoch"] == history.groupby("run_id")["epoch"].transform("max")]
    gaps = (last["train_accuracy"] - last["test_accuracy"]).astype(float).groupby(last["label"]).mean()
    listed = ", ".join(f"{escape_markdown(label)} {points(gaps[label])}" for label in results.labels if label in gaps)
    return (
        f"Training accuracy minus {evaluated(results)} accuracy at {last_epoch(results)}, in percentage points:"
        f" {listed}. Training accuracy is measured on augmented images while the weights change, so it can be the"
        " lower of the two."
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
                f" misclassified as {escape_markdown(classes[predicted])}"
            )
    return f"Most frequent confusion of each network: {'; '.join(found)}." if found else ""


def class_effects(results: StudyResults, table: pd.DataFrame) -> str:
    """Each network's highest and lowest difference from the baseline by class, and how many CIs exclude 0."""
    changed = table.dropna(subset=["difference"])
    if changed.empty:
        return ""
    found = []
    for label, rows in changed.groupby("label", sort=False):
        best, worst = rows.loc[rows["difference"].idxmax()], rows.loc[rows["difference"].idxmin()]
        apart = rows[(rows["difference_low"] > 0) | (rows["difference_high"] < 0)]
        counted = f"; {len(apart)} of {len(rows)} CIs exclude 0" if rows["difference_low"].notna().any() else ""
        found.append(
            f"- {escape_markdown(label)}: highest {_class_difference(best)}; lowest {_class_difference(worst)}{counted}"
        )
    classes = len(results.study["classes"])
    return (
        f"Difference from {escape_markdown(results.study['baseline'])} by class, in percentage points (Welch 95 % CI"
        f" over seeds, not corrected for multiple comparisons: about {0.05 * classes:.2g} of {classes} would exclude 0"
        " by chance):\n\n" + "\n".join(found)
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
        f"{escape_markdown(row.label)} takes {row.seconds_per_epoch_factor:.2f}x the time per epoch"
        f" ({_longer_or_shorter(row.train_seconds - reference)} per run) for {row.macs_factor:.2f}x the multiply-adds"
        for row in rows.itertuples()
    )
    return f"Compared with {escape_markdown(baseline)} ({run_seconds(reference)} s per run): {listed}."


def untimed(results: StudyResults) -> str:
    """Why the report has no times, if the study declares them invalid; otherwise empty."""
    if results.timed:
        return ""
    return (
        "No training times are reported: the runs shared a machine with each other or with other work, or ran on"
        " several machines."
    )


def incomparable_seconds(results: StudyResults) -> str:
    """One line per setting in which the finished runs' environments differ; empty if there is none."""
    kinds = {"device": "devices", "processor": "processors", "precision": "precisions", "threads": "numbers of threads"}
    found = []
    for key, name in kinds.items():
        values = sorted({str(record.get(key)) for record in results.environments.values()})
        if len(values) > 1:
            found.append(f"The runs used different {name} ({names(values)}): their training times cannot be compared.")
    return "\n".join(found)


def same_cost(networks: pd.DataFrame) -> str:
    """The cost, if it is the same for all networks, in place of a figure of accuracy against cost; otherwise empty.
    `networks` from `tables.networks`."""
    costs = networks[["params", "macs"]].drop_duplicates()
    if len(networks) < 2 or len(costs) > 1 or costs.isna().any(axis=None):
        return ""
    params, macs = costs.iloc[0]
    return f"All networks have {count(params)} parameters and {millions(macs)} million multiply-adds per image."


def _longer_or_shorter(seconds: float) -> str:
    return f"{run_seconds(abs(seconds))} s {'longer' if seconds >= 0 else 'shorter'}"


def time_to(results: StudyResults, table: pd.DataFrame) -> str:
    """How to read the times to an accuracy; empty if no run reaches one. `table` from `tables.time_to`."""
    if not table["reached"].any():
        return ""
    return (
        "These times describe the curves. No run was stopped at a threshold, and the accuracy of a run is that of"
        f" {last_epoch(results)}."
    )


def single_models(table: pd.DataFrame) -> str:
    """How often McNemar's test distinguishes two trained models; `table` from `tables.mcnemar`."""
    if table.empty:
        return ""
    found = [
        f"{escape_markdown(treatment)} against {escape_markdown(baseline)}: p below 0.05 for"
        f" {(rows['p'] < 0.05).sum()} of {len(rows)} seeds"
        for (treatment, baseline), rows in table.groupby(["treatment", "baseline"], sort=False)
    ]
    return f"{'; '.join(found)}."


def detectable(comparisons: Sequence[stats.Comparison]) -> str:
    """The minimum detectable difference of each comparison."""
    known = [pair for pair in comparisons if pair.detectable is not None]
    if not known:
        return (
            "The minimum detectable difference cannot be estimated: that needs at least two seeds per network and a"
            " spread between them."
        )
    listed = ", ".join(
        f"{escape_markdown(pair.treatment)} against {escape_markdown(pair.baseline)} {100 * pair.detectable:.2f}"
        for pair in known
    )
    return (
        f"Minimum detectable difference with 80 % power at this number of seeds, in percentage points: {listed}."
        " An inconclusive comparison does not rule out a smaller difference."
    )


def total_time(results: StudyResults) -> str:
    """The total training time of all finished runs."""
    return duration(float(results.done["train_seconds"].astype(float).sum()))


def names(values: Sequence[str], most: int = 4) -> str:
    """'a, b, c and 5 more', escaped."""
    values = list(values)
    listed = ", ".join(map(escape_markdown, values[:most]))
    return f"{listed} and {len(values) - most} more" if len(values) > most else listed
