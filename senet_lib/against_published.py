"""Results of one's own beside the published ones of the same study: inside or outside the published intervals."""

from senet_lib import stats, tables
from senet_lib.results import StudyResults


def beside_published(ours: StudyResults, published: StudyResults) -> list[str]:
    """One line a network: whether our mean lies inside the published mean's 95 % interval; in words where there is no
    interval, no finished run, or another configuration, by its hash, than the published one."""
    yours, theirs = tables.accuracies(ours), tables.accuracies(published)
    width = max(map(len, ours.labels))
    return [
        f"{label:<{width}}  {_line(list(yours[label].values()), list(theirs.get(label, {}).values()))}"
        if _hashes(ours, label) == _hashes(published, label)
        else f"{label:<{width}}  not compared: the published runs were configured otherwise"
        for label in ours.labels
    ]


def _line(yours: list[float], theirs: list[float]) -> str:
    if not yours or not theirs:
        return "not compared: no finished run" + ("" if not yours else " among the published")
    mine, published = stats.describe(yours), stats.describe(theirs)
    said = f"yours {tables.percent(mine.mean)} % (n = {mine.n})"
    known = published.interval
    if not known.exists:
        apart = tables.points(mine.mean - published.mean)
        return f"{said}, published {tables.percent(published.mean)} %, {apart} points apart ({known.reason})"
    inside = known.low <= mine.mean <= known.high
    where = "inside" if inside else "OUTSIDE"
    return f"{said}, {where} the published 95 % interval {tables.span(known.low, known.high, tables.percent)} %"


def _hashes(results: StudyResults, label: str) -> set[str]:
    return {run["config_hash"] for run in results.study["runs"] if run["label"] == label}
