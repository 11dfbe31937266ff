"""Parts shared by several figures: rows of axes, legends, published lines, points with error bars."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from senet_lib.analysis.plots.style import WIDTH, Style, plain, shaded

PUBLISHED, BASELINE = "_published", "_baseline"  # labels of lines; the underscore keeps them out of legends


def row_of_axes(axes: Sequence[Axes] | None, count: int) -> np.ndarray:
    if axes is None:
        _, axes = plt.subplots(1, count, figsize=(WIDTH, 3.7), layout="constrained")
    axes = np.asarray(axes)
    if axes.shape != (count,):
        raise ValueError(f"axes have shape {axes.shape}; this figure needs ({count},)")
    return axes


def no_data(ax: Axes, why: str = "no finished run") -> Axes:
    if not ax.texts:
        ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="#666666")
    ax.set(xticks=[], yticks=[])
    return ax


def add_legend(ax: Axes, loc: str, *, outside: bool = False) -> None:
    """A legend in the axes, or below the whole figure, where it covers nothing."""
    handles, labels = ax.get_legend_handles_labels()
    if handles and outside:
        ax.figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(len(handles)))
    elif handles:
        ax.legend(loc=loc)


def marker_legend(ax: Axes, loc: str) -> None:
    """A figure legend that shows markers only: error bars would be illegible in it."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        markers = [handle[0] for handle in handles]
        ax.figure.legend(markers, labels, loc=loc, ncols=legend_columns(len(markers)), handlelength=1.2)


def legend_columns(entries: int) -> int:
    """The number of columns, five at most, that fills the rows evenly."""
    rows = max(1, -(-entries // 5))
    return max(1, -(-entries // rows))


def published_lines(
    ax: Axes, published: Mapping[str, float], styles: Mapping[str, Style], *, labelled: bool = True
) -> None:
    """A dashed line per published accuracy near the measured ones, labelled to the right of the axes, where nothing
    is drawn."""
    low, high = ax.get_ylim()
    reach = 0.5 * (high - low)
    near = {label: 100 * value for label, value in published.items() if low < 100 * value < high + reach}
    if not near:
        return
    ax.set_ylim(low, max(high, max(near.values()) + 0.05 * (high - low)))
    places = separated(list(near.values()), gap=0.1 * (ax.get_ylim()[1] - low))
    for (label, value), place in zip(near.items(), places, strict=True):
        ax.axhline(value, color=styles[label].colour, linestyle=(0, (6, 3)), linewidth=1, zorder=1, label=PUBLISHED)
        if labelled:
            ax.annotate(
                f"{plain(label, 24)}\npublished: {value:.2f}",
                (1.015, place),
                xycoords=("axes fraction", "data"),
                va="center",
                size=7.5,
                color=shaded(styles[label].colour, -0.3),
            )


def shows_published(axes: Axes | np.ndarray) -> bool:
    """Whether `published_lines` drew a line in any of the axes."""
    return _has_line(axes, PUBLISHED)


def shows_baseline(axes: Axes | np.ndarray) -> bool:
    """Whether a line in any of the axes marks the baseline."""
    return _has_line(axes, BASELINE)


def _has_line(axes: Axes | np.ndarray, label: str) -> bool:
    return any(line.get_label() == label for ax in np.asarray(axes).flat for line in ax.get_lines())


def separated(values: Sequence[float], gap: float) -> list[float]:
    """The values, each moved up only as far as needed to be `gap` above the one below."""
    places: list[float] = [0.0] * len(values)
    previous = -np.inf
    for index in np.argsort(values, kind="stable"):
        previous = max(values[index], previous + gap)
        places[index] = float(previous)
    return places


def draw_points(ax, x, y, style: Style, label: str | None, *, rows: pd.DataFrame, size: float = 5) -> None:
    """Means with horizontal bars for their intervals; no bar where there is no interval."""
    errors = np.nan_to_num(np.array([rows["mean"] - rows["low"], rows["high"] - rows["mean"]], dtype=float))
    ax.errorbar(
        x,
        y,
        xerr=np.maximum(errors, 0),
        fmt=style.marker,
        color=style.colour,
        markerfacecolor=style.face,
        markersize=size,
        elinewidth=1.3,
        capsize=2,
        label=None if label is None else plain(label),
    )
