"""Whether the differences between networks are larger in one study than in another, such as on another data set: the
planned test of interaction of a study that names its `twin`."""

from collections.abc import Sequence
from dataclasses import dataclass

from senet_lib.analysis import rule
from senet_lib.analysis.comparisons import compare, planned_comparisons
from senet_lib.analysis.contrasts import Estimate, between
from senet_lib.analysis.format import limit
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.sentences import change
from senet_lib.analysis.tables import without_place
from senet_lib.errors import DamagedFile
from senet_lib.results import StudyResults, load_results, twin_folder


@dataclass(frozen=True)
class Interaction:
    """A planned comparison in two studies. estimate: its difference in the first study minus that in the second; the
    interval and p are corrected over the comparisons that both studies plan."""

    here: rule.Comparison
    there: rule.Comparison
    estimate: Estimate

    @property
    def is_early(self) -> bool:
        return rule.EARLY in (self.here.verdict, self.there.verdict)


def against_twin(results: StudyResults) -> str:
    """The planned tests of interaction with the study's twin, or why there is none, in Markdown; empty if the study
    names no twin or has no finished run."""
    name = results.study.get("twin", "")
    if not name or results.done.empty:
        return ""
    folder = twin_folder(results.path, results.study)
    try:
        twin = load_results(folder) if folder else None
    except DamagedFile:
        return _no_test(name, "those here are damaged")
    if twin is None or twin.done.empty:
        return _no_test(name, "there are none here")
    if _same_data(results, twin):
        return _no_test(name, "that study has the same data")
    found = interactions(results, twin)
    if not found:
        return _no_test(name, "no comparison that both plan, under the same recipe, has finished runs in both")
    return in_words(results, twin, found)


def _no_test(name: str, why: str) -> str:
    return (
        "A test whether these differences change with the data set is planned. It needs results of the study"
        f" {escape_markdown(name)}, and {why}.\n"
    )


def _same_data(results: StudyResults, twin: StudyResults) -> bool:
    """Whether both studies have the same data: their runs with the same seed would not be independent."""
    first, second = results.study, twin.study
    prints = first.get("fingerprints")
    return first["data"] == second["data"] or bool(prints) and prints == second.get("fingerprints")


def interactions(results: StudyResults, twin: StudyResults) -> list[Interaction]:
    """The comparisons that both studies plan between the same networks, under the same recipe, and whose runs exist."""
    both = [pair for pair in planned_comparisons(results) if pair in planned_comparisons(twin)]
    both = [pair for pair in both if all(_configuration(results, name) == _configuration(twin, name) for name in pair)]
    here, there = ({(found.treatment, found.baseline): found for found in compare(study)} for study in (results, twin))
    return [
        Interaction(here[pair], there[pair], between(here[pair].estimate, there[pair].estimate, len(both)))
        for pair in both
        if pair in here and pair in there
    ]


def _configuration(results: StudyResults, label: str) -> tuple:
    study = results.study
    run = next(run for run in study["runs"] if run["label"] == label)
    return run["model"], run.get("knobs") or {}, study["recipe"] | (study["networks"][label].get("recipe") or {})


def in_words(results: StudyResults, twin: StudyResults, found: Sequence[Interaction]) -> str:
    """One item per interaction, in Markdown."""
    here, there = (escape_markdown(without_place(study.study["data"])) for study in (results, twin))
    name = escape_markdown(twin.study["name"])
    return (
        f"Do these differences change with the data set? The change is the difference on {here} minus that on {there}"
        f" (study {name}); its 95 % CI holds for all of these tests at once.\n\n"
        + "".join(f"- {_one(each, here, there)}\n" for each in found)
    )


def _one(found: Interaction, here: str, there: str) -> str:
    pair = f"{escape_markdown(found.here.treatment)} minus {escape_markdown(found.here.baseline)}"
    interval = found.estimate.interval
    limits = (
        f", which rules out a change below {limit(interval.low)} pp or above {limit(interval.high)} pp"
        if interval.exists
        else ""
    )
    return (
        f"{pair}: {_decided(found, here, there)}. On {here} {change(found.here.difference)}, on {there}"
        f" {change(found.there.difference)}; change {change(interval)}{limits}"
    )


def _decided(found: Interaction, here: str, there: str) -> str:
    interval = found.estimate.interval
    if not interval.exists:
        return "**inconclusive**"
    if found.is_early:
        return "**early training**, so no verdict"
    if interval.low > 0:
        return f"the difference is **higher on {here}**"
    if interval.high < 0:
        return f"the difference is **higher on {there}**"
    return "**inconclusive**"
