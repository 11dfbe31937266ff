"""A menu for the live analysis notebook: choose a class, and see what each network takes its images for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from senet_lib.analysis import plots
from senet_lib.menus import interactive

if TYPE_CHECKING:
    from ipywidgets import Widget


def class_menu(matrices: Mapping[str, np.ndarray], models: Mapping[str, str], classes: Sequence[str]) -> "Widget":
    """A menu of the true class above `plots.mistakes_of_class` of the choice. Display it in a live kernel.

    matrices: label -> (K, K) shares, row = true class; models: label -> model.
    """
    import ipywidgets

    def draw(true: int) -> None:
        plots.mistakes_of_class(matrices, models, classes, true)
        plt.show()

    options = [(plots.plain(name, 24), number) for number, name in enumerate(classes)]
    return interactive(draw, true=ipywidgets.Dropdown(options=options, description="class"))
