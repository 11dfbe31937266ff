"""Compares a user's own results with the published ones of the same study."""

from senet_lib.analysis import format, stats, tables
from senet_lib.results import StudyResults


def beside_published(ours: StudyResults, published: StudyResults) -> list[str]:
    """One line per network: whether the user's mean lies where 95 % of the means of as many runs lie, or why it was not
    compared."""
    yours, theirs = tables.accuracies(ours), tables.accuracies(published)
    width = max(map(len, ours.labels))
    lines = []
    for label in ours.labels:
        text = _incomparable(_hashes(ours, label), _hashes(published, label))
        text = text or _line(list(yours[label].values()), list(theirs[label].values()))
        lines.append(f"{label:<{width}}  {text}")
    return lines


def _incomparable(ours: dict[str, str], published: dict[str, str]) -> str:
    """Why a network's runs (run_id -> hash) cannot be compared with the published ones; empty if they can."""
    if not published:
        return "not compared: this network has no published runs"
    common = ours.keys() & published.keys()
    if not common:
        return "not compared: no published run has the same seed"
    if any(ours[run_id] != published[run_id] for run_id in common):
        return "not compared: the published runs have another configuration"
    return ""


def _line(yours: list[float], theirs: list[float]) -> str:
    if not yours or not theirs:
        return "not compared: no published run has finished" if yours else "not compared: no run has finished"
    mine, published = stats.describe(yours), stats.describe(theirs)
    text = f"yours {format.percent(mine.mean)} % (n = {mine.n})"
    expected = stats.prediction_interval(theirs, mine.n)
    if not expected.exists:
        apart = format.points(mine.mean - published.mean)
        return f"{text}, published {format.percent(published.mean)} %, {apart} pp apart ({expected.reason})"
    inside = expected.low <= mine.mean <= expected.high
    where = "inside" if inside else "OUTSIDE"
    limits = format.span(expected.low, expected.high, format.percent)
    runs = "a run" if mine.n == 1 else f"the mean of {mine.n} runs"
    return f"{text}, {where} the range {limits} % that the published runs predict for {runs} (95 %)"


def _hashes(results: StudyResults, label: str) -> dict[str, str]:
    return {run["run_id"]: run["config_hash"] for run in results.study["runs"] if run["label"] == label}
