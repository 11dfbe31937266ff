"""What a diagram of a network shows: steps with their output shapes, and paths that part and join. Imports no torch.

`inspection.describe` reads it from a network, `senet_lib.analysis.plots.diagram` draws it.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One operation.

    text: what it does. shape: of its output, as 'C x H x W'; empty if it is that of its input. head: the phase's name,
    such as 'Squeeze'. family: 'resnet', 'se', 'sk' or 'sk+se', for the colour; 'other' is neutral.
    """

    text: str
    shape: str = ""
    head: str = ""
    family: str = "other"

    def in_words(self) -> str:
        return " ".join(
            filter(None, (f"{self.head}:" * bool(self.head), self.text, f"({self.shape})" * bool(self.shape)))
        )


@dataclass(frozen=True)
class Paths:
    """Paths with the same input, joined by one step. An empty path is the identity."""

    paths: tuple[tuple["Step | Paths", ...], ...]
    join: Step

    def in_words(self) -> str:
        listed = "; ".join(f"({i}) {_sequence(path) or 'identity'}" for i, path in enumerate(self.paths, start=1))
        return f"{len(self.paths)} parallel paths, {listed}, joined by {self.join.in_words()}"


@dataclass(frozen=True)
class Description:
    """A titled sequence of steps and paths. shape: of its input, as 'C x H x W'."""

    title: str
    shape: str
    items: tuple[Step | Paths, ...]

    @property
    def alt(self) -> str:
        """The same in words, as the diagram's alternative text."""
        return f"Diagram of {self.title}. Input {self.shape}, then {_sequence(self.items)}."


def _sequence(items: Sequence[Step | Paths]) -> str:
    return ", then ".join(item.in_words() for item in items)
