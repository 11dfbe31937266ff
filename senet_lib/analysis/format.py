"""Single quantities as text: percent, percentage points, seconds, p values."""

import pandas as pd

from senet_lib.analysis.stats import MARGIN, NO_SPREAD, ONE_SEED
from senet_lib.durations import rough

MINUS = "\N{MINUS SIGN}"


def percent(fraction: float | None) -> str:
    return "" if pd.isna(fraction) else f"{100 * fraction:.2f}"


def points(fraction: float) -> str:
    """A difference in percentage points, with its sign; zero has none."""
    text = f"{100 * fraction:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", MINUS)


def limit(fraction: float, *, sign: bool = True) -> str:
    """An end of a difference's interval: as `points`, but with more decimals where two would move it onto 0 or the
    margin, so that the printed interval agrees with its verdict. sign=False: its size alone."""
    for decimals in (2, 3, 4):
        text = f"{100 * fraction:+.{decimals}f}"
        if abs(float(text)) not in (0, round(100 * MARGIN, 2)) or abs(100 * fraction - float(text)) < 1e-9:
            break
    text = "0.00" if float(text) == 0 else text
    return text.replace("-", MINUS) if sign else text.lstrip("+-")


def span(low: float, high: float, format_value) -> str:
    return f"{format_value(low)} to {format_value(high)}"


def interval(low: float | None, high: float | None, n: int) -> str:
    if not pd.isna(low):
        return span(low, high, percent)
    return {0: "", 1: ONE_SEED}.get(n, NO_SPREAD)


def difference(point: float | None, low: float | None, high: float | None) -> str:
    if pd.isna(point):
        return "not compared"
    return f"{points(point)} ({'no interval' if pd.isna(low) else span(low, high, limit)})"


def mean_spread(mean: float, sd: float | None, n: int, planned: int) -> str:
    if n == 0:
        return f"no finished run (of {planned})"
    size = f"n = {n}" if n == planned else f"n = {n} of {planned}"
    return f"{percent(mean)} ({size})" if pd.isna(sd) else f"{percent(mean)} ± {percent(sd)} ({size})"


def count(value: float | None) -> str:
    return "" if pd.isna(value) else f"{value:,.0f}"


def counted(number: int, noun: str) -> str:
    """'1 run', '2 runs'."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def millions(value: float | None) -> str:
    return "" if pd.isna(value) else f"{value / 1e6:,.1f}"


def seconds(value: float | None) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def run_seconds(value: float | None) -> str:
    """The wall-clock time of a whole run: no decimals above 100 s."""
    return count(value) if not pd.isna(value) and value >= 100 else seconds(value)


def duration(value: float | None) -> str:
    return "" if pd.isna(value) else rough(value)


def p_value(p: float | None) -> str:
    if pd.isna(p):
        return "none"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def as_text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(as_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
