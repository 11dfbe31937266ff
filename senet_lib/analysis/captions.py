"""What a report says of its figures and tables: captions of only what is shown, and alternative texts with the finding.

In Markdown; all external text is escaped.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from senet_lib.analysis import rule
from senet_lib.analysis.comparisons import run_model
from senet_lib.analysis.format import count, percent, points, seconds
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.sentences import caveats, change, finite_set, last_epoch, names, sample_sizes, why_no_interval
from senet_lib.analysis.shown_tables import BCA, DETECTABLE, SIGN_FLIP, SUPERIOR
from senet_lib.analysis.stats import MARGIN
from senet_lib.analysis.tables import MANY, evaluated, named_in_comparisons
from senet_lib.results import StudyResults

CI = "95 % t confidence intervals (CIs) over seeds"


# ------------------------------------------------------------------------------------------------------------- captions


def means(results: StudyResults) -> str:
    """'means over n = 5 seeds; bars: 95 % t ...': what a point and its bar are."""
    seeds, size = results.done["label"].value_counts(), sample_sizes(results)
    if seeds.max() < 2:
        return f"the accuracy of a run ({size})"
    return f"means over {size}; bars: {CI}" + (", none for one seed" if seeds.min() < 2 else "")


def networks(results: StudyResults, table: pd.DataFrame) -> str:
    """The caption of the table of networks; `table` from `tables.networks`."""
    baseline = results.study["baseline"]
    parts = [f"{evaluated(results).capitalize()} accuracy after {last_epoch(results)}"]
    if table["sd"].notna().any():
        wide = " (very wide with two seeds; it may exceed 100 %)" if (table["n"] == 2).any() else ""
        parts[0] += f": mean ± standard deviation over seeds, and the 95 % t CI of the mean{wide}"
    if table["difference"].notna().any():
        of = (
            escape_markdown(baseline)
            if set(table["control"].dropna()) <= {baseline}
            else "the network named as control"
        )
        interval = ", with its 95 % CI" if table["difference_low"].notna().any() else ""
        parts[0] += f"; the difference from {of}{interval}"
        parts += [adjusted(results).removesuffix(".")] * (interval != "")
    parts += [finite_set(results).removesuffix("."), "MACs: multiply-adds per image"]
    parts += ["Training time per epoch: median over epochs, mean over seeds"] * results.timed
    many = "Changes: a model with another name than the network, and the options that not all networks share"
    parts += [many] * (len(table) > MANY)
    parts += ["The settings of published accuracies are listed below"] * bool(table["published"].notna().any())
    return ". ".join(filter(None, parts)) + "."


def adjusted(results: StudyResults) -> str:
    """Why a difference with an interval need not be that of two means; empty if it is."""
    model = run_model(results)
    if len(model.machines) < 2:
        return ""
    which = "Differences" if model.linked else "Differences that have an interval"
    return f"{which} are adjusted for the machine of each run, so they can deviate from the difference of two means."


def comparisons(shown: pd.DataFrame) -> str:
    """The caption of the table of comparisons; `shown` from `shown_tables.comparisons`."""
    paired = {
        BCA: "BCa: bootstrap of the paired differences",
        SIGN_FLIP: "Sign-flip p: paired permutation test",
    }
    there = "; ".join(text for column, text in paired.items() if column in shown)
    parts = ["Every planned comparison of two networks with finished runs on the same data"]
    parts += ["CI and p: corrected over all of them"] * ("p" in shown)
    parts += [f"{there}; not corrected, and without effect on the verdict"] * bool(there)
    superior = f"{SUPERIOR}: share of all pairs of runs in which the first network's run is better; a tie counts half"
    parts += [superior] * (SUPERIOR in shown)
    left_out = [name for name in (BCA, SIGN_FLIP, SUPERIOR) if name in shown and "none" in [*shown[name]]]
    if both := [name.split()[0] for name in left_out if name != SUPERIOR]:
        why = "for comparisons of too few seeds, or with a seed whose two runs were trained on different machines"
        parts.append(f"No {' or '.join(both)} {why}")
    if SUPERIOR in left_out:
        several = "whose runs were trained on several machines"
        parts.append(f"No {SUPERIOR.split()[0]} for comparisons with a single run of a network, or {several}")
    detectable = "Detectable: smallest true difference found with 80 % power at this n and standard deviation"
    parts += [detectable] * (DETECTABLE in shown)
    return ". ".join(parts) + "."


def differences_figure(results: StudyResults, compared: Sequence[rule.Comparison]) -> str:
    """The caption of the figure of differences."""
    why = why_no_interval(compared)
    ending = f"; no CIs, since {why}" if why else ", with 95 % CIs that hold for all planned comparisons at once"
    of = f"{evaluated(results)} accuracy after {last_epoch(results)} ({sample_sizes(results)})"
    return (
        f"Mean difference in {of}{ending}."
        f" Grey: within ±{100 * MARGIN:g} pp, declared beforehand as too small to matter."
    )


def runs(results: StudyResults, table: pd.DataFrame) -> str:
    """The caption of the table of runs; `table` from `tables.runs`."""
    missing = (table["status"] == "missing").sum()
    shown = "Every run with its status" if missing else "Every planned run with its status"
    left = f" Not started yet: {count(missing)} of {count(len(table))} planned runs." if missing else ""
    if missing and results.is_published:
        left = " Runs of seeds that not all networks have finished are not shown."
    return f"{shown}; accuracy and loss after {last_epoch(results)} on the {evaluated(results)} images.{left}"


def detail(results: StudyResults, shown: Sequence[str]) -> str:
    """Which networks a study of many shows in detail, as a paragraph; empty if it shows all of them."""
    if len(shown) == len(results.labels):
        return ""
    which = (
        "those of the planned comparisons"
        if set(shown) == named_in_comparisons(results)
        else "the baseline and the three of the highest and of the lowest accuracy"
    )
    return (
        f"This study has {len(results.labels)} configurations. The figure above and the tables of networks and of"
        f" comparisons show all of them. The other figures show {which}: {names(shown, MANY)}."
    )


def renamed(shown: Mapping[str, str]) -> str:
    """Which names stand for which in the figures, as a paragraph; `shown` from `plots.replaced`."""
    listed = "; ".join(f"{stand_in}: {escape_markdown(name)}" for stand_in, name in shown.items())
    return (
        f"No installed font has the characters of these names. Figures show numbers instead: {listed}." if shown else ""
    )


def smoothed_loss(results: StudyResults) -> str:
    """That the training loss includes label smoothing, after a space: the end of a caption; empty if it has none."""
    shared = results.study["recipe"]
    recipes = [shared | (network.get("recipe") or {}) for network in results.study["networks"].values()]
    values = {recipe.get("label_smoothing", 0) for recipe in recipes}
    if not any(values):
        return ""
    if len(values) > 1:
        return " Where the recipe has label smoothing, the training loss includes it; the other loss never does."
    (smoothing,), classes = values, len(results.study["classes"])
    wrong = smoothing / classes
    right = 1 - smoothing + wrong
    lowest = -(right * np.log(right) + (classes - 1) * wrong * np.log(wrong))
    return (
        f" The training loss includes label smoothing of {smoothing:g}, so it cannot fall below {lowest:.2f}; the"
        f" {evaluated(results)} loss does not, so the two cannot be compared."
    )


# --------------------------------------------------------------------------------------------------- alternative texts


def losses(results: StudyResults, history: pd.DataFrame) -> str:
    """The mean loss of each network at its last epoch, lowest first."""
    last = history[history["epoch"] == history.groupby("run_id")["epoch"].transform("max")]
    found = last.groupby("label")["test_loss"].apply(lambda values: values.astype(float).mean())
    found = found.sort_values(kind="stable")
    listed = ", ".join(f"{escape_markdown(label)} {loss:.3f}" for label, loss in found.items())
    return f"Loss curves. After {last_epoch(results)} the mean {evaluated(results)} losses are {listed}."


def class_changes(shares: Mapping[str, np.ndarray], controls: Mapping[str, str], classes: Sequence[str]) -> str:
    """The class whose accuracy differs most between each network and its control. shares: label -> confusion matrix,
    in fractions. controls: label -> the control's label."""
    if not controls:
        return "No network is compared with another one."
    found = []
    for label, control in controls.items():
        recall = np.nan_to_num(np.diag(shares[label] - shares[control]))
        k = int(np.abs(recall).argmax())
        pair = f"{escape_markdown(label)} minus {escape_markdown(control)}"
        found.append(f"{pair}: {escape_markdown(classes[k])} {points(recall[k])} pp")
    return f"Differences of confusion matrices. Largest change of a class: {'; '.join(found)}."


def differences(results: StudyResults, compared: Sequence[rule.Comparison]) -> str:
    """Every comparison with its verdict, its difference and its caveat."""
    found, why, beside = [], why_no_interval(compared), caveats(results, compared)
    for pair in compared:
        names_of_pair = f"{escape_markdown(pair.treatment)} against {escape_markdown(pair.baseline)}"
        said = [f"{points(pair.difference.point)} pp"] if why else [pair.verdict, change(pair.difference)]
        said += filter(None, [beside.get((pair.treatment, pair.baseline))])
        found.append(f"{names_of_pair}: {', '.join(said)}")
    if not found:
        return "No comparison has finished runs."
    return f"Differences {f'without intervals, since {why}' if why else 'with their intervals'}. {'; '.join(found)}."


def class_accuracies(table: pd.DataFrame) -> str:
    """The hardest and the easiest class by the mean over networks; `table` from `tables.class_accuracies`."""
    if table.empty:
        return "No class has an evaluated image."
    found = table.groupby("class", sort=False)["mean"].mean()
    low, high = (f"{escape_markdown(name)} ({percent(found[name])} %)" for name in (found.idxmin(), found.idxmax()))
    return f"Accuracy by class. Mean over networks: lowest for {low}, highest for {high}."


def epoch_times(table: pd.DataFrame) -> str:
    """The training time per epoch of each network, fastest first; `table` from `tables.networks`."""
    rows = table.dropna(subset=["seconds_per_epoch"]).sort_values("seconds_per_epoch", kind="stable").itertuples()
    listed = ", ".join(f"{escape_markdown(row.label)} {seconds(row.seconds_per_epoch)} s" for row in rows)
    return f"Training time per epoch: {listed}."
