"""Networks compared: accuracy against cost, differences with intervals, training time per epoch."""

from collections.abc import Iterable, Mapping
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from senet_lib.analysis.format import limit, points, span
from senet_lib.analysis.plots.axes import BASELINE, draw_points, marker_legend, no_data, published_lines
from senet_lib.analysis.plots.style import PALETTE, WIDTH, network_styles, plain
from senet_lib.analysis.stats import Interval

FAR = 6  # a difference this many times as large as the others would hide them on a common axis
BEYOND = "beyond the axis"
PARAMS, MACS = "parameters (millions)", "multiply-adds per image (millions)"


def params_vs_accuracy(networks: pd.DataFrame, *, ax: Axes | None = None, metric: str = "test accuracy") -> Axes:
    """Mean accuracy and its 95 % CI against the number of parameters.

    networks: label, model, params, mean, low, high; optionally `published`, a dashed line if near the measured values.
    """
    return _cost_vs_accuracy(networks, "params", PARAMS, metric, ax)


def macs_vs_accuracy(networks: pd.DataFrame, *, ax: Axes | None = None, metric: str = "test accuracy") -> Axes:
    """Mean accuracy and its 95 % CI against the multiply-adds per image; columns as in `params_vs_accuracy`."""
    return _cost_vs_accuracy(networks, "macs", MACS, metric, ax)


def accuracy_against_cost(networks: pd.DataFrame, *, metric: str = "test accuracy") -> np.ndarray:
    """The headline figure: `params_vs_accuracy` and `macs_vs_accuracy` with a shared accuracy axis and legend."""
    _, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.0), sharey=True, layout="constrained")
    _cost_vs_accuracy(networks, "params", PARAMS, metric, axes[0], labelled=False)  # labels on the right panel only
    _cost_vs_accuracy(networks, "macs", MACS, metric, axes[1])
    axes[1].set_ylabel("")
    for ax in axes:
        if ax.get_legend():
            ax.get_legend().remove()
    marker_legend(axes[0], "outside lower center")
    return axes


def sorted_accuracies(
    networks: pd.DataFrame, *, baseline: str | None = None, metric: str = "test accuracy", ax: Axes | None = None
) -> Axes:
    """Mean accuracy and its 95 % CI of many networks, one row each, the highest on top; a line marks the baseline's.

    networks: label, model, mean, low, high, in fractions. Accuracies so low that the others could not be told apart are
    arrows at the edge of the axis.
    """
    styles = network_styles(dict(zip(networks["label"], networks["model"], strict=True)))
    networks = networks.dropna(subset=["mean"]).sort_values("mean", kind="stable")
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, 0.9 + 0.26 * max(1, len(networks))), layout="constrained")
    if networks.empty:
        return no_data(ax)
    numbers = 100 * networks.set_index("label")[["mean", "low", "high"]].astype(float)
    edge = _lower_edge(numbers)
    if baseline in numbers.index and numbers.loc[baseline, "mean"] > edge:
        look = {"color": "#444444", "linewidth": 1, "linestyle": (0, (2, 2))}
        ax.axvline(numbers.loc[baseline, "mean"], label=BASELINE, **look)
    for row, (label, values) in enumerate(numbers.iterrows()):
        if values["mean"] < edge:
            ax.plot(edge, row, "<", color=styles[label].colour, markersize=9)
            place = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
            over_lines = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            ax.annotate(BEYOND, (edge, row), **place, size=8, bbox=over_lines)
            continue
        draw_points(ax, [values["mean"]], [row], styles[label], None, rows=values.to_frame().T, size=6)
    ax.set_yticks(range(len(numbers)), [plain(label, 30) for label in numbers.index])
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(numbers)), [f"{mean:.2f}" for mean in numbers["mean"]])
    right.tick_params(length=0)
    right.spines[:].set_visible(False)
    ax.set(ylim=(-0.7, len(numbers) - 0.3), xlabel=f"{metric} (%)")
    ax.tick_params(axis="y", length=0)
    return ax


def _lower_edge(numbers: pd.DataFrame) -> float:
    """Where the axis ends, if the accuracies below are so far away that the upper half or more could not be told apart;
    -inf if all fit on one axis. numbers: mean, low, high in ascending order of the mean."""
    means = numbers["mean"].to_numpy()
    for first in range(1, len(means) // 2 + 1):
        low, high = numbers.iloc[first:].min(axis=None), numbers.iloc[first:].max(axis=None)
        if low - means[first - 1] > FAR * (high - low) > 0:
            return low - 0.15 * (high - low)
    return -np.inf


def difference_intervals(
    differences: Mapping[tuple[str, str], Interval],
    models: Mapping[str, str],
    *,
    margin: float,
    ax: Axes | None = None,
) -> Axes:
    """Differences with their intervals, in percentage points. The band is the pre-declared margin.

    differences: (treatment, baseline) -> Interval, in fractions; drawn in the treatment's style. A baseline shared by
    all rows is named once, below the axis; otherwise each row names its own. A difference so large that the others
    could not be told apart is an arrow at the edge of the axis, with its numbers.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.45 * max(1, len(differences))), layout="constrained")
    if not differences:
        return no_data(ax, "no comparison")
    styles, edge = network_styles(models), _edge(differences.values(), margin)
    ax.axvspan(-100 * margin, 100 * margin, color="#ececec", zorder=0, label=f"margin: ±{100 * margin:g} pp")
    ax.axvline(0, color="#444444", linewidth=1)
    baselines = {baseline for _, baseline in differences}
    some = any(interval.exists for interval in differences.values())  # without any, the caption says so
    names = [
        plain(treatment, 30) + ("" if len(baselines) == 1 else f" \N{MINUS SIGN} {plain(baseline, 30)}")
        for treatment, baseline in differences
    ]
    for row, ((treatment, _), interval) in enumerate(reversed(differences.items())):
        style = styles.get(treatment, PALETTE["other"])
        text = points(interval.point) + ("  (no interval)" if some and not interval.exists else "")
        if edge is not None and abs(interval.point) > edge:
            _draw_beyond(ax, interval, row, edge, text, style.colour)
            continue
        table = pd.DataFrame([{"mean": interval.point, "low": interval.low, "high": interval.high}], dtype=float)
        draw_points(ax, 100 * table["mean"], [row], style, None, rows=100 * table, size=7)
        ax.annotate(text, (100 * interval.point, row), xytext=(0, 7), textcoords="offset points", ha="center", size=8)
    ax.set_yticks(range(len(differences)), names[::-1])
    reference = f" from {plain(baselines.pop())}" if len(baselines) == 1 else ""
    ax.set(ylim=(-0.6, len(differences) - 0.3), xlabel=f"difference{reference} (pp)")
    ax.margins(x=0.12)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="best")
    return ax


def _draw_beyond(ax: Axes, interval: Interval, row: int, edge: float, text: str, colour: str) -> None:
    """An arrow at the edge of the axis, with the numbers of a difference that lies beyond it."""
    left = interval.point < 0
    place = 100 * (-edge if left else edge)
    label = None if any(line.get_label() == BEYOND for line in ax.lines) else BEYOND  # once in the legend
    ax.plot(place, row, "<" if left else ">", color=colour, markersize=9, label=label)
    text += f"  ({span(interval.low, interval.high, limit)})" if interval.exists else ""
    offset, side = (9, "left") if left else (-9, "right")
    ax.annotate(text, (place, row), xytext=(offset, 0), textcoords="offset points", ha=side, va="center", size=8)


def _edge(intervals: Iterable[Interval], margin: float) -> float | None:
    """Where the axis ends, if some differences are far larger than the others: beyond the largest of the others and
    its interval. None if all fit on one axis, or if the axis must be long anyway, for a small difference with a wide
    interval."""
    sizes = [(max(abs(end) for end in (i.point, i.low, i.high) if end is not None), abs(i.point)) for i in intervals]
    near = sorted(max(size, margin) for size, _ in sizes)
    edge = next((1.25 * inner for inner, outer in pairwise(near) if outer > FAR * inner), None)
    return None if edge is None or any(point <= edge < size for size, point in sizes) else edge


def crossed(
    cells: Mapping[str, Mapping[str, Interval]],
    models: Mapping[str, str],
    *,
    factor: str,
    metric: str = "test accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Networks crossed with the levels of one factor: mean accuracies with intervals, one line per network.

    Non-parallel lines indicate an interaction. cells: label -> {level: Interval}, in fractions.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(0.62 * WIDTH, 3.4), layout="constrained")
    if not cells:
        return no_data(ax)
    styles = network_styles(models)
    levels = list(dict.fromkeys(level for row in cells.values() for level in row))
    for index, (label, row) in enumerate(cells.items()):
        style = styles[label]
        x = np.array([levels.index(level) for level in row]) + 0.06 * (index - (len(cells) - 1) / 2)
        mean = np.array([interval.point for interval in row.values()])
        low = [interval.low if interval.exists else interval.point for interval in row.values()]
        high = [interval.high if interval.exists else interval.point for interval in row.values()]
        ax.errorbar(
            x,
            100 * mean,
            yerr=100 * np.array([mean - low, high - mean]),
            fmt=style.marker,
            linestyle=style.line,
            color=style.colour,
            markerfacecolor=style.face,
            markersize=7,
            capsize=3,
            label=plain(label),
        )
    ax.set_xticks(range(len(levels)), [plain(level) for level in levels])
    ax.set(xlim=(-0.4, len(levels) - 0.6), xlabel=factor, ylabel=f"{metric} (%)")
    ax.grid(axis="x", visible=False)
    ax.legend(loc="best")
    return ax


def seconds_per_epoch(networks: pd.DataFrame, *, baseline: str | None = None, ax: Axes | None = None) -> Axes:
    """Training time per epoch (median over epochs, mean over seeds), with its ratio to the baseline's.

    networks: label, model, seconds_per_epoch.
    """
    styles = network_styles(dict(zip(networks["label"], networks["model"], strict=True)))
    networks = networks.dropna(subset=["seconds_per_epoch"])
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.42 * max(1, len(networks))), layout="constrained")
    if networks.empty:
        return no_data(ax)
    seconds = networks.set_index("label")["seconds_per_epoch"].astype(float)
    for row, label in enumerate(reversed(seconds.index)):
        style, value = styles[label], seconds[label]
        ax.barh(row, value, color=style.colour, height=0.6, hatch=_HATCHES[style.line], edgecolor="white", linewidth=0)
        ratio = f"   {value / seconds[baseline]:.2f}x" if baseline in seconds and label != baseline else ""
        ax.annotate(f"{value:.3g} s{ratio}", (value, row), xytext=(5, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(seconds)), [plain(label, 30) for label in reversed(seconds.index)])
    ax.set(xlabel="training time per epoch (s)", xlim=(0, 1.25 * seconds.max()))
    ax.grid(axis="y", visible=False)
    return ax


_HATCHES = {"-": "", "--": "//", "-.": "\\\\", ":": "..", PALETTE["other"].line: "xx"}


def _cost_vs_accuracy(
    networks: pd.DataFrame, column: str, title: str, metric: str, ax: Axes | None, *, labelled: bool = True
) -> Axes:
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH / 2, 3.7), layout="constrained")
    # From all rows, so that a network's style does not depend on which others have results
    styles = network_styles(dict(zip(networks["label"], networks["model"], strict=True)))
    networks = networks.dropna(subset=["mean", column])
    if networks.empty:
        return no_data(ax)
    costs = networks[column].astype(float).to_numpy() / 1e6
    _cost_limits(ax, costs)
    low = 100 * networks[["mean", "low"]].astype(float).min(axis=None)
    high = 100 * networks[["mean", "high"]].astype(float).max(axis=None)
    room = 0.12 * (high - low) or 1.0
    ax.set_ylim(max(low - room, 0), min(high + room, 100.5))
    for row, cost, aside in zip(networks.itertuples(), costs, _moved_aside(ax, costs), strict=True):
        style = styles[row.label]
        below = 0 if pd.isna(row.low) else row.mean - row.low
        above = 0 if pd.isna(row.high) else row.high - row.mean
        ax.errorbar(
            cost,
            100 * row.mean,
            yerr=[[100 * below], [100 * above]],
            fmt=style.marker,
            color=style.colour,
            markerfacecolor=style.face,
            markersize=8,
            capsize=3,
            label=plain(row.label),
            transform=ax.transData + ScaledTranslation(aside / 72, 0, ax.figure.dpi_scale_trans),
        )
    if "published" in networks:
        known = networks.dropna(subset=["published"])
        published_lines(ax, dict(zip(known["label"], known["published"], strict=True)), styles, labelled=labelled)
    ax.set(xlabel=title, ylabel=f"{metric} (%)")
    ax.legend(loc="best")
    return ax


def _cost_limits(ax: Axes, costs: np.ndarray) -> None:
    """Logarithmic above a factor of five; never so narrow that a tiny difference looks large."""
    if costs.max() > 5 * costs.min():
        ax.set_xscale("log")
        ax.set_xlim(costs.min() / 1.4, costs.max() * 1.4)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(_log_ticks(costs.min(), costs.max()))
    else:
        room = max(0.15 * np.ptp(costs), 0.1 * costs.max())
        ax.set_xlim(costs.min() - room, costs.max() + room)
        ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _moved_aside(ax: Axes, values: np.ndarray) -> np.ndarray:
    """Sideways shifts of the markers, in points (1/72 inch), that keep markers of almost equal cost visible."""
    places = ax.transScale.transform(np.column_stack([values, np.ones(len(values))]))[:, 0]
    left, right = ax.transScale.transform(np.column_stack([ax.get_xlim(), (1, 1)]))[:, 0]
    order = np.argsort(places, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(places[order]) > 0.04 * (right - left)) + 1)
    shifts = np.zeros(len(values))
    for group in groups:
        shifts[group] = 9 * (np.arange(len(group)) - (len(group) - 1) / 2)
    return shifts


def _log_ticks(low: float, high: float) -> list[float]:
    """The ticks 1, 2, 5, 10, ... around the range."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    return [tick for tick in ticks if 0.8 * low <= tick <= 1.25 * high] or [low, high]
