"""What is wrong with something that a user gave: one line, and for a typo the nearest known names."""

import difflib
from collections.abc import Iterable

FEW = 16  # names that are all listed


class UserError(ValueError):
    """Bad input: the message is one line that names the thing and says what is allowed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'did you mean ...? known: ...', the tail of every message about an unknown name. Where many names are known, they
    are listed only if none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    return " ".join(filter(None, (hint, f"known: {', '.join(known)}" if len(known) <= FEW or not near else "")))
