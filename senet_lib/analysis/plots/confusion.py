"""Confusion matrices, misclassified images, and accuracy by class."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes

from senet_lib.analysis.plots.axes import add_legend, draw_points, marker_legend, no_data
from senet_lib.analysis.plots.style import WIDTH, network_styles, plain

MANY_CLASSES = 20  # with more classes, a confusion matrix has no numbers in its cells
MOST_CLASSES = 24  # of the accuracies by class; of more classes, those with the largest range over the networks


def confusion_matrices(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """Row-normalised confusion matrices, one panel per network, one colour scale. Returns the flat axes.

    matrices: label -> (K, K) shares in [0, 1], row = true class, column = predicted class. The colour scale is a square
    root, so that an error of a few percent is visible.
    """
    axes = _matrix_axes(len(matrices), len(classes))
    norm = colors.PowerNorm(0.5, vmin=0, vmax=100)
    for ax, (label, matrix) in zip(axes, matrices.items(), strict=False):
        image = _matrix(ax, 100 * np.asarray(matrix), classes, label, cmap="Blues", norm=norm)
    if matrices:
        _colour_bar(image, axes, "share of the true class (%)", ticks=(0, 1, 5, 10, 25, 50, 100))
    return axes


def confusion_difference(
    matrices: Mapping[str, np.ndarray], controls: Mapping[str, str], classes: Sequence[str]
) -> np.ndarray:
    """Networks' confusion matrices minus those of their controls, in percentage points. Returns the flat axes.

    matrices: as for `confusion_matrices`. controls: label -> the control's label, one panel each. Positive is better on
    the diagonal, negative is better off it. The colour scale is a square root on either side of 0, so that one large
    difference leaves the small ones visible.
    """
    axes = _matrix_axes(len(controls), len(classes), without="no comparison")
    pairs = {pair: 100 * (np.asarray(matrices[pair[0]]) - matrices[pair[1]]) for pair in controls.items()}
    largest = max((np.nanmax(np.abs(difference)) for difference in pairs.values()), default=0) or 1
    norm = colors.FuncNorm(
        (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: np.sign(x) * np.square(x)), -largest, largest
    )
    for ax, ((label, control), difference) in zip(axes, pairs.items(), strict=False):
        image = _matrix(ax, difference, classes, f"{label} minus {control}", cmap="PuOr_r", norm=norm, signed=True)
    if controls:
        steps = [step for step in (1, 5, 10, 25, 50) if step <= largest]
        ticks = [*(-step for step in reversed(steps)), 0, *steps]
        _colour_bar(image, axes, "difference (pp of the true class)", ticks)
    return axes


def example_images(chosen: pd.DataFrame, pictures: Mapping[int, np.ndarray]) -> np.ndarray:
    """One row per class pair: its images, each with its true class and how many runs misclassified it as the other.

    chosen: first, second, image, true, wrong, runs, in the order of the rows. pictures: image -> (h, w, 3) uint8.
    Returns axes of shape (pairs, images).
    """
    rows = [list(group.itertuples()) for _, group in chosen.groupby(["first", "second"], sort=False)]
    columns = max(map(len, rows), default=1)
    _, axes = plt.subplots(
        max(1, len(rows)),
        columns,
        figsize=(WIDTH, 0.2 + 1.25 * WIDTH / max(columns, 6) * max(1, len(rows))),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for row, places in zip(rows, axes, strict=False):
        for example, ax in zip(row, places, strict=False):
            ax.imshow(pictures[example.image], interpolation="nearest")
            other = example.second if example.true == example.first else example.first
            title = f"{plain(example.true, 18)}\nas {plain(other, 14)}: {example.wrong} of {example.runs}"
            ax.set_title(title, fontsize=8, fontweight="normal", loc="center")
    if not rows:
        no_data(axes[0, 0])
    return axes


def per_class_accuracy(
    recalls: pd.DataFrame,
    models: Mapping[str, str],
    *,
    baseline: str | None = None,
    most: int = MOST_CLASSES,
    ax: Axes | None = None,
) -> Axes:
    """Accuracy within each class, mean over seeds and 95 % CI, the baseline's hardest class first.

    recalls: label, class, mean, low, high (fractions; low and high empty where there is no interval). With more than
    `most` classes, only those with the largest range over the networks are shown.
    """
    if recalls.empty:
        return no_data(plt.subplots(layout="constrained")[1] if ax is None else ax)
    table = recalls.set_index(["class", "label"])["mean"].unstack()  # noqa: PD010 (pivot_table would average)
    table = table[[label for label in models if label in table]]
    shown = table.index
    if len(table) > most:
        shown = (table.max(axis=1) - table.min(axis=1)).nlargest(most).index
    reference = table[baseline] if baseline in table else table.mean(axis=1)
    order = reference.loc[shown].sort_values(ascending=False, kind="stable").index  # hardest on top
    if ax is None:
        height = 1.1 + max(0.13 * len(table.columns), 0.32) * len(order)
        _, ax = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    styles = network_styles(models)
    for label, offset in zip(table.columns, _offsets(len(table.columns)), strict=True):
        rows = recalls[recalls["label"] == label].set_index("class").reindex(order)
        draw_points(ax, 100 * rows["mean"], np.arange(len(order)) + offset, styles[label], label, rows=100 * rows)
    ax.set_yticks(range(len(order)), [plain(name, 24) for name in order])
    ax.set(xlabel="accuracy within the class (%)", ylim=(-0.6, len(order) - 0.4))
    ax.grid(axis="y", visible=False)
    for boundary in np.arange(0.5, len(order) - 1):
        ax.axhline(boundary, color="#eeeeee", linewidth=0.8, zorder=0)
    marker_legend(ax, "outside upper center")
    return ax


def mistakes_of_class(
    matrices: Mapping[str, np.ndarray],
    models: Mapping[str, str],
    classes: Sequence[str],
    true: int,
    *,
    most: int = MOST_CLASSES,
    ax: Axes | None = None,
) -> Axes:
    """What the images of one class are misclassified as: the share of them, per network, the most frequent on top.

    matrices: as in `confusion_matrices`; true: index of the class in `classes`. Of more than `most` other classes, the
    most frequent are shown.
    """
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    if not matrices:
        return no_data(ax)
    shares = 100 * np.array([np.asarray(matrix)[true] for matrix in matrices.values()])  # (networks, classes)
    order = [k for k in np.argsort(-shares.mean(0), kind="stable") if k != true][:most]
    styles, rows = network_styles(models), np.arange(len(order))[::-1]
    for (label, row), offset in zip(zip(matrices, shares, strict=True), _offsets(len(shares)), strict=True):
        style = styles[label]
        marks = {"marker": style.marker, "color": style.colour, "markerfacecolor": style.face, "linestyle": "none"}
        ax.plot(row[order], rows + offset, label=plain(label), **marks)
    ax.set_yticks(rows, [plain(classes[k], 24) for k in order])
    ax.set(xlabel=f"misclassified images of the class {plain(classes[true], 24)} (%)", ylim=(-0.6, len(order) - 0.4))
    ax.set_xlim(left=0)
    add_legend(ax, "", outside=True)
    return ax


def _offsets(count: int) -> np.ndarray:
    """Where `count` networks are drawn around the row of a class."""
    return np.linspace(0.28, -0.28, count) if count > 1 else np.zeros(1)


def _matrix_axes(count: int, classes: int, without: str = "no finished run") -> np.ndarray:
    """Flat axes, one per matrix: two panels per row, or one for many classes. Without a matrix, small axes that show
    the text `without`."""
    if not count:
        _, ax = plt.subplots(figsize=(WIDTH, 1.3), layout="constrained")
        return np.array([no_data(ax, without)])
    columns = 1 if classes > 2 * MANY_CLASSES or count == 1 else 2
    rows = -(-count // columns)
    side = WIDTH / 2 if classes <= 2 * MANY_CLASSES else 0.8 * WIDTH
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(columns * side, 0.62 * WIDTH), rows * side * 0.93),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat[count:]:
        ax.remove()
    return axes.flatten()[:count]


def _matrix(ax: Axes, values: np.ndarray, classes: Sequence[str], title: str, *, cmap, norm, signed=False):
    image = ax.imshow(values, cmap=cmap, norm=norm, interpolation="nearest")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_title(plain(title, 50))
    ax.set(xlabel="predicted class", ylabel="true class")
    every = -(-len(classes) // 50)  # at most 50 names per axis
    size = 8 if len(classes) <= MANY_CLASSES else 5.5
    names = [plain(name, 16) for name in classes][::every]
    ax.set_xticks(range(0, len(classes), every), names, rotation=90, fontsize=size)
    ax.set_yticks(range(0, len(classes), every), names, fontsize=size)
    ax.tick_params(length=0 if every == 1 else 2)
    if len(classes) <= MANY_CLASSES:
        _cell_numbers(ax, values, image, signed)
    return image


def _cell_numbers(ax: Axes, values: np.ndarray, image, signed: bool) -> None:
    """Percent, or percentage points if signed, in each cell; values that would round to 0 are left out."""
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value) or abs(value) < (0.5 if not signed else 0.05):
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
        digits = 1 if signed and abs(value) < 9.95 else 0
        text = f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}") if signed else f"{value:.0f}"
        size = (8 if len(values) <= 12 else 6) - (1.5 if signed else 0)
        cell = ax.text(column, row, text, ha="center", va="center", color=ink, size=size)
        cell.set_in_layout(False)  # always inside the axes; measuring a hundred per panel takes seconds


def _colour_bar(image, axes: np.ndarray, label: str, ticks: Sequence[float] | None = None) -> None:
    bar = image.figure.colorbar(
        image,
        ax=list(axes),
        shrink=min(0.5, 5 / image.figure.get_figheight()),
        aspect=30,
        pad=0.01,
        label=label,
        ticks=ticks,
    )
    bar.outline.set_visible(False)
    bar.ax.grid(visible=False)
