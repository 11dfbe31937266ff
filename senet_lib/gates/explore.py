"""Menus for a live notebook: choose a network, a block and a class, and see the gates of that class."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from senet_lib.gates.figures import class_bands
from senet_lib.gates.measures import class_moments
from senet_lib.menus import interactive

if TYPE_CHECKING:
    from ipywidgets import Widget


def gate_menus(gates: Mapping[str, Mapping[str, np.ndarray]], true: np.ndarray, classes: Sequence[str]) -> "Widget":
    """Menus of network, block and two classes above `class_bands` of the choice.

    gates: label -> block -> SE gates (N, C); true: (N,) class indices. Needs ipywidgets; display it in a live kernel.
    """

    def draw(network: str, block: str, first: str, second: str) -> None:
        if block not in gates[network]:
            print(f"{network} has no gate in block {block}; it has gates in {', '.join(gates[network])}")
            return
        moments = {network: {block: class_moments(gates[network][block], true, len(classes))}}
        class_bands(moments, classes, [classes.index(first), classes.index(second)])
        plt.show()

    blocks = list(dict.fromkeys(block for found in gates.values() for block in found))
    menus = {"network": list(gates), "block": blocks, "first": list(classes), "second": list(classes)[::-1]}
    return interactive(draw, **menus)
