"""Whether the differences between networks are larger in one study than in another, such as on another data set: the
planned test of interaction of a study that names its `twin`."""

from collections.abc import Sequence
from dataclasses import dataclass

from senet_lib.analysis import rule
from senet_lib.analysis.comparisons import compare, planned_comparisons
from senet_lib.analysis.contrasts import Estimate, between
from senet_lib.analysis.markup import escape_markdown
from senet_lib.analysis.sentences import change, ruled_out
from senet_lib.analysis.tables import without_place
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
    """The planned tests of interaction with the study's twin, in Markdown; empty if the study names none."""
    if not (name := results.study.get("twin", "")) or results.done.empty:
        return ""
    folder = twin_folder(results.path, results.study)
    if folder is None:
        return (
            "A test whether these differences change with the data set is planned. It needs results of the study"
            f" {escape_markdown(name)}, and there are none here.\n"
        )
    twin = load_results(folder)
    return in_words(results, twin, interactions(results, twin))


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
    return run["model"], run["knobs"], study["recipe"] | (study["networks"][label].get("recipe") or {})


def in_words(results: StudyResults, twin: StudyResults, found: Sequence[Interaction]) -> str:
    """One item per interaction, in Markdown; empty if there is none."""
    if not found:
        return ""
    here, there = (escape_markdown(without_place(study.study["data"])) for study in (results, twin))
    name = escape_markdown(twin.study["name"])
    return (
        f"Are these differences larger on {here} than on {there} (study {name})? The change is the difference on {here}"
        f" minus that on {there}; its 95 % CI holds for all of these tests at once.\n\n"
        + "".join(f"- {_one(each, here, there)}\n" for each in found)
    )


def _one(found: Interaction, here: str, there: str) -> str:
    pair = f"{escape_markdown(found.here.treatment)} minus {escape_markdown(found.here.baseline)}"
    interval = found.estimate.interval
    decided = _decided(found, here, there)
    limits = f", which rules out {ruled_out(interval)}" if interval.exists else ""
    return (
        f"{pair}: {decided}. On {here} {change(found.here.difference)}, on {there} {change(found.there.difference)};"
        f" change {change(interval)}{limits}"
    )


def _decided(found: Interaction, here: str, there: str) -> str:
    interval = found.estimate.interval
    if not interval.exists:
        return "**inconclusive**"
    if found.is_early:
        return "**early training**, so no verdict"
    if interval.low > 0:
        return f"**larger on {here}**"
    if interval.high < 0:
        return f"**larger on {there}**"
    return "**inconclusive**"
