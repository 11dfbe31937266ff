"""Compares a user's own results with the published ones of the same study."""

from senet_lib.analysis import format, stats, tables
from senet_lib.results import StudyResults


def beside_published(ours: StudyResults, published: StudyResults) -> list[str]:
    """One line per network: whether our mean lies inside the published mean's 95 % CI.

    Where there is no interval, no finished run, no common seed or another config hash, the line says so.
    """
    yours, theirs = tables.accuracies(ours), tables.accuracies(published)
    width = max(map(len, ours.labels))
    lines = []
    for label in ours.labels:
        said = _incomparable(_hashes(ours, label), _hashes(published, label))
        said = said or _line(list(yours[label].values()), list(theirs[label].values()))
        lines.append(f"{label:<{width}}  {said}")
    return lines


def _incomparable(ours: dict[str, str], published: dict[str, str]) -> str:
    """Why a network's runs (run_id -> hash) cannot be compared with the published ones; empty if they can."""
    if not published:
        return "not compared: not among the published networks"
    common = ours.keys() & published.keys()
    if not common:
        return "not compared: no seed in common with the published runs"
    if any(ours[run_id] != published[run_id] for run_id in common):
        return "not compared: the published runs were configured otherwise"
    return ""


def _line(yours: list[float], theirs: list[float]) -> str:
    if not yours or not theirs:
        return "not compared: no finished run" + ("" if not yours else " among the published")
    mine, published = stats.describe(yours), stats.describe(theirs)
    said = f"yours {format.percent(mine.mean)} % (n = {mine.n})"
    known = published.interval
    if not known.exists:
        apart = format.points(mine.mean - published.mean)
        return f"{said}, published {format.percent(published.mean)} %, {apart} pp apart ({known.reason})"
    inside = known.low <= mine.mean <= known.high
    where = "inside" if inside else "OUTSIDE"
    return f"{said}, {where} the published 95 % CI {format.span(known.low, known.high, format.percent)} %"


def _hashes(results: StudyResults, label: str) -> dict[str, str]:
    return {run["run_id"]: run["config_hash"] for run in results.study["runs"] if run["label"] == label}
