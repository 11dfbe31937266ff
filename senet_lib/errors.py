"""Errors in user input: one-line messages that suggest the nearest known names for a typo."""

import difflib
from collections.abc import Iterable
from pathlib import Path

FEW = 16  # up to this many known names are always listed


class UserError(ValueError):
    """Invalid input: a one-line message that names the input and says what is allowed."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows: the message, without a traceback."""
        return [f"{type(self).__name__}: {self}"]


class DamagedFile(UserError):
    """A file that cannot be what its name says, as after a power cut: a one-line message with its path."""

    def __init__(self, path: Path, problem: object, remedy: str = "") -> None:
        said = " ".join(str(problem).split())
        super().__init__(f"{path} is damaged: {said}" + (f"; {remedy}" if remedy else ""))
        self.path = path


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'did you mean ...? known: ...', the end of every message about an unknown name.

    More than FEW known names are listed only if none is close.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    return " ".join(filter(None, (hint, f"known: {', '.join(known)}" if len(known) <= FEW or not near else "")))
