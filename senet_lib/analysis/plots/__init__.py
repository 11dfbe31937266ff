"""Figures: tidy tables and intervals in, axes out. Nothing is shown, saved or read here.

A family has one colour, marker and line style everywhere, so that a figure reads in grey print and to a colour-blind
reader; several networks of one family differ in shade and marker. Where all are of one family and more than its shades,
as in an ablation, each has a colour of its own. Accuracies come as fractions and are drawn in percent. Every function
draws into the axes it is given, or into a new figure, and returns the axes.
"""

from senet_lib.analysis.plots.comparison import (
    accuracy_against_cost,
    crossed,
    difference_intervals,
    macs_vs_accuracy,
    params_vs_accuracy,
    seconds_per_epoch,
)
from senet_lib.analysis.plots.confusion import (
    MANY_CLASSES,
    confusion_difference,
    confusion_matrices,
    example_images,
    per_class_accuracy,
)
from senet_lib.analysis.plots.curves import (
    ALL_MARKED,
    accuracy_against_seconds,
    accuracy_curves,
    loss_curves,
    network_curves,
    network_grid,
)
from senet_lib.analysis.plots.style import PALETTE, WIDTH, Style, family_of, house_style, network_styles, plain

__all__ = [
    "ALL_MARKED",
    "MANY_CLASSES",
    "PALETTE",
    "Style",
    "WIDTH",
    "accuracy_against_cost",
    "accuracy_against_seconds",
    "accuracy_curves",
    "confusion_difference",
    "confusion_matrices",
    "crossed",
    "difference_intervals",
    "example_images",
    "family_of",
    "house_style",
    "loss_curves",
    "macs_vs_accuracy",
    "network_curves",
    "network_grid",
    "network_styles",
    "params_vs_accuracy",
    "per_class_accuracy",
    "plain",
    "seconds_per_epoch",
]
