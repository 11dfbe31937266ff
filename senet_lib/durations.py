"""Durations in seconds as text, and text as durations."""

import re

UNITS = {"h": 3600, "m": 60, "s": 1}  # in seconds


def rough(seconds: float) -> str:
    """'45 s', '31 min' or '2.4 h'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def about(seconds: float) -> str:
    """An estimate: 'under a minute', 'about 3 min', 'about 2.4 h' or 'about 5 days'."""
    if seconds < 60:
        return "under a minute"
    if seconds < 7200:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"about {seconds / 86400:.0f} days"


def to_the_second(seconds: float) -> str:
    """'45 s', '31 min 05 s' or '2 h 24 min'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def parse(text: str) -> int:
    """The seconds in '90s', '10m' or '1h30m'. Raises ValueError if it is none of these, or zero."""
    parts = re.fullmatch(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", text, re.ASCII)
    seconds = sum(int(n or 0) * unit for n, unit in zip(parts.groups(), UNITS.values(), strict=True)) if parts else 0
    if not seconds:
        raise ValueError(f"{text!r} is not a duration above zero such as 90s, 10m or 1h30m")
    return seconds
