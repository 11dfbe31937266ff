"""Figures: tidy tables and intervals in, axes out. Nothing is shown, saved or read here.

style.py       colours, markers and line styles of the networks; the rcParams
fonts.py       fonts for class names in any script, and stand-ins for those that no font can show
diagrams.py    the parts of a network as boxes and arrows
axes.py        shared parts: rows of axes, legends, published lines, points with error bars
comparison.py  accuracy against cost, differences with intervals, training time per epoch
confusion.py   confusion matrices, misclassified images, accuracy by class
curves.py      accuracy and loss against the epoch or the training time

A family has one colour, marker and line style everywhere, readable in greyscale and by colour-blind readers. Networks
of one family differ in shade and marker. If there is only one family and it outnumbers its shades, as in an ablation,
each network has its own colour. Accuracies are passed as fractions and drawn in percent. A function draws into the axes
it is given, or into a new figure, and returns the axes.
"""

from senet_lib.analysis.plots.axes import shows_baseline, shows_published
from senet_lib.analysis.plots.comparison import (
    accuracy_against_cost,
    crossed,
    difference_intervals,
    macs_vs_accuracy,
    params_vs_accuracy,
    seconds_per_epoch,
    sorted_accuracies,
)
from senet_lib.analysis.plots.confusion import (
    MANY_CLASSES,
    MOST_CLASSES,
    confusion_difference,
    confusion_matrices,
    example_images,
    mistakes_of_class,
    per_class_accuracy,
)
from senet_lib.analysis.plots.curves import (
    ALL_MARKED,
    accuracy_against_seconds,
    accuracy_curves,
    curve_key,
    loss_curves,
    network_curves,
    network_grid,
)
from senet_lib.analysis.plots.diagrams import diagram
from senet_lib.analysis.plots.fonts import drawable, replaced
from senet_lib.analysis.plots.style import PALETTE, WIDTH, Style, house_style, network_styles, plain, shaded

__all__ = [
    "ALL_MARKED",
    "MANY_CLASSES",
    "MOST_CLASSES",
    "PALETTE",
    "Style",
    "WIDTH",
    "accuracy_against_cost",
    "accuracy_against_seconds",
    "accuracy_curves",
    "confusion_difference",
    "confusion_matrices",
    "crossed",
    "curve_key",
    "diagram",
    "difference_intervals",
    "drawable",
    "example_images",
    "house_style",
    "loss_curves",
    "macs_vs_accuracy",
    "mistakes_of_class",
    "network_curves",
    "network_grid",
    "network_styles",
    "params_vs_accuracy",
    "per_class_accuracy",
    "plain",
    "replaced",
    "seconds_per_epoch",
    "shaded",
    "shows_baseline",
    "shows_published",
    "sorted_accuracies",
]
