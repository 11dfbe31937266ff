"""Answers to source A's three open questions, from a study's results: the verdicts select every sentence.

The networks' labels are those of `studies/source_a_short.yaml`, `source_a_narrow.yaml` and `source_a.yaml`. Imports no
torch: the network sizes are the published ones, which the tests compare with the library's own counts.
"""

import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from senet_lib.analysis import contrasts, learning_rates, rule, stats
from senet_lib.analysis.captions import adjusted
from senet_lib.analysis.contrasts import simultaneous
from senet_lib.analysis.format import count, millions, percent, span
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.power import MOST_SEEDS, seeds_needed
from senet_lib.analysis.rule import BETTER, EARLY, EQUIVALENT, INCONCLUSIVE, NO_GAIN, NO_LOSS, WORSE
from senet_lib.analysis.sentences import (
    caveats,
    change,
    last_epoch,
    names,
    one_verdict,
    ruled_out,
    sample_sizes,
    sensitivity,
)
from senet_lib.analysis.tables import accuracies, compare, data_of_networks, evaluated, planned_comparisons, run_model
from senet_lib.files import write_json
from senet_lib.project import project_root
from senet_lib.report.publish import committed_results, published_folder
from senet_lib.results import StudyResults, load_results
from senet_lib.study import Study, load_study

Pair = tuple[str, str]

SIZE: Pair = ("resnet50", "resnet56")
DEPTH: Pair = ("se_resnet18", "se_resnet50")
RELU: Pair = ("source_a_senet50", "se_resnet50")
OBSERVED: Pair = ("se_resnet18", "source_a_senet50")
SELECTIVE: Pair = ("sknet50", "resnet50")
EFFECT: Pair = ("sknet50", "resnext50_32x4d")
SK_STEM: Pair = ("sknet50_imagenet_stem", "sknet50")
PLAIN_STEM: Pair = ("resnet50_imagenet_stem", "resnet50")
WHAT_ELSE = {  # comparison -> what differs between its networks, beside the options that the study sets
    SIZE: "50 layers in wide bottleneck blocks against 56 layers in thin blocks of two 3x3 convolutions",
    DEPTH: "18 layers in basic blocks against 50 layers in bottleneck blocks, SE in both",
    RELU: "one ReLU per block: A's SENet50 lacks the one after the 3x3 convolution",
    OBSERVED: "depth, kind of block and the missing ReLU",
    SELECTIVE: "selective kernels, and grouped 3x3 convolutions of twice the width in place of dense ones (A's"
    " contrast, not the effect of SK alone)",
    EFFECT: "selective kernels alone: both networks are grouped and equally wide (the effect of SK)",
    SK_STEM: "the stem: 7x7 with stride 2 and max-pool against 3x3 with stride 1",
    PLAIN_STEM: "the stem: 7x7 with stride 2 and max-pool against 3x3 with stride 1",
}
STEMS = ("3x3, stride 1", "7x7, stride 2, and max-pool")
STUDIES = ("source_a_short", "source_a_narrow")  # these answer the questions; the first that is published is used
WHAT_TO_RUN = (
    "`make reproduce STUDY=source_a_narrow` trains these networks at a quarter of their width, and"
    " `STUDY=source_a_short` at full width (needs a GPU); `make plan` with the same STUDY estimates the time. Then set"
    ' the notebook\'s parameter, for example results = "../results/source_a_narrow"'
)


def load(folder: str) -> StudyResults:
    """The study in a results folder or archive. If `folder` is empty: the published study or, without one, the plan.

    Raises FileNotFoundError if the folder holds no study.
    """
    if not folder:
        published = next((path for path in map(published_folder, STUDIES) if path.is_dir()), None)
        return load_results(published) if published else _planned(load_study(STUDIES[0], project_root() / "studies"))
    if not (Path(folder) / "study.json").is_file() and not (folder.endswith(".zip") and Path(folder).is_file()):
        raise FileNotFoundError(f"{folder} has no study.json, so it is not a results folder. {WHAT_TO_RUN}")
    return load_results(folder)


def _planned(study: Study) -> StudyResults:
    """A study without trained runs."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "study.json", study.record())
        return load_results(folder)


def learning_rate(results: StudyResults) -> str:
    """What is known of the learning rate that the networks share; empty if no check of it is planned."""
    name = f"{results.study['name']}_rates"
    if (check := committed_results(name)) is not None:
        table = learning_rates.by_rate(check)
        found = learning_rates.in_words(check, table, run_model(results).sd_of(table["network"].unique()))
        return f"**The learning rate** was checked on a validation split (study `{name}`):\n\n{found}"
    if not (project_root() / "studies" / f"{name}.yaml").is_file():
        return ""
    return (
        "**The learning rate** is the same for all networks. Whether the sign of a difference depends on it is open:"
        f" the study `{name}`, which checks it on a validation split, has not been trained yet."
    )


# ---------------------------------------------------------------------------------------------------- the comparisons


def comparisons(results: StudyResults, pairs: Sequence[Pair]) -> list[rule.Comparison]:
    """These comparisons, where both networks have finished runs on the same data. Only planned ones have a verdict."""
    planned = {(pair.treatment, pair.baseline): [pair] for pair in compare(results)}
    return [found for pair in pairs for found in planned.get(pair) or compare(results, [pair])]


def differences(found: Sequence[rule.Comparison]) -> dict[Pair, stats.Interval]:
    """(treatment, baseline) -> difference; input of `plots.difference_intervals`."""
    return {(pair.treatment, pair.baseline): pair.difference for pair in found}


def stem_cells(results: StudyResults) -> dict[str, dict[str, stats.Interval]]:
    """network -> {stem: mean accuracy with its t interval}, of the finished runs; input of `plots.crossed`."""
    values = accuracies(results)
    cells: dict[str, dict[str, stats.Interval]] = {}
    for large, small in (PLAIN_STEM, SK_STEM):
        for stem, label in zip(STEMS, (small, large), strict=True):
            if values.get(label):
                cells.setdefault(small, {})[stem] = stats.t_interval(list(values[label].values()))
    return cells


def stem_interaction(results: StudyResults) -> stats.Interval | None:
    """SKNet-50's gain from the small-image stem minus ResNet-50's; None if any of the four networks has no run, or if
    their data differ. Not a planned comparison, so considered alone."""
    values, data = accuracies(results), data_of_networks(results)
    labels = (*SK_STEM, *PLAIN_STEM)
    if not all(values.get(label) for label in labels) or len(set.union(*(data[label] for label in labels))) > 1:
        return None
    signs = dict(zip(labels, (-1.0, 1.0, 1.0, -1.0), strict=True))
    return simultaneous(run_model(results), [signs])[0].interval


def stem_differences(results: StudyResults) -> dict[Pair, stats.Interval]:
    """The differences of question 3, with their interaction last."""
    found, crossed = differences(comparisons(results, stem_pairs(results))), stem_interaction(results)
    return found if crossed is None else found | {("gain from 3x3 stem: sknet50", "resnet50"): crossed}


def controls(results: StudyResults, pairs: Sequence[Pair]) -> str:
    """For each pair, one line on what differs between its two networks: in words, in the options that the study sets,
    and in size."""
    runs = {run["label"]: run for run in results.study["runs"]}
    lines = []
    for ours, theirs in pairs:
        if ours not in runs or theirs not in runs:
            continue
        options = [{"model": run["model"]} | run["knobs"] for run in (runs[ours], runs[theirs])]
        both = options[0].keys() & options[1].keys() if options[0]["model"] != options[1]["model"] else None
        changed = {
            name: [option.get(name, "default") for option in options]
            for name in options[0] | options[1]
            if name != "model" and (both is None or name in both) and options[0].get(name) != options[1].get(name)
        }  # an option that only one of two models has is part of that model
        what = WHAT_ELSE[ours, theirs]
        listed = [f"{name} {' against '.join(map(str, values))}" for name, values in changed.items()]
        what += f". Options: {escape_markdown('; '.join(listed))}" if listed else ""
        if len(changed) + (both is not None) > 1:
            what += " (several differences: their effects are confounded)"
        pair = f"{escape_markdown(ours)} against {escape_markdown(theirs)}"
        lines.append(f"- {pair}: {what}.{_sizes(results, ours, theirs)}")
    return "\n".join(lines)


def _sizes(results: StudyResults, *labels: str) -> str:
    """' 1,484,186 against 500,000 parameters, ... multiply-adds.'; empty unless both networks have a finished run."""
    done = results.done.drop_duplicates("label").set_index("label")
    if not set(labels) <= set(done.index):
        return ""
    sizes = [(count(done.loc[label, "params"]), millions(done.loc[label, "macs"])) for label in labels]
    if sizes[0] == sizes[1]:
        return " Both have {} parameters and {} million multiply-adds.".format(*sizes[0])
    params, macs = (" against ".join(pair) for pair in zip(*sizes, strict=True))
    return f" {params} parameters, {macs} million multiply-adds."


def what_would_close(results: StudyResults, found: Sequence[rule.Comparison]) -> str:
    """What an inconclusive comparison needs; empty if all of `found` are better, worse or equivalent. How many seeds it
    needs is computed only if all networks may have the same standard deviation."""
    inconclusive = {pair.verdict for pair in found} & {EARLY, INCONCLUSIVE, NO_GAIN, NO_LOSS}
    if not inconclusive:
        return ""
    if EARLY in inconclusive:
        return " To close it: more epochs; the order may still change."
    reasons = {pair.difference.reason for pair in found if not pair.difference.exists}
    if contrasts.OTHER_MACHINE in reasons:
        return " To close it: runs of both networks on the same machine."
    if contrasts.NO_DEGREES in reasons:
        return " To close it: more seeds per network on the same machine."
    model = run_model(results)
    if stats.ONE_SEED in reasons or model.sd is None:
        return " To close it: at least two seeds per network."
    if model.unequal:
        return (
            " To close it: more seeds per network. How many cannot be computed, since the standard deviations of the"
            " networks differ."
        )
    seeds = seeds_needed(stats.MARGIN, model.sd, planned_comparisons(results), len(model.labels))
    if seeds is not None and seeds <= min(n for pair in found for n in (pair.n_treatment, pair.n_baseline)):
        return ""
    return (
        f" To detect a difference of {100 * stats.MARGIN:g} pp with 80 % power, this study needs"
        f" {seeds or f'more than {MOST_SEEDS:,}'} seeds per network."
    )


def caption(results: StudyResults, number: int, drawn: str, needed: Sequence[Pair], compared: bool = False) -> str:
    """A figure's caption: what is drawn, with the metric, the epoch and n. needed: the pairs of networks that it shows.
    compared: whether it is a figure of differences, which has two kinds of intervals."""
    values = accuracies(results)
    shown = [pair for pair in needed if (all if compared else any)(values.get(label) for label in pair)]
    if not shown:
        return f"**Figure {number}.** {drawn}: this study has no finished runs for it."
    bars = ""
    if run_model(results).sd is not None:
        bars = " Bars: 95 % t CIs over seeds."
    if compared and bars:
        bars = (
            " Bars: 95 % CIs; those of planned comparisons hold for all of them at once and are therefore wider, the"
            " others each hold alone."
        )
        bars += f" {adjusted(results)}" if adjusted(results) else ""
    return (
        f"**Figure {number}.** {drawn}: {'differences in ' if compared else ''}{evaluated(results)} accuracy after"
        f" {last_epoch(results)}, {sample_sizes(results)}, study {escape_markdown(results.study['name'])}.{bars}"
    )


# ------------------------------------------------------------------------------------------------- question 1: the size


def published_runs() -> pd.DataFrame:
    """Accuracies of single published runs: label, model, mean (the accuracy), low and high (Wilson), params, source."""
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
            "Wilson 95 % CI": [span(row.low, row.high, percent) for row in table.itertuples()],
            "Source": table["source"],
        }
    )


RECIPE = "The gap comes from the recipe: under the same recipe"
SIZE_ANSWERS = {  # verdict on SIZE -> answer to question 1; for any other verdict, that of INCONCLUSIVE
    BETTER: "The larger network accounts for part of the gap: under the same recipe it is ahead.",
    WORSE: f"{RECIPE} the order is reversed.",
    EQUIVALENT: f"{RECIPE} the two networks are equivalent within the margin.",
    NO_GAIN: f"{RECIPE} the larger network is not ahead by the margin or more.",
    INCONCLUSIVE: "**Inconclusive**: these results do not separate the network from the recipe.",
    EARLY: "**No answer yet**: the networks are in early training.",
}


def by_verdict(answers: Mapping[str, str], verdict: str) -> str:
    return answers.get(verdict, answers[INCONCLUSIVE])


def answer_size(results: StudyResults, published: pd.DataFrame) -> str:
    """Question 1: what the published numbers show, then what the study adds."""
    table = published.set_index("label")
    ours, theirs = table.loc["source_a_resnet50"], table.loc["resnet56"]
    overlap = ours["low"] <= theirs["high"] and theirs["low"] <= ours["high"]
    apart = (
        "overlap: the finite test set alone could explain the gap"
        if overlap
        else "do not overlap: the finite test set alone does not explain the gap; seeds and recipes still may"
    )
    lines = [
        f"- The Wilson intervals of ResNet50 ({span(ours['low'], ours['high'], percent)} %) and ResNet-56"
        f" ({span(theirs['low'], theirs['high'], percent)} %) {apart}.",
        f"- The two networks differ in more than depth: ResNet50 has {count(ours['params'])} parameters, ResNet-56"
        f" about {count(theirs['params'])}, a factor of {ours['params'] / theirs['params']:.0f}.",
    ]
    if found := comparisons(results, [SIZE]):
        lines.append(f"- Under the same recipe: {one_verdict(found[0], caveats(results, found).get(SIZE, ''))}.")
        verdict = by_verdict(SIZE_ANSWERS, found[0].verdict) + what_would_close(results, found)
    else:
        lines.append(f"- {_own_size(results, theirs['params'])}")
        verdict = _different_data(results, [SIZE]) or (
            "**Open**: the question compares ResNet50 and ResNet-56 under one recipe, and this study has no finished"
            f" run of {names([label for label in SIZE if not accuracies(results).get(label)])}."
        )
    return "\n".join([*lines, "", f"**Verdict.** {verdict}"])


def _own_size(results: StudyResults, params: float) -> str:
    runs = results.done[results.done["label"] == "resnet50"]
    if runs.empty:
        return "This study has no finished run of its resnet50."
    sample = stats.describe(runs["test_accuracy"].astype(float))
    size = float(runs["params"].iloc[0])
    interval = sample.interval
    known = f"95 % CI {span(interval.low, interval.high, percent)} %" if interval.exists else interval.reason
    return (
        f"This study's resnet50 has {count(size)} parameters, {size / params:.1f} times as many as ResNet-56, and"
        f" reaches {percent(sample.mean)} % ({known}) after {last_epoch(results)}. Its epochs and width differ from"
        " those of the published runs, so the accuracies cannot be compared."
    )


# -------------------------------------------------------------------------------------- question 2: the depth, the ReLU

CLAIMS: dict[Pair, dict[str, str]] = {  # comparison -> what its verdict means; for any other, that of INCONCLUSIVE
    OBSERVED: {
        BETTER: "A's observation, SENet18 above A's SENet50, is reproduced",
        WORSE: "The reverse of A's observation is found",
        EQUIVALENT: "SENet18 is not above A's SENet50 by the margin or more, so A's observation is not reproduced",
        NO_GAIN: "SENet18 is not above A's SENet50 by the margin or more, so A's observation is not reproduced",
        INCONCLUSIVE: "A's observation, SENet18 above A's SENet50",
    },
    RELU: {
        BETTER: "Omitting the ReLU raises the accuracy",
        WORSE: "Omitting the ReLU lowers the accuracy",
        EQUIVALENT: "Omitting the ReLU changes the accuracy by less than the margin",
        INCONCLUSIVE: "Effect of omitting the ReLU",
    },
    DEPTH: {
        BETTER: "With the ReLU in both, the shallower network is ahead",
        WORSE: "With the ReLU in both, the deeper network is ahead",
        EQUIVALENT: "With the ReLU in both, depth changes the accuracy by less than the margin",
        INCONCLUSIVE: "Effect of depth, with the ReLU in both",
    },
    SELECTIVE: {
        BETTER: "With the stem for small images, SKNet50 is ahead of ResNet50",
        WORSE: "With the stem for small images, SKNet50 is behind ResNet50",
        EQUIVALENT: "With the stem for small images, SKNet50 and ResNet50 are equal within the margin",
        NO_GAIN: "With the stem for small images, SKNet50 is not ahead of ResNet50 by the margin or more",
        INCONCLUSIVE: "SKNet50 and ResNet50, both with the stem for small images",
    },
    EFFECT: {
        BETTER: "Selective kernels raise the accuracy",
        WORSE: "Selective kernels lower the accuracy",
        EQUIVALENT: "Selective kernels change the accuracy by less than the margin",
        NO_GAIN: "Selective kernels do not raise the accuracy by the margin or more",
        INCONCLUSIVE: "Effect of the selective kernels",
    },
}
CLAIMS |= {
    pair: {
        BETTER: f"In {network} the stem for large images raises the accuracy",
        WORSE: f"In {network} the stem for large images lowers the accuracy",
        EQUIVALENT: f"In {network} the stem changes the accuracy by less than the margin",
        INCONCLUSIVE: f"Effect of the stem for large images in {network}",
    }
    for pair, network in ((SK_STEM, "SKNet50"), (PLAIN_STEM, "ResNet50"))
}
RELU_ANSWERS = {  # answer to question 2, by the codes of `relu_answer`
    "early": "**No answer yet**: the networks are in early training.",
    "not established": "**Inconclusive**: these results do not establish A's observation, so nothing is explained yet.",
    "reversed": "In this setting SENet18 is below A's SENet50, so there is nothing to explain.",
    "not reproduced": "In this setting SENet18 is not above A's SENet50 by the margin or more, so there is little to"
    " explain.",
    "explains": "In this setting **the missing ReLU explains it**: with the ReLU, SENet18 is no longer above SENet50 by"
    " the margin or more.",
    "part": "In this setting the missing ReLU is **part of the cause**: SENet18 is also above SENet50 with the ReLU.",
    "a cause": "In this setting the missing ReLU is **a cause**. Whether it is the only one is open.",
    "does not explain": "In this setting **the missing ReLU does not explain it**: omitting it costs no accuracy, or"
    " less than the margin.",
    "open": "**Inconclusive**: A's observation is reproduced, but the share of the ReLU in it is open.",
}

OPEN_ANSWERS = ("early", "not established", "a cause", "open")


def answer_relu(results: StudyResults) -> str:
    """Question 2: A's observation, the ReLU alone, the depth alone, each with its interval; then the conclusion."""
    pairs = (OBSERVED, RELU, DEPTH)
    found = _found(results, pairs)
    if missing := _missing(results, pairs):
        return _with_verdict(results, found, missing)
    answer = relu_answer(*(found[pair].verdict for pair in pairs))
    closing = what_would_close(results, [found[OBSERVED], found[RELU]]) if answer in OPEN_ANSWERS else ""
    return _with_verdict(results, found, RELU_ANSWERS[answer] + closing)


def relu_answer(observed: str, relu: str, depth: str) -> str:
    """The key of question 2's answer in RELU_ANSWERS, from the verdicts on OBSERVED, RELU and DEPTH."""
    if EARLY in (observed, relu):
        return "early"
    if observed == WORSE:
        return "reversed"
    if observed in (EQUIVALENT, NO_GAIN):
        return "not reproduced"
    if observed != BETTER:
        return "not established"
    if relu in (BETTER, EQUIVALENT, NO_LOSS):
        return "does not explain"
    if relu != WORSE:
        return "open"
    if depth in (WORSE, EQUIVALENT, NO_GAIN):
        return "explains"
    return "part" if depth == BETTER else "a cause"


# ------------------------------------------------------------------------------------------------ question 3: the stem

STEM_ANSWERS = {  # first sentence of the answer to question 3, by the verdict on SK_STEM; else that of INCONCLUSIVE
    BETTER: "In this setting **the stem for large images does not hold SKNet50 back**: it raises the accuracy.",
    WORSE: "In this setting **the stem for large images holds SKNet50 back**.",
    EQUIVALENT: "In this setting **the stem for large images does not hold SKNet50 back** by the margin or more.",
    NO_LOSS: "In this setting **the stem for large images does not hold SKNet50 back** by the margin or more.",
    INCONCLUSIVE: "**Inconclusive**: the effect of the stem on SKNet50 is open.",
    EARLY: "**No answer yet**: the networks are in early training.",
}


def answer_stem(results: StudyResults) -> str:
    """Question 3: the stem in each network and the interaction, then the networks with the small-image stem."""
    pairs = stem_pairs(results)
    found, crossed = _found(results, pairs), stem_interaction(results)
    if missing := _missing(results, pairs):
        return _with_verdict(results, found, missing)
    verdict = by_verdict(STEM_ANSWERS, found[SK_STEM].verdict) + what_would_close(results, [found[SK_STEM]])
    for pair in (EFFECT, SELECTIVE):
        if pair in found and found[pair].verdict in (BETTER, WORSE, EQUIVALENT, NO_GAIN):
            verdict += f" {by_verdict(CLAIMS[pair], found[pair].verdict)}."
    return _with_verdict(results, found, verdict, [_interaction_line(crossed)])


def stem_pairs(results: StudyResults) -> tuple[Pair, ...]:
    """The comparisons of question 3; the effect of SK only if the study has the grouped network without SK."""
    return (*((EFFECT,) if EFFECT[1] in results.labels else ()), SELECTIVE, SK_STEM, PLAIN_STEM)


def _interaction_line(crossed: stats.Interval) -> str:
    limits = f", which rules out {ruled_out(crossed)}" if crossed.exists else ""
    return (
        "- SKNet50's gain from the stem for small images minus ResNet50's, not a planned comparison, so no verdict:"
        f" {change(crossed)}{limits}."
    )


# --------------------------------------------------------------------------------------------------------------- pieces


def _found(results: StudyResults, pairs: Sequence[Pair]) -> dict[Pair, rule.Comparison]:
    return {(pair.treatment, pair.baseline): pair for pair in comparisons(results, pairs)}


def _missing(results: StudyResults, pairs: Sequence[Pair]) -> str:
    """Why the question has no answer: networks without a finished run, and what to run, or runs on different data;
    empty if all pairs are compared."""
    values = accuracies(results)
    missing = [label for label in dict.fromkeys(label for pair in pairs for label in pair) if not values.get(label)]
    if not missing:
        return _different_data(results, pairs)
    study = escape_markdown(results.study["name"])
    return f"**Not answered**: study {study} has no finished run of {names(missing, 10)}. {WHAT_TO_RUN}."


def _different_data(results: StudyResults, pairs: Sequence[Pair]) -> str:
    """Which of these pairs are not compared, although both networks have finished runs; empty if there is none."""
    values, found = accuracies(results), _found(results, pairs)
    apart = [pair for pair in pairs if pair not in found and all(values.get(label) for label in pair)]
    listed = "; ".join(" and ".join(map(escape_markdown, pair)) for pair in apart)
    return f"**Not answered**: the runs of these networks used different data: {listed}." if apart else ""


def _with_verdict(
    results: StudyResults, found: Mapping[Pair, rule.Comparison], verdict: str, more: Sequence[str] = ()
) -> str:
    beside = caveats(results, [*found.values()])
    lines = [
        f"- {by_verdict(CLAIMS[pair], found[pair].verdict)}: {one_verdict(found[pair], beside.get(pair, ''))}."
        for pair in found
    ]
    sensitive = sensitivity(results, [*found.values()])
    return "\n".join([*lines, *more, "", *filter(None, [sensitive]), f"**Verdict.** {verdict}"])
