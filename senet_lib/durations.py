"""Durations in seconds as text."""


def rough(seconds: float) -> str:
    """'45 s', '31 min' or '2.4 h'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def to_the_second(seconds: float) -> str:
    """'45 s', '31 min 05 s' or '2 h 24 min'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
