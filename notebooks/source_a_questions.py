"""Answers to source A's three open questions, as far as a study's results go: every sentence follows from a verdict.

The networks' labels are those of `studies/source_a_short.yaml`, `source_a_narrow.yaml` and `source_a.yaml`. No torch,
as in all analysis: network sizes are the published figures, against which the tests check the library's own counts.
"""

import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from senet_lib.analysis import stats
from senet_lib.analysis.format import count, percent, points, span
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.sentences import last_epoch, names, one_verdict, sample_sizes
from senet_lib.analysis.stats import BETTER, INCONCLUSIVE, NO_DIFFERENCE, WORSE
from senet_lib.analysis.tables import accuracies, compare, evaluated, planned_comparisons
from senet_lib.files import write_json
from senet_lib.project import project_root
from senet_lib.report.publish import published_folder
from senet_lib.results import StudyResults, load_results
from senet_lib.study import Study, load_study

Pair = tuple[str, str]

SIZE: Pair = ("resnet50", "resnet56")
DEPTH: Pair = ("se_resnet18", "se_resnet50")
RELU: Pair = ("source_a_senet50", "se_resnet50")
OBSERVED: Pair = ("se_resnet18", "source_a_senet50")
SELECTIVE: Pair = ("sknet50", "resnet50")
SK_STEM: Pair = ("sknet50_imagenet_stem", "sknet50")
PLAIN_STEM: Pair = ("resnet50_imagenet_stem", "resnet50")
STEMS = ("3x3, stride 1", "7x7, stride 2, and max-pool")
STUDIES = ("source_a_short", "source_a_narrow")  # these answer the questions; the first that is published is used
WHAT_TO_RUN = (
    "`make reproduce STUDY=source_a_narrow` trains what these questions need at a quarter of the width (some hours on"
    " two CPU cores for each seed), `STUDY=source_a_short` at full width (for a GPU); then give this notebook the"
    ' results folder, for example results = "../results/source_a_narrow"'
)


def load(results: str) -> StudyResults:
    """The study in a results folder. If `results` is empty: the published study or, without one, the plan alone.

    Raises FileNotFoundError with a message that says what to run.
    """
    if not results:
        published = next((folder for folder in map(published_folder, STUDIES) if folder.is_dir()), None)
        return load_results(published) if published else _planned(load_study(STUDIES[0], project_root() / "studies"))
    if not (Path(results) / "study.json").is_file():
        raise FileNotFoundError(f"{results}: no study's results there. {WHAT_TO_RUN}")
    return load_results(results)


def _planned(study: Study) -> StudyResults:
    """A study without any trained run."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "study.json", study.record())
        return load_results(folder)


# ---------------------------------------------------------------------------------------------------- the comparisons


def comparisons(study: StudyResults, pairs: Sequence[Pair]) -> list[stats.Comparison]:
    """These comparisons, where both networks have a finished run.

    Holm's correction covers all comparisons that the study planned. A comparison that it did not plan is uncorrected.
    """
    planned = {(pair.treatment, pair.baseline): pair for pair in compare(study)}
    found = []
    for pair in pairs:
        if pair in planned:
            found.append(planned[pair])
        else:
            found += stats.compare_all(accuracies(study), [pair], np.random.default_rng(0))
    return found


def differences(found: Sequence[stats.Comparison]) -> dict[Pair, stats.Interval]:
    """(treatment, baseline) -> difference; input of `plots.difference_intervals`."""
    return {(pair.treatment, pair.baseline): pair.difference for pair in found}


def stem_cells(study: StudyResults) -> dict[str, dict[str, stats.Interval]]:
    """network -> {stem: mean accuracy with its t interval}, where a run is finished; input of `plots.crossed`."""
    values = accuracies(study)
    cells: dict[str, dict[str, stats.Interval]] = {}
    for large, small in (PLAIN_STEM, SK_STEM):
        for stem, label in zip(STEMS, (small, large), strict=True):
            if values.get(label):
                cells.setdefault(small, {})[stem] = stats.t_interval(list(values[label].values()))
    return cells


def stem_interaction(study: StudyResults) -> stats.Welch | None:
    """SKNet-50's gain from the small-image stem minus ResNet-50's; None if any of the four networks has no run."""
    values = accuracies(study)
    if not all(values.get(label) for label in (*SK_STEM, *PLAIN_STEM)):
        return None
    sk, plain = ([list(values[label].values()) for label in reversed(pair)] for pair in (SK_STEM, PLAIN_STEM))
    return stats.interaction(tuple(sk), tuple(plain))


def stem_differences(study: StudyResults) -> dict[Pair, stats.Interval]:
    """The differences of question 3, with their interaction last."""
    found, crossed = differences(comparisons(study, (SELECTIVE, SK_STEM, PLAIN_STEM))), stem_interaction(study)
    return found if crossed is None else found | {("3x3 stem's gain, sknet50", "resnet50's"): crossed.interval}


def controls(study: StudyResults, pairs: Sequence[Pair]) -> str:
    """For each pair, one line on how its two networks differ, from the study's own record."""
    runs = {run["label"]: run for run in study.study["runs"]}
    lines = []
    for ours, theirs in pairs:
        if ours not in runs or theirs not in runs:
            continue
        (a, b) = runs[ours], runs[theirs]
        knobs = list(a["knobs"] | b["knobs"])
        if a["model"] != b["model"]:  # an option that only one network sets is part of that network
            knobs = [knob for knob in a["knobs"] if knob in b["knobs"]]
        changed = {
            knob: (a["knobs"].get(knob, "default"), b["knobs"].get(knob, "default"))
            for knob in knobs
            if a["knobs"].get(knob) != b["knobs"].get(knob)
        }
        if a["model"] != b["model"]:
            changed = {"the network": (a["model"], b["model"])} | changed
        what = "; ".join(
            f"{escape_markdown(name)}: {', '.join(map(escape_markdown, values))}" for name, values in changed.items()
        )
        if len(changed) > 1:
            what += " (more than one thing: their effects are not told apart)"
        lines.append(f"- {escape_markdown(ours)} and {escape_markdown(theirs)} differ in {what}.")
    return "\n".join(lines)


def caption(study: StudyResults, number: int, drawn: str) -> str:
    """A figure's caption: what is drawn, with the metric, the epoch and n."""
    return (
        f"**Figure {number}.** {drawn}: {evaluated(study)} accuracy after {last_epoch(study)}, {sample_sizes(study)},"
        f" study {escape_markdown(study.study['name'])}. Bars: 95 % CIs over seeds, none where there is none."
    )


# ------------------------------------------------------------------------------------------------- question 1: the size


def published_runs() -> pd.DataFrame:
    """Single published accuracies: label, model, mean (the accuracy) with Wilson's low and high, params, source."""
    reference = files("senet_lib") / "reference"
    table = pd.read_csv(reference / "published_accuracy.csv", keep_default_na=False)
    sizes = pd.read_csv(reference / "published_complexity.csv", keep_default_na=False)
    sizes = sizes[(sizes["params"] != "") & (sizes["pixels"] == 32)].drop_duplicates(["name", "knobs"])
    params = sizes.set_index(["name", "knobs"])["params"].astype(float).sort_index()
    rows = []
    for row in table.itertuples():
        wilson = stats.wilson_interval(round(row.accuracy * row.images), row.images)
        rows.append(
            {"label": row.name, "model": row.name.removeprefix("source_a_"), "mean": row.accuracy}
            | {"low": wilson.low, "high": wilson.high, "params": params[row.name, row.knobs], "source": row.source}
        )
    return pd.DataFrame(rows)


def shown_published_runs(table: pd.DataFrame) -> pd.DataFrame:
    """`published_runs` as text."""
    return pd.DataFrame(
        {
            "Network": table["label"],
            "Parameters": table["params"].map(count),
            "Published (%)": table["mean"].map(percent),
            "Wilson 95 %": [span(row.low, row.high, percent) for row in table.itertuples()],
            "From": table["source"],
        }
    )


def answer_size(study: StudyResults, published: pd.DataFrame) -> str:
    """Question 1: what the published numbers show, then what the study adds."""
    table = published.set_index("label")
    ours, theirs = table.loc["source_a_resnet50"], table.loc["resnet56"]
    overlap = ours["low"] <= theirs["high"] and theirs["low"] <= ours["high"]
    apart = (
        "overlap: the finite test set alone could make the gap"
        if overlap
        else "do not overlap: the finite test set alone does not make the gap, though seeds and recipes still may"
    )
    lines = [
        f"- The Wilson intervals of ResNet50 ({span(ours['low'], ours['high'], percent)} %) and ResNet-56"
        f" ({span(theirs['low'], theirs['high'], percent)} %) {apart}.",
        f"- They are different networks: {count(ours['params'])} parameters against about {count(theirs['params'])},"
        f" a factor of {ours['params'] / theirs['params']:.0f}. The question compares these two as if depth alone"
        " named a network.",
    ]
    if found := comparisons(study, [SIZE]):
        lines.append(f"- Under one recipe: {one_verdict(found[0])}.")
        how = {
            BETTER: "The network itself, under one and the same recipe, accounts for a part of the gap",
            WORSE: "Under one and the same recipe the order is the reverse, so the gap would be the recipe's",
            NO_DIFFERENCE: "Under one recipe the two are alike, so the gap would be the recipe's",
            INCONCLUSIVE: "Whether the network or the recipe makes the gap remains open",
        }
        return "\n".join([*lines, "", f"**Verdict.** {how[found[0].verdict]}."])
    lines.append(f"- {_own_size(study, theirs['params'])}")
    verdict = (
        "The question rests on two networks of different size; whether size or recipe makes the gap is **open**"
        " here, since this study has not trained a ResNet-56 beside its ResNet50"
    )
    return "\n".join([*lines, "", f"**Verdict.** {verdict}."])


def _own_size(study: StudyResults, params: float) -> str:
    runs = study.done[study.done["label"] == "resnet50"]
    if runs.empty:
        return "This study has no finished run of its resnet50."
    sample = stats.describe(runs["test_accuracy"].astype(float))
    size = float(runs["params"].iloc[0])
    interval = sample.interval
    known = f"95 % CI {span(interval.low, interval.high, percent)} %" if interval.exists else interval.reason
    return (
        f"This study's resnet50 has {count(size)} parameters, {size / params:.1f} times those of ResNet-56, and reaches"
        f" {percent(sample.mean)} % ({known}) after {last_epoch(study)}. Other epochs and another width than published:"
        " the number cannot be set beside theirs."
    )


# -------------------------------------------------------------------------------------- question 2: the depth, the ReLU


def answer_relu(study: StudyResults) -> str:
    """Question 2: A's observation, the ReLU alone, the depth alone, each with its interval; then the conclusion."""
    pairs = (OBSERVED, RELU, DEPTH)
    found = _found(study, pairs)
    if missing := _missing(study, pairs):
        return _with_verdict(study, found, {}, missing)
    claims = {
        OBSERVED: {
            BETTER: "A's observation, SENet18 above A's SENet50, is seen here",
            WORSE: "The reverse of A's observation is seen here",
            NO_DIFFERENCE: "A's observation is not seen here",
            INCONCLUSIVE: "Whether A's observation holds remains open here",
        },
        RELU: {
            BETTER: "Leaving the ReLU out raises the accuracy",
            WORSE: "Leaving the ReLU out costs accuracy",
            NO_DIFFERENCE: "Leaving the ReLU out makes no difference that matters",
            INCONCLUSIVE: "What leaving the ReLU out does remains open",
        },
        DEPTH: {
            BETTER: "Where both have their ReLUs, the shallower network is ahead",
            WORSE: "Where both have their ReLUs, the deeper network is ahead",
            NO_DIFFERENCE: "Where both have their ReLUs, depth makes no difference that matters",
            INCONCLUSIVE: "Where both have their ReLUs, which depth is ahead remains open",
        },
    }
    return _with_verdict(study, found, claims, relu_verdict(*(found[pair].verdict for pair in pairs)))


def relu_verdict(observed: str, relu: str, depth: str) -> str:
    """Question 2 in one sentence, from the verdicts on OBSERVED, RELU and DEPTH."""
    if observed == INCONCLUSIVE:
        return "**Inconclusive**: these results do not establish A's observation, so there is nothing yet to explain."
    if observed != BETTER:
        return "In this setting there is nothing to explain: SENet18 is not above A's SENet50."
    if relu == WORSE and depth in (WORSE, NO_DIFFERENCE):
        return "In this setting **the missing ReLU explains it**: with the ReLU, SENet18 is no longer above SENet50."
    if relu == WORSE and depth == BETTER:
        return "In this setting the missing ReLU is **a part of it**: SENet18 is above SENet50 with the ReLU, too."
    if relu in (BETTER, NO_DIFFERENCE):
        return "In this setting **the missing ReLU does not explain it**."
    return "**Inconclusive**: A's observation is seen, and these results do not settle how much of it the ReLU makes."


# ------------------------------------------------------------------------------------------------ question 3: the stem


def answer_stem(study: StudyResults) -> str:
    """Question 3: the stem in each network, the networks with the small-image stem, and the interaction."""
    pairs = (SELECTIVE, SK_STEM, PLAIN_STEM)
    found, crossed = _found(study, pairs), stem_interaction(study)
    if missing := _missing(study, pairs):
        return _with_verdict(study, found, {}, missing)
    stems = {
        BETTER: "the stem made for large images raises the accuracy",
        WORSE: "the stem made for large images costs accuracy",
        NO_DIFFERENCE: "the stem makes no difference that matters",
        INCONCLUSIVE: "what the stem does remains open",
    }
    claims = {
        SELECTIVE: {
            BETTER: "With the stem for small images, SKNet50 is ahead of ResNet50",
            WORSE: "With the stem for small images, SKNet50 is behind ResNet50",
            NO_DIFFERENCE: "With the stem for small images, SKNet50 and ResNet50 are alike",
            INCONCLUSIVE: "With the stem for small images, which of the two is ahead remains open",
        },
        SK_STEM: {verdict: f"In SKNet50 {text}" for verdict, text in stems.items()},
        PLAIN_STEM: {verdict: f"In ResNet50 {text}" for verdict, text in stems.items()},
    }
    verdict = stem_verdict(found[SELECTIVE].verdict, found[SK_STEM].verdict)
    return _with_verdict(study, found, claims, verdict, [_interaction_line(crossed)])


def stem_verdict(selective: str, sk_stem: str) -> str:
    """Question 3 in one sentence, from the verdicts on SELECTIVE and SK_STEM."""
    network = {
        BETTER: "and with the stem for small images the network is ahead of ResNet50",
        WORSE: "and the network is a second cause: with the stem for small images it is still behind ResNet50",
        NO_DIFFERENCE: "and with the stem for small images the network is as good as ResNet50",
        INCONCLUSIVE: "and whether the network is a second cause remains open",
    }
    if sk_stem == WORSE:
        return f"In this setting **the stem holds SKNet50 back**, {network[selective]}."
    if sk_stem == INCONCLUSIVE:
        return "**Inconclusive**: these results do not settle what the stem does to SKNet50."
    cause = "; the network itself is behind ResNet50" if selective == WORSE else ""
    return f"In this setting **the stem does not hold SKNet50 back**{cause}."


def _interaction_line(crossed: stats.Welch) -> str:
    found = crossed.interval
    claim = {
        BETTER: "The stem for small images gains SKNet50 more than it gains ResNet50",
        WORSE: "The stem for small images gains SKNet50 less than it gains ResNet50",
        NO_DIFFERENCE: "The stem for small images gains both networks the same, within the margin",
        INCONCLUSIVE: "Whether the stem matters more to SKNet50 than to ResNet50 remains open",
    }[stats.verdict(found, crossed.p)]
    seen = f"95 % CI {span(found.low, found.high, points)}" if found.exists else found.reason
    return (
        f"- {claim}: the difference of the two differences is {points(found.point)} pp ({seen}); not one of the"
        " study's planned comparisons, so not corrected."
    )


# --------------------------------------------------------------------------------------------------------------- pieces


def _found(study: StudyResults, pairs: Sequence[Pair]) -> dict[Pair, stats.Comparison]:
    return {(pair.treatment, pair.baseline): pair for pair in comparisons(study, pairs)}


def _missing(study: StudyResults, pairs: Sequence[Pair]) -> str:
    """Why the question has no answer: networks without a finished run, and what to run; empty if none is missing."""
    values = accuracies(study)
    missing = [label for label in dict.fromkeys(label for pair in pairs for label in pair) if not values.get(label)]
    if not missing:
        return ""
    study_name = escape_markdown(study.study["name"])
    return f"**Not answered**: the study {study_name} has no finished run of {names(missing, 10)}. {WHAT_TO_RUN}."


def _with_verdict(
    study: StudyResults,
    found: Mapping[Pair, stats.Comparison],
    claims: Mapping[Pair, Mapping[str, str]],
    verdict: str,
    more: Sequence[str] = (),
) -> str:
    planned = set(planned_comparisons(study))
    lines = []
    for pair, comparison in found.items():
        claim = f"{claims[pair][comparison.verdict]}: " if pair in claims else ""
        note = "" if pair in planned else "; not one of the study's planned comparisons, so not corrected"
        lines.append(f"- {claim}{one_verdict(comparison)}{note}.")
    return "\n".join([*lines, *more, "", f"**Verdict.** {verdict}"])
