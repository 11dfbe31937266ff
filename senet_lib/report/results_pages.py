"""Generates every number in README.md, results/README.md and results/tuning.md from the committed results.

`make publish` and `make archive` run it, so a newly published or archived study enters the pages without an edit. A
test fails when a page is stale.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from senet_lib.analysis import captions, format, interactions, markup, rule, sentences, shown_tables, stats, tables
from senet_lib.analysis.comparisons import without_uncompared
from senet_lib.analysis.stats import MARGIN
from senet_lib.errors import UserError
from senet_lib.files import write_text
from senet_lib.project import project_root
from senet_lib.report.links import study_page, with_source_links_in_markdown, with_study_links
from senet_lib.report.publish import REPORT, committed
from senet_lib.results import StudyResults

# The first of these studies that is published with enough seeds opens the README with its table and figure
HEADLINE = ("source_a_short", "source_a_narrow", "fast")
HEADLINE_SEEDS = 3  # with two, an interval can be many times as wide as any plausible difference
SOURCE_A_STUDIES = {"source_a_short": "full width, 20 epochs", "source_a_narrow": "a quarter of the width, 10 epochs"}
SOURCE_A_EFFECTS = {  # what a comparison of these studies shows
    ("se_resnet50", "resnet50"): "SE in ResNet-50",
    ("sknet50", "resnext50_32x4d"): "SK (SKNet-50 against ResNeXt-50)",
    ("sknet50_imagenet_stem", "sknet50"): "ImageNet stem in SKNet-50",
    ("source_a_senet50", "se_resnet50"): "One ReLU less per block (source A's SENet50)",
    ("se_resnet18", "source_a_senet50"): "SENet-18 against source A's SENet50",
}
SOURCE_A_NETWORKS = ("resnet50", "resnext50_32x4d", "se_resnet50", "sknet50")
DECISIONS = "tuning_decisions.csv"


# ---------------------------------------------------------------------------------------------------------- README.md


def found(studies: dict[str, StudyResults]) -> str:
    """What the published studies found, one statement per study, then the open questions and studies without
    intervals."""
    published = {name: studies[name] for name in SAID if name in studies and studies[name].is_published}
    decided = [name for name, results in published.items() if _has_intervals(results)]
    decided.sort(key=lambda name: not _has_enough_seeds(published[name]))  # stable: otherwise as in SAID
    statements = [SAID[name](published[name]) for name in decided]
    answered = next((name for name in decided if name in SOURCE_A_STUDIES), "")
    statements.insert(decided.index(answered) if answered else len(decided), _source_a_questions(answered))
    statements += [SAID[name](published[name]) for name in published if name not in decided]
    return "".join(f"- {statement}\n" for statement in statements)


def _source_a_questions(answered: str) -> str:
    """answered: the study that answers the questions; empty if there is none yet."""
    answers = (
        f"`07_questions.ipynb` says what the results of `{answered}` below mean for these questions."
        if answered
        else "The studies `source_a_short` (all three) and `source_a_narrow` (the last two, at a quarter of the width)"
        " will answer them. Both were registered before their first run."
    )
    published = pd.read_csv(files("senet_lib") / "reference" / "published_accuracy.csv").set_index("name")["accuracy"]
    resnet, senet, sknet = (format.percent(published[f"source_a_{name}50"]) for name in ("resnet", "senet", "sknet"))
    return (
        f"A study note (source A, described in `06_source_notes.ipynb`) trained ResNet50 to {resnet} %, SENet50 to"
        f" {senet} % and SKNet50 to {sknet} %, each once over 200 epochs. It asked why its ResNet50 is better than the"
        " networks of the ResNet paper, why its SENet18 is better than its SENet50, and why its SKNet50 stays under"
        f" 90 %. {answers}"
    )


def _fast(results: StudyResults) -> str:
    pairs = {(pair.treatment, pair.baseline): pair for pair in tables.compare(results)}
    se, sk, wide = pairs["se_fast", "fast"], pairs["sk_fast", "fast"], pairs["sk_fast", "fast_wide"]
    accuracy = 100 * results.done.loc[results.done["label"] == "fast", "test_accuracy"].astype(float).mean()
    both = all(pair.difference.exists and pair.difference.high < MARGIN for pair in (se, sk))
    none = f"neither SE nor SK gains {100 * MARGIN:g} percentage points (pp) or more"
    gain = none if both else "SE and SK change the accuracy by these percentage points (pp)"
    return (
        f"Near {accuracy:.0f} % accuracy (`fast`, {_setting(results)}), {gain}:"
        f" SE {sentences.change(se.difference)}, SK {sentences.change(sk.difference)}."
        f" Against a plain network with about as many multiply-adds, SK changes the accuracy by"
        f" {sentences.change(wide.difference)}{_caveat(results, wide, '. Caveat: ')}."
    )


def _caveat(results: StudyResults, pair: rule.Comparison, before: str) -> str:
    """The comparison's caveat after these characters; empty without one."""
    caveats = sentences.caveats(results, [pair]).values()
    return "".join(before + caveat for caveat in caveats)


def _thin(results: StudyResults) -> str:
    sk = next(p for p in tables.compare(results) if (p.treatment, p.baseline) == ("sk_resnet20", "resnet20"))
    means = results.done.groupby("label")["test_accuracy"].apply(lambda values: 100 * values.astype(float).mean())
    return (
        f"Early in training, at {means.min():.0f} to {means.max():.0f} % (`thin`, {_setting(results)}), SK changes"
        f" ResNet-20's accuracy by {sentences.change(sk.difference)}. A difference this early in training"
        " may not persist."
    )


def _source_a(results: StudyResults) -> str:
    name = results.study["name"]
    setting = f"{SOURCE_A_STUDIES[name]}, {sentences.sample_sizes(results)}"
    networks = f"source A's networks and their controls (`{name}`: {setting})"
    pairs = {(pair.treatment, pair.baseline): pair for pair in tables.compare(results) if pair.difference.exists}
    effects = []
    for pair in filter(pairs.get, SOURCE_A_EFFECTS):
        change = sentences.change(pairs[pair].difference)
        effects += [f"{SOURCE_A_EFFECTS[pair]}: {pairs[pair].verdict}, {change}{_caveat(results, pairs[pair], '; ')}"]
    if effects:
        effects += _sensitivity(results, list(pairs.values()))
        listed = "".join(f"\n  - {effect}." for effect in effects)
        return (
            f"Differences between {networks}, in percentage points (pp). *No gain (loss) of {100 * MARGIN:g} pp or"
            f" more*: the interval contains 0, but no gain (loss) of that size.{listed}"
        )
    means = results.done.groupby("label")["test_accuracy"].apply(lambda values: values.astype(float).mean())
    reached = ", ".join(f"{label} {format.percent(means[label])} %" for label in SOURCE_A_NETWORKS if label in means)
    return f"Test accuracies of {networks}: {reached}. No difference between them has a confidence interval yet."


def _sensitivity(results: StudyResults, comparisons: Sequence[rule.Comparison]) -> list[str]:
    """One item on the verdicts that change without the networks that no planned comparison uses; none if none does."""
    others, again = without_uncompared(results, comparisons)
    verdicts = {(pair.treatment, pair.baseline): pair.verdict for pair in comparisons}
    changed = [
        f"{SOURCE_A_EFFECTS[pair.treatment, pair.baseline]}: {pair.verdict}, {sentences.change(pair.difference)}"
        for pair in again
        if (pair.treatment, pair.baseline) in SOURCE_A_EFFECTS
        and pair.verdict != verdicts[pair.treatment, pair.baseline]
    ]
    if not changed:
        return []
    differ = "this verdict" if len(changed) == 1 else "these verdicts"
    return [
        f"Sensitivity: without the runs of {' and '.join(others)}, which no planned comparison uses, {differ} would be"
        f" different. {'. '.join(changed)}"
    ]


SAID: dict[str, Callable[[StudyResults], str]] = {
    **dict.fromkeys(SOURCE_A_STUDIES, _source_a),
    "fast": _fast,
    "thin": _thin,
}


def _has_enough_seeds(results: StudyResults) -> bool:
    return results.done["seed"].nunique() >= HEADLINE_SEEDS


def _has_intervals(results: StudyResults) -> bool:
    return any(pair.difference.exists for pair in tables.compare(results))


def _setting(results: StudyResults) -> str:
    return f"{_epochs(results)}, {sentences.sample_sizes(results)}"


def _epochs(results: StudyResults) -> str:
    usual, *others = tables.epochs(results)
    return f"{usual} epochs" + (f" ({', '.join(others)})" if others else "")


def headline(studies: dict[str, StudyResults]) -> str:
    """Table and figure of the study that opens the README."""
    published = (name for name in HEADLINE if name in studies and studies[name].is_published)
    name = next((name for name in published if _has_enough_seeds(studies[name])), None)
    if name is None:
        return f"No study is published with {HEADLINE_SEEDS} seeds yet.\n"
    results = studies[name]
    data = tables.without_place(results.study["data"])
    asked = f"*{results.study['question']}* (`{name}`: {data}, {_setting(results)}, last epoch)"
    figure = f"results/published/{name}/figures/differences.svg"
    comparisons = tables.compare(results)
    adjusted = captions.adjusted(results)
    picture = (
        f"![{captions.differences(results, comparisons)}]({figure})\n\n"
        if (results.path / "figures/differences.svg").is_file()
        else ""
    )
    own = "The CI of an accuracy is a t interval over the network's own seeds. " if comparisons else ""
    caption = (
        f"{_unfinished(results)}{own}Differences in {tables.evaluated(results)} accuracy with 95 % confidence intervals"
        f" (CI) that hold for all planned comparisons at once. {adjusted or 'They follow from unrounded accuracies.'}"
    )
    table = networks_table(results, comparisons, first=SOURCE_A_NETWORKS)
    return f"{asked}\n\n{table}\n{picture}{caption if picture else ''}\n"


def _unfinished(results: StudyResults) -> str:
    """What 'n = 3 of 5' means; empty if all planned seeds are finished."""
    finished, planned = results.done["seed"].nunique(), len(results.study["seeds"])
    return (
        f"n = {finished} of {planned}: of {planned} planned seeds, {finished} are trained. "
        if finished < planned
        else ""
    )


# --------------------------------------------------------------------------------------------------- results/README.md


def results_page(studies: dict[str, StudyResults]) -> str:
    """Every stored study that was evaluated on test images: question, table, verdicts, caveats, files."""
    shown = [results for results in studies.values() if not _is_tuning(results)]
    linked = {name: study_page(results.study).removeprefix("README.md") for name, results in studies.items()}
    sections = {
        "Published": [results for results in shown if results.is_published],
        "Archived": [results for results in shown if not results.is_published],
    }
    listed = "\n".join(
        f"## {title}\n\n{''.join(_section(results, linked) for results in chosen) or 'None.' + chr(10)}"
        for title, chosen in sections.items()
    )
    return with_source_links_in_markdown(
        "# Every study that was evaluated on a test set\n\n"
        "Written by `senet_lib/report/results_pages.py` from the committed runs; do not edit. The accuracy of a run is"
        " that after its last epoch. ± is the standard deviation over seeds, n the number of seeds, pp are"
        " percentage points, CI is a confidence interval. Training time per epoch is the median over epochs, which is"
        " that of full resolution where the first epochs have smaller images. An archived study is listed without"
        " verdicts: it stopped early in training, was replaced, is a benchmark or a first look, or is in progress.\n\n"
        f"**The rule.** {rule.in_words()} [Statistics](../docs/statistics.md) explains it and states its error"
        " rates.\n\n"
        "Further pages: [every evaluation on the test set](test_set_log.md), [tuning and its decisions](tuning.md),"
        " [file formats](../docs/file_formats.md). `make restore STUDY=NAME` and `make report STUDY=NAME` render the"
        " full report of a study.\n\n" + listed
    )


def _section(results: StudyResults, linked: dict[str, str]) -> str:
    """linked: name -> link of every stored study."""
    asked = results.study
    notes = with_study_links(asked["notes"], linked, but=[asked["name"], *results.labels])
    finished, planned = sorted(map(int, results.done["seed"].unique())), len(asked["seeds"])
    seeds = f"seed{'s' if len(finished) > 1 else ''} {', '.join(map(str, finished))}"
    seeds += f" ({planned} planned)" if len(finished) < planned else ""
    comparisons = tables.compare(results)
    decided = [pair for pair in comparisons if pair.difference.exists and results.is_published]
    beside = sentences.caveats(results, decided)
    adjusted = captions.adjusted(results) if any(pair.difference.exists for pair in comparisons) else ""
    verdicts = "".join(
        f"- {sentences.one_verdict(pair, beside.get((pair.treatment, pair.baseline), ''))}\n" for pair in decided
    )
    more = [sentences.sensitivity(results, decided), interactions.against_twin(results)] if decided else []
    place = f"published/{asked['name']}/" if results.is_published else f"archive/{asked['name']}.zip"
    report = f" [Report]({place}{REPORT})." if results.is_published else ""
    data = tables.without_place(asked["data"])
    setting = f"{data}, {_epochs(results)}, {seeds}.{report} Files: [`{place}`]({place})."
    figure = "figures/differences.svg"
    picture = (
        f"![{captions.differences(results, comparisons)}]({place}{figure})\n\n"
        if (results.path / figure).is_file()
        else ""
    )
    return (
        f"### `{asked['name']}`\n\n*{asked['question']}*\n\n{setting}\n\n{networks_table(results, comparisons)}\n"
        f"{adjusted + 2 * chr(10) if adjusted else ''}{verdicts + chr(10) if verdicts else ''}"
        f"{''.join(part + chr(10) for part in more if part)}{picture}{notes}\n\n"
    )


def networks_table(results: StudyResults, comparisons: Sequence[rule.Comparison], first: Sequence[str] = ()) -> str:
    """The networks with these labels come first, the others in the study's order."""
    numbers, metric = tables.networks(results, comparisons), f"{tables.evaluated(results)} accuracy"
    places = {label: place for place, label in enumerate(first)}
    numbers = numbers.sort_values("label", key=lambda labels: labels.map(places).fillna(len(first)), kind="stable")
    return markup.to_markdown(shown_tables.networks(numbers, metric, results.study["baseline"]))


# --------------------------------------------------------------------------------------------------- results/tuning.md


def tuning_table(studies: dict[str, StudyResults], root: Path) -> str:
    """One row per configuration tuned on a validation split: its accuracy and how it was decided."""
    decided = pd.read_csv(root / "results" / DECISIONS, keep_default_na=False)
    tuned = {name: results for name, results in studies.items() if _is_tuning(results)}
    present = {(name, label) for name, results in tuned.items() for label in results.labels}
    if missing := present - set(zip(decided["study"], decided["network"], strict=True)):
        raise UserError(f"{DECISIONS} has no row for {', '.join(' / '.join(pair) for pair in sorted(missing))}")
    rules = {rule: f"R{number}" for number, rule in enumerate(filter(None, decided["rule"].unique()), start=1)}
    listed = "".join(f"- {short}: {rule}.\n" for rule, short in rules.items())
    rows = [_tuning_row(row, tuned[row.study], rules) for row in decided.itertuples() if row.study in tuned]
    return f"Rules:\n\n{listed}\n{markup.to_markdown(pd.DataFrame(rows))}"


def _tuning_row(row, results: StudyResults, rules: dict[str, str]) -> dict[str, str]:
    accuracies = results.done.loc[results.done["label"] == row.network, "test_accuracy"].astype(float)
    sample = stats.describe(accuracies) if len(accuracies) else None
    return {
        "Study": row.study,
        "Configuration": row.network,
        "Change": row.change,
        "Validation accuracy (%)": (
            format.mean_spread(sample.mean, sample.sd, sample.n, sample.n) if sample else "no finished run"
        ),
        "Decision": row.decision,
        "Rule": f"{rules[row.rule]}, {row.declared}" if row.rule else row.declared,
    }


# ---------------------------------------------------------------------------------------------------------- the pages


def _is_tuning(results: StudyResults) -> bool:
    return bool(results.study["recipe"].get("holdout"))


def pages(root: Path) -> dict[Path, str]:
    """path -> content of every page, from the results committed below `root`."""
    studies = {results.study["name"]: results for results in committed(root)}
    readme, tuning = root / "README.md", root / "results" / "tuning.md"
    filled = {
        readme: filled_page(readme, {"found": found(studies), "headline": headline(studies)}),
        root / "results" / "README.md": results_page(studies),
    }
    if any(map(_is_tuning, studies.values())):
        filled[tuning] = filled_page(tuning, {"table": tuning_table(studies, root)})
    return filled


def filled_page(page: Path, contents: dict[str, str]) -> str:
    """The page's text, with the text between <!-- NAME --> and <!-- /NAME --> replaced by that content."""
    text = page.read_text(encoding="utf-8")
    for name, content in contents.items():
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        if not opening or not closing:
            raise UserError(f"{page.name} has no <!-- {name} --> ... <!-- /{name} -->")
        text = before + opening + content + closing + after
    return text


def stale(root: Path) -> list[Path]:
    """The pages that differ from what the results give."""
    return [path for path, text in pages(root).items() if not path.is_file() or path.read_text("utf-8") != text]


def main(root: Path | None = None) -> int:
    try:
        written = pages(root or project_root())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, text in written.items():
        write_text(path, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
