"""Figures of gates, kernel weights and Grad-CAM maps: numbers in, axes out, in the style of `senet_lib.analysis.plots`.

Classes have their own colours, distinct from the families', and their own line styles, for greyscale print.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from senet_lib.analysis.plots import PALETTE, WIDTH, network_styles, plain, shaded
from senet_lib.gates.measures import ClassMoments

# Black and colours of seaborn's "colorblind" palette that no family uses; the line styles differ for greyscale
CLASS_LINES = (("#000000", "-"), ("#d55e00", "--"), ("#56b4e9", "-."), ("#ca9161", ":"))
OTHERS = "#c9c9c9"


def class_profiles(
    moments: Mapping[str, Mapping[str, ClassMoments]], classes: Sequence[str], shown: Sequence[int]
) -> np.ndarray:
    """Mean gate of each class, channel by channel: one row per network, one column per block.

    moments: label -> block -> moments. shown: up to four class indices, drawn with their own line styles; the other
    classes are grey. Channels are sorted by their mean over the classes.
    """
    figure, axes = _panels(moments)
    for label, row in zip(moments, axes, strict=True):
        for (block, found), ax in zip(moments[label].items(), row, strict=False):
            mean = found.mean[:, np.argsort(np.nanmean(found.mean, 0))]  # (K, C)
            channels = np.arange(1, mean.shape[1] + 1)
            others = [k for k in range(len(classes)) if k not in shown]
            for k in others:
                ax.plot(
                    channels, mean[k], color=OTHERS, linewidth=0.9, label="other classes" if k == others[0] else None
                )
            for k, (colour, line) in zip(shown, CLASS_LINES, strict=False):
                ax.plot(channels, mean[k], color=colour, linestyle=line, linewidth=1.3, label=plain(classes[k]))
            _gate_axes(ax, label, block)
    _below(figure, axes[0, 0])
    return axes


def class_bands(
    moments: Mapping[str, Mapping[str, ClassMoments]], classes: Sequence[str], shown: Sequence[int]
) -> np.ndarray:
    """Two classes' gates: mean ± one standard deviation over each class's own images. Panels and channel order as in
    `class_profiles`."""
    figure, axes = _panels(moments)
    for label, row in zip(moments, axes, strict=True):
        for (block, found), ax in zip(moments[label].items(), row, strict=False):
            order = np.argsort(np.nanmean(found.mean, 0))
            channels = np.arange(1, len(order) + 1)
            for k, (colour, line) in zip(shown[:2], CLASS_LINES, strict=False):
                mean, sd = found.mean[k, order], np.nan_to_num(found.sd[k, order])
                if k == shown[0]:
                    ax.fill_between(channels, mean - sd, mean + sd, color="#9a9a9a", alpha=0.45, linewidth=0)
                else:  # outline only, so that it is visible on the other band
                    for edge in (mean - sd, mean + sd):
                        ax.plot(channels, edge, color=colour, linewidth=0.8, linestyle=(0, (1, 1)))
                ax.plot(channels, mean, color=colour, linestyle=line, linewidth=1.3, label=plain(classes[k]))
            _gate_axes(ax, label, block)
    _below(figure, axes[0, 0])
    return axes


def class_shares(table: pd.DataFrame, models: Mapping[str, str], *, ax: Axes | None = None) -> Axes:
    """Share of a gate's variance over images that lies between classes, per block, with its interval.

    table: label, block, share, low, high (`measures.gate_table`). models: label -> model name, of all networks.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(0.75 * WIDTH, 3.4), layout="constrained")
    blocks = list(dict.fromkeys(table["block"]))
    labels = [label for label in models if label in set(table["label"])]
    offsets = np.linspace(-0.12, 0.12, len(labels)) if len(labels) > 1 else [0.0]
    styles = network_styles(models)
    for label, offset in zip(labels, offsets, strict=True):
        rows = table[table["label"] == label].set_index("block").reindex(blocks)
        _with_bars(
            ax, np.arange(len(blocks)) + offset, 100 * rows, ("share", "low", "high"), styles[label], plain(label)
        )
    ax.axhline(0, color="#444444", linewidth=1)
    _block_axis(ax, blocks)
    ax.set_ylabel("variance between classes (%)")
    if labels:
        ax.legend(loc="best")
    return ax


def kernel_weights(table: pd.DataFrame, *, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """The larger kernel's mean weight per block, with intervals: the weight at each zoom (left), its change (right).

    table: `measures.kernel_table`; kind 'coarser' has hollow markers.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.0), layout="constrained")
    axes = np.asarray(axes)
    blocks = list(dict.fromkeys(table["block"]))
    zooms = sorted(table["zoom"].unique())
    colour = PALETTE["sk"].colour
    shades = {
        zoom: shaded(colour, share) for zoom, share in zip(zooms, np.linspace(0.45, -0.55, len(zooms)), strict=True)
    }
    marks = {zoom: ("osD^v"[i % 5], ("-", "--", "-.", ":")[i % 4]) for i, zoom in enumerate(zooms)}
    for zoom in zooms:
        rows = table[(table["zoom"] == zoom) & (table["kind"] != "coarser")].set_index("block").reindex(blocks)
        marker, line = marks[zoom]
        name = "original" if zoom == 1 else f"enlarged {zoom:g}x"
        style = {"color": shades[zoom], "marker": marker, "linestyle": line}
        _lines(axes[0], np.arange(len(blocks)), rows, ("weight", "low", "high"), name, style)
    changed = table[table["kind"] != "original"]
    series = list(changed.groupby(["kind", "zoom"], sort=False).groups)
    offsets = np.linspace(-0.27, 0.27, len(series)) if len(series) > 1 else [0.0]
    for (kind, zoom), offset in zip(series, offsets, strict=True):
        rows = changed[(changed["kind"] == kind) & (changed["zoom"] == zoom)].set_index("block").reindex(blocks)
        hollow = {"markerfacecolor": "white"} if kind == "coarser" else {}
        style = {"color": shades[zoom], "marker": marks[zoom][0], "linestyle": "none"} | hollow
        place = np.arange(len(blocks)) + offset
        columns = ("change", "change_low", "change_high")
        _lines(axes[1], place, rows * 100, columns, f"{kind} {zoom:g}x", style)
    axes[0].axhline(0.5, color="#444444", linewidth=1)
    axes[1].axhline(0, color="#444444", linewidth=1)
    for boundary in np.arange(0.5, len(blocks) - 1):
        axes[1].axvline(boundary, color="#eeeeee", linewidth=0.8, zorder=0)
    axes[0].set(ylabel="mean weight of the larger kernel", title="Weight")
    axes[1].set(ylabel="change of that weight (pp)", title="Change from the original images")
    for ax in axes:
        _block_axis(ax, blocks)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2 if ax is axes[1] else len(zooms))
    axes[1].grid(axis="x", visible=False)
    return axes


def kernel_changes_by_class(
    changes: np.ndarray, classes: Sequence[str], blocks: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """Mean change of the larger kernel's weight by class and block, in pp. changes: (K, blocks), fractions."""
    if ax is None:
        _, ax = plt.subplots(figsize=(0.85 * WIDTH, 1.2 + 0.27 * len(classes)), layout="constrained")
    values = 100 * changes
    largest = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    image = ax.imshow(values, cmap="PuOr_r", norm=colors.Normalize(-largest, largest), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = abs(value) > 0.6 * largest
            text = f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if abs(value) >= 0.05 else "0.0"
            ax.text(column, row, text, ha="center", va="center", size=8, color="white" if dark else "black")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_yticks(range(len(classes)), [plain(name, 20) for name in classes])
    _block_axis(ax, blocks)
    ax.set_ylabel("true class")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02, label="change of the weight (pp)")
    bar.outline.set_visible(False)
    bar.ax.grid(visible=False)
    return ax


def cam_grid(
    images: np.ndarray,
    titles: Sequence[str],
    maps: Mapping[str, np.ndarray],
    predicted: Mapping[str, Sequence[str]],
) -> np.ndarray:
    """Images on top; below, one row per network: its maps over the greyscale images, titled with the predicted class.

    images: (N, H, W, 3) uint8; titles: N; maps: label -> (N, H, W) in [0, 1]; predicted: label -> N class names.
    Returns axes of shape (1 + networks, N).
    """
    rows, columns = 1 + len(maps), len(images)
    figure, axes = plt.subplots(
        rows, columns, figsize=(min(WIDTH, 1.2 + 1.3 * columns), 0.5 + 1.3 * rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    for ax, image, title in zip(axes[0], images, titles, strict=True):
        ax.imshow(image)
        ax.set_title(plain(title, 16), loc="center", fontsize=9)
    axes[0, 0].set_ylabel("image")
    for row, label in zip(axes[1:], maps, strict=True):
        for ax, image, heat, name in zip(row, images, maps[label], predicted[label], strict=True):
            ax.imshow(image.mean(2), cmap="gray", vmin=0, vmax=255)
            drawn = ax.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.55)
            ax.set_title(plain(name, 16), loc="center", fontsize=8, fontweight="normal", pad=2)
        row[0].set_ylabel(plain(label, 18))
    bar = figure.colorbar(drawn, ax=axes, shrink=0.5, aspect=30, pad=0.01, label="Grad-CAM (relative to its maximum)")
    bar.outline.set_visible(False)
    bar.ax.grid(visible=False)
    return axes


# ------------------------------------------------------------------------------------------------------------- pieces


def _panels(moments: Mapping[str, Mapping[str, object]]) -> tuple[plt.Figure, np.ndarray]:
    rows, columns = max(1, len(moments)), max([1, *map(len, moments.values())])
    size = (WIDTH, 0.6 + 2.3 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    for row, blocks in zip(axes, moments.values(), strict=False):
        for ax in row[len(blocks) :]:
            ax.remove()
    axes[0, 0].set_ylabel("gate")
    return figure, axes


def _gate_axes(ax: Axes, label: str, block: str) -> None:
    ax.set_title(f"{plain(label, 20)}, block {plain(block, 12)}")
    ax.set_xlabel("channel, sorted by mean gate")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if ax.get_subplotspec().is_first_col():
        ax.set_ylabel("gate")


def _below(figure: plt.Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))


def _block_axis(ax: Axes, blocks: Sequence[str]) -> None:
    ax.set_xticks(range(len(blocks)), [plain(block, 12) for block in blocks])
    ax.set_xlabel("block (stage.block)")


def _with_bars(ax, x, rows: pd.DataFrame, columns: tuple[str, str, str], style, name: str) -> None:
    marks = {"color": style.colour, "marker": style.marker, "markerfacecolor": style.face, "linestyle": style.line}
    _lines(ax, x, rows, columns, name, marks)


def _lines(ax, x, rows: pd.DataFrame, columns: tuple[str, str, str], name: str, style: Mapping[str, object]) -> None:
    point, low, high = (rows[column].to_numpy(dtype=float) for column in columns)
    errors = np.maximum(np.nan_to_num([point - low, high - point]), 0)
    ax.errorbar(x, point, yerr=errors, label=name, capsize=2, elinewidth=1.2, linewidth=1.2, **style)
