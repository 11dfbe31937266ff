"""A study's findings as sentences in Markdown. All numbers come from the results; all external text is escaped."""

from collections.abc import Sequence

import pandas as pd

from senet_lib.analysis import contrasts, rule, stats
from senet_lib.analysis.comparisons import (
    data_of_networks,
    independent_sd,
    planned_comparisons,
    run_model,
    runs_elsewhere,
    without_uncompared,
)
from senet_lib.analysis.format import counted, duration, limit, millions, percent, points, run_seconds, span
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.tables import MANY, epochs, evaluated, without_place
from senet_lib.analysis.tables import runs as run_table
from senet_lib.results import TIMED_UNDER, StudyResults

# What a study with `verdicts: false` says at the top of its report and in the terminal
NO_VERDICTS = "This study checks the installation: it compares no networks, and its accuracies answer no question."
NBSP = "\N{NO-BREAK SPACE}"


# ------------------------------------------------------------------------------------------- the study and its progress


def notice(results: StudyResults) -> str:
    """What limits the results, for the top of the report: a mere check of the pipeline, missing runs, and data that
    changed between runs. Empty if every planned run is done, on the same data."""
    return " ".join(filter(None, (_check(results), _incomplete(results), _mixed_data(results))))


def _check(results: StudyResults) -> str:
    if results.study.get("verdicts", True):
        return ""
    return f"**{NO_VERDICTS}** Its figures and tables only show what a report contains."


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
    if results.is_published and set(left["seed"]).isdisjoint(results.done["seed"]):
        seeds = ", ".join(map(str, sorted(set(results.done["seed"]))))
        return (
            f"**This study is incomplete**: all of its networks have finished {results.done['seed'].nunique()} of"
            f" {planned['seed'].nunique()} planned seeds ({seeds}). Runs of other seeds are not shown."
            " Intervals and verdicts are provisional: they hold for a number of seeds that was fixed beforehand, and"
            " are wrong more often for someone who looks after every seed and stops at a verdict."
        )
    counts = "; ".join(
        f"{len(runs)} {word} ({names(runs['run_id'])})" for word, runs in left.groupby("status", sort=False)
    )
    without = [label for label in results.labels if label not in set(results.done["label"])]
    absent = f" No finished run, so in no figure: {names(without, 10)}." if without else ""
    if results.done.empty:
        return f"**No run of this study has finished**, so there are no results yet: {counts}."
    return (
        f"**This study is incomplete**: {len(results.done)} of {len(planned)} planned runs have finished; {counts}."
        f"{absent} All results below are of the finished runs only.{_unbalanced(results)}"
    )


def _unbalanced(results: StudyResults) -> str:
    if results.done["label"].value_counts().nunique() < 2 or not results.study.get("verdicts", True):
        return ""
    return " The networks have different numbers of seeds here, which makes wrong verdicts more frequent."


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
    """'the last epoch (10)', or 'the last epoch (17; resnet20: 10)' if a network has its own number of epochs."""
    return f"the last epoch ({'; '.join(epochs(results))})"


def how_to_reproduce(results: StudyResults) -> str:
    """The command that reproduces these results."""
    variables = dict(results.study.get("make_variables") or {"STUDY": results.study["name"]})
    if "DATA" in variables:
        variables["DATA"] = without_place(results.study["data"])
    return escape_markdown(" ".join(["make reproduce", *(f"{name}={value}" for name, value in variables.items())]))


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
    records = results.part_records
    commits = {record.get("git_commit") or "" for record in records}
    if len(known := {commit.removesuffix("+changes") for commit in commits if commit}) > 1:
        found.append(f"The runs used {len(known)} different commits of the code.")
    if known and "" in commits:
        found.append("Some runs do not record the commit of their code.")
    if any(commit.endswith("+changes") for commit in commits):
        found.append("Some runs used code with uncommitted changes.")
    # A validation split has fingerprints of its own, so only runs on the whole data set are compared with the study's
    whole = results.done[results.done["evaluated_on"] == "test"]["run_id"]
    fingerprints = [(results.environments[run_id].get("data") or {}).get("fingerprints") for run_id in whole]
    if any(prints != study.get("fingerprints") for prints in fingerprints):
        found.append("**Some runs used other data than planned**: their data fingerprints differ from the study's.")
    return found or ["None recorded."]


# ------------------------------------------------------------------------------------------------------------- findings


def verdict(results: StudyResults, comparisons: Sequence[rule.Comparison]) -> str:
    """The study's question and its answer, one paragraph each."""
    question = f"**Question:** {escape_markdown(results.study['question'])}"
    return f"{question}\n\n**Result:** {_answer(results, comparisons)}"


def _answer(results: StudyResults, comparisons: Sequence[rule.Comparison]) -> str:
    done = results.done
    if done.empty:
        return f"none yet; 0 of {len(results.runs)} planned runs have finished."
    where = f"After {last_epoch(results)}, {sample_sizes(results)}"
    if not results.study.get("verdicts", True):
        return f"{where}, {ranking(results)}. No verdict: the study only checks the pipeline."
    if not comparisons:
        planned = "No planned comparison has finished runs of both networks on the same data."
        why = planned if planned_comparisons(results) else "The study plans no comparison."
        return f"{where}, {ranking(results)}. {why}"
    if why := why_no_interval(comparisons):
        return (
            f"Inconclusive by the rule below, because no comparison has a confidence interval ({why})."
            f" After {last_epoch(results)}, {ranking(results)}."
        )
    beside = caveats(results, comparisons)
    decided = (one_verdict(pair, beside.get((pair.treatment, pair.baseline), "")) for pair in comparisons)
    return f"{where}, by the rule below:\n\n" + "".join(map("- {}\n".format, decided))


def why_no_interval(comparisons: Sequence[rule.Comparison]) -> str:
    """'n = 1': why none of these comparisons has an interval; empty if one has."""
    if any(pair.difference.exists for pair in comparisons):
        return ""
    return "; ".join(sorted({pair.difference.reason.removesuffix(": no interval") for pair in comparisons}))


def caveats(results: StudyResults, comparisons: Sequence[rule.Comparison]) -> dict[tuple[str, str], str]:
    """`runs_elsewhere` in words: (treatment, baseline) -> '1 of 10 runs on another machine'."""
    found = {}
    for pair, elsewhere in runs_elsewhere(results, comparisons).items():
        found[pair] = f"{elsewhere.others} of {elsewhere.runs} runs on another machine"
        if not elsewhere.linked:
            found[pair] = "no machine trained both, so compared only through other networks"
        elif (without := elsewhere.without) is not None:
            them = "it" if elsewhere.others == 1 else "them"
            found[pair] += f"; the verdict without {them}: {without.verdict}, {change(without.difference)}"
    return found


def sensitivity(results: StudyResults, comparisons: Sequence[rule.Comparison]) -> str:
    """These comparisons without the networks that no planned comparison uses, in Markdown; empty if no verdict
    changes."""
    others, again = without_uncompared(results, comparisons)
    if not again:
        return ""
    shift = " and the estimated difference between machines" if len(run_model(results).machines) > 1 else ""
    return (
        "**Sensitivity.** These networks are in no planned comparison, but their runs enter the pooled standard"
        f" deviation, the test of equal deviations{shift}: {names(others)}. The verdicts above count all runs, as"
        " planned. Without these networks they would be:\n\n" + "".join(f"- {one_verdict(pair)}\n" for pair in again)
    )


def one_verdict(pair: rule.Comparison, caveat: str = "") -> str:
    """'**a** is **better** than b: +0.50 pp (95 % CI +0.20 to +0.80), which rules out a gain below 0.20 pp'; a clause
    for use in a list. It ends with the `caveat`, if there is one."""
    ours, theirs = f"**{escape_markdown(pair.treatment)}**", escape_markdown(pair.baseline)
    ending = f"; *{caveat}*" if caveat else ""
    if not pair.difference.exists:
        unplanned, why = pair.verdict == rule.UNPLANNED, pair.difference.reason
        said = ": not a planned comparison, so no verdict" if unplanned else " is inconclusive"
        return f"{ours} against {theirs}{said}: {points(pair.difference.point)} pp ({why}){ending}"
    said = {
        rule.BETTER: f"{ours} is **better** than {theirs}",
        rule.WORSE: f"{ours} is **worse** than {theirs}",
        rule.EQUIVALENT: f"{ours} and {theirs} are **{rule.EQUIVALENT}**",
        rule.NO_GAIN: f"{ours} shows **{rule.NO_GAIN}** over {theirs}",
        rule.NO_LOSS: f"{ours} shows **{rule.NO_LOSS}** against {theirs}",
        rule.INCONCLUSIVE: f"{ours} against {theirs} is **inconclusive**",
        rule.EARLY: f"{ours} against {theirs}: **early training**, so no verdict",
        rule.UNPLANNED: f"{ours} against {theirs}: not a planned comparison, so no verdict",
    }[pair.verdict]
    limited = " at this stage of training" if pair.verdict == rule.EARLY else ""
    return f"{said}: {change(pair.difference)}, which rules out {ruled_out(pair.difference)}{limited}{ending}"


def change(found: stats.Interval) -> str:
    """'+0.50 pp (95 % CI +0.20 to +0.80)'."""
    seen = f"95 % CI {span(found.low, found.high, limit)}" if found.exists else found.reason
    return f"{points(found.point)} pp ({seen})"


def ruled_out(found: stats.Interval) -> str:
    """What an interval rules out, in words."""
    low, high = (f"{limit(end, sign=False)} pp" for end in (found.low, found.high))
    if found.low > 0:
        return f"a gain below {low} or above {high}"
    if found.high < 0:
        return f"a loss below {high} or above {low}"
    return f"a gain above {high} and a loss above {low}"


def spread(results: StudyResults) -> str:
    """The pooled standard deviation behind the intervals, with its plausibility check and the machines; empty if there
    is none."""
    model = run_model(results)
    if model.sd is None:
        return ""
    networks, freedom = counted(int(model.with_spread.sum()), "network"), counted(model.degrees, "degree")
    text = f"Standard deviation over seeds, pooled over {networks}: {percent(model.sd)} pp ({freedom} of freedom)."
    if (independent := independent_sd(results)) is not None:
        text += (
            " For comparison: if a run misclassified every image independently of the other images, the standard"
            f" deviation would be {percent(independent)} pp."
        )
    if len(model.machines) > 1:
        listed = "; ".join(map(escape_markdown, model.machines))
        which = "every difference" if model.linked else "every difference that has a CI"
        text += (
            f" The runs come from {len(model.machines)} machines ({listed}). A constant difference between the machines"
            f" is estimated and removed from {which}, its CI and its p value, and from the deviation above."
            f"{_machine_effects(model)} Means ± standard deviations and accuracies within classes are not adjusted."
        )
    if model.unequal:
        linked = " and of the networks that link its machines" if len(model.machines) > 1 else ""
        text += (
            f" Bartlett's test finds different deviations (p = {model.p_equal:.3f}, below {contrasts.UNEQUAL_AT}), so"
            f" each comparison uses those of its own two networks{linked} (Welch), with Bonferroni's correction."
        )
    return text


def _machine_effects(model: contrasts.RunModel) -> str:
    """What the model adds for each machine but the first, after a space; empty if the runs do not determine it."""
    if not model.linked:
        return ""
    first, *others = model.machines
    effects = dict(zip(others, model.effects[len(model.labels) :], strict=True))
    listed = "; ".join(f"{escape_markdown(place)} {points(effect)} pp" for place, effect in effects.items())
    return f" The estimate, in comparison with {escape_markdown(first)}: {listed}."


def finite_set(results: StudyResults) -> str:
    """What the size of the evaluated set adds to the uncertainty of an accuracy; empty without a finished run."""
    if results.done.empty:
        return ""
    run = results.done.iloc[0]["run_id"]
    images = int((results.predictions["run_id"] == run).sum())
    means = results.done["test_accuracy"].astype(float).groupby(results.done["label"]).mean()
    wilson = [stats.wilson_interval(round(mean * images), images) for mean in means]
    halves = [100 * max(found.high - found.point, found.point - found.low) for found in wilson]  # the longer side
    ends = dict.fromkeys(f"±{half:.1f}" for half in (min(halves), max(halves)))
    further = f"{' to '.join(ends)} pp{', depending on the accuracy' if len(ends) > 1 else ''}"
    what = "accuracies and their CIs" if results.done["label"].duplicated().any() else "accuracies"
    return (
        f"The {what} hold for these {images:,} {evaluated(results)} images. Compared with accuracies"
        f" on other images, allow a further {further}, since these images are a sample."
    )


def ranking(results: StudyResults) -> str:
    """'the test accuracies are a 93.10 %, b 92.80 %': means, highest first; of many, the three highest and lowest."""
    means = results.done.groupby("label")["test_accuracy"].apply(lambda values: values.astype(float).mean())
    means = means.sort_values(ascending=False, kind="stable")
    kind = f"mean {evaluated(results)}" if results.done["label"].value_counts().max() > 1 else evaluated(results)
    listed = [f"{escape_markdown(label)} {percent(mean)} %" for label, mean in means.items()]
    if len(listed) > MANY:
        ends = f"{', '.join(listed[:3])}; the lowest are {', '.join(listed[-3:])}"
        return f"the highest {kind} accuracies of {len(listed)} configurations are {ends}"
    return f"the {kind} {'accuracies are' if len(means) > 1 else 'accuracy is'} {', '.join(listed)}"


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
    """Why the report compares no times, if the study declares them incomparable or runs shared a GPU; otherwise
    empty."""
    if not results.study.get("timed", True):
        why = "the runs shared a machine with each other or with other work, or ran on several machines"
    elif (runs := results.runs_per_gpu) > 1:
        why = f"up to {runs} runs at a time were trained on the same GPU"
    else:
        return ""
    return f"Training times are not compared: {why}."


def incomparable_seconds(results: StudyResults) -> str:
    """One line per setting in which the finished runs' environments differ; empty if there is none."""
    return "\n".join(
        f"The runs used different {TIMED_UNDER[key]} ({names(values)}): their training times cannot be compared."
        for key, values in results.different_conditions.items()
    )


def same_cost(networks: pd.DataFrame) -> str:
    """The cost, if it is the same for all networks, in place of a figure of accuracy against cost; otherwise empty.
    `networks` from `tables.networks`."""
    costs = networks[["params", "macs"]].drop_duplicates()
    if len(networks) < 2 or len(costs) > 1 or costs.isna().any(axis=None):
        return ""
    params, macs = costs.iloc[0]
    return f"All networks have {params:,.0f} parameters and {millions(macs)} million multiply-adds per image."


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


def total_time(results: StudyResults) -> str:
    """The total training time of all finished runs."""
    return duration(float(results.done["train_seconds"].astype(float).sum()))


def names(values: Sequence[str], most: int = 4) -> str:
    """'a, b, c and 5 more', escaped."""
    values = list(values)
    listed = ", ".join(map(escape_markdown, values[:most]))
    return f"{listed} and {len(values) - most} more" if len(values) > most else listed
