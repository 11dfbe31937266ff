"""Accuracy and loss against the epoch or the training time."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from senet_lib.analysis.plots.axes import add_legend, no_data, published_lines, row_of_axes
from senet_lib.analysis.plots.style import PALETTE, WIDTH, Style, network_styles, plain, shaded
from senet_lib.analysis.stats import t_interval
from senet_lib.models import family_name

ALL_MARKED = 40  # epochs; more markers would hide one another and the line


def accuracy_curves(
    history: pd.DataFrame,
    models: Mapping[str, str],
    *,
    axes: Sequence[Axes] | None = None,
    evaluated: str = "test",
    published: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Accuracy of all networks against the epoch: training images on the left, evaluated images on the right.

    history: label, seed, epoch, train_accuracy, test_accuracy. models: label -> model name, in legend order. evaluated:
    the name of the right panel's images. published: label -> accuracy, a dashed line if near the measured values.
    """
    own_figure, axes = axes is None, row_of_axes(axes, 2)
    styles = network_styles(models)
    for ax, column, title in zip(axes, ("train", "test"), ("training", evaluated), strict=True):
        drawn = _curves(ax, history, f"{column}_accuracy", styles, scale=100)
        _accuracy_limits(ax, drawn)
        ax.set(title=f"{title.capitalize()} images", ylabel=f"{title} accuracy (%)")
    if published:
        published_lines(axes[1], published, styles)
    add_legend(axes[0], "lower right", outside=own_figure)
    return axes


def loss_curves(
    history: pd.DataFrame,
    models: Mapping[str, str],
    *,
    axes: Sequence[Axes] | None = None,
    evaluated: str = "test",
) -> np.ndarray:
    """Cross-entropy of all networks against the epoch: training images on the left, evaluated images on the right."""
    own_figure, axes = axes is None, row_of_axes(axes, 2)
    for ax, column, title in zip(axes, ("train", "test"), ("training", evaluated), strict=True):
        drawn = _curves(ax, history, f"{column}_loss", network_styles(models))
        _loss_limits(ax, drawn)
        ax.set(title=f"{title.capitalize()} images", ylabel=f"{title} loss (cross-entropy)")
    add_legend(axes[0], "upper right", outside=own_figure)
    return axes


def accuracy_against_seconds(
    history: pd.DataFrame,
    models: Mapping[str, str],
    *,
    axes: Sequence[Axes] | None = None,
    evaluated: str = "test",
) -> np.ndarray:
    """Evaluated accuracy against the training time so far, one point per epoch: all epochs left, the second half right.

    history: label, seed, epoch, test_accuracy, train_seconds (of the epoch, without its evaluation). A point lies at
    the mean over seeds of the cumulative time at the end of its epoch.
    """
    own_figure, axes = axes is None, row_of_axes(axes, 2)
    history = history.astype({"train_seconds": float}).sort_values("epoch", kind="stable")
    history = history.assign(elapsed=history.groupby(["label", "seed"])["train_seconds"].cumsum())
    last = history.groupby("label")["epoch"].transform("max")
    parts = {"All epochs": history, "Second half of the epochs": history[history["epoch"] > last // 2]}
    for ax, (title, part) in zip(axes, parts.items(), strict=True):
        if _curves(ax, part, "test_accuracy", network_styles(models), scale=100, at="elapsed"):
            ax.set(xlabel="training time without evaluation (s)", ylabel=f"{evaluated} accuracy (%)")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            ax.set_ylim(None, min(ax.get_ylim()[1], 100.5))
        ax.set_title(title)
    if len(history):
        axes[0].set_xlim(0, None)
    add_legend(axes[0], "lower right", outside=own_figure)
    return axes


def network_curves(
    history: pd.DataFrame,
    model: str,
    *,
    axes: Sequence[Axes] | None = None,
    evaluated: str = "test",
    style: Style | None = None,
) -> np.ndarray:
    """One network's accuracy (left) and loss (right) against the epoch, training and evaluated images together.

    history: the columns of history.csv, with `seed` if there are several runs. style: the family's by default.
    """
    axes = row_of_axes(axes, 2)
    own = style or PALETTE[family_name(model)]
    history = history.assign(seed=0) if "seed" not in history else history
    names = {f"{evaluated} images": own, "training images": Style(shaded(own.colour, 0.35), "", ":")}
    for ax, quantity, scale in zip(axes, ("accuracy", "loss"), (100, 1), strict=True):
        drawn = []
        for (name, style), column in zip(names.items(), ("test", "train"), strict=True):
            table = history.assign(label=name)
            drawn += _curves(ax, table, f"{column}_{quantity}", {name: style}, scale=scale)
        if quantity == "accuracy":
            _accuracy_limits(ax, drawn)
            ax.set_ylabel("accuracy (%)")
        else:
            _loss_limits(ax, drawn)
            ax.set_ylabel("loss (cross-entropy)")
    add_legend(axes[0], "lower right")
    return axes


def network_grid(history: pd.DataFrame, models: Mapping[str, str], *, evaluated: str = "test") -> np.ndarray:
    """The curves of every network, one row each, with shared axis limits. Returns axes of shape (networks, 2)."""
    labels = [label for label in models if label in set(history["label"])]
    rows = max(1, len(labels))
    _, axes = plt.subplots(rows, 2, figsize=(WIDTH, 0.5 + 2.2 * rows), sharex=True, squeeze=False, layout="constrained")
    styles = network_styles(models)
    for label, row in zip(labels, axes, strict=False):
        rows_of_label = history[history["label"] == label]
        network_curves(rows_of_label, models[label], axes=row, evaluated=evaluated, style=styles[label])
        row[0].set_title(plain(label))
    if not labels:
        for ax in axes[0]:
            no_data(ax)
    for column in axes.T:
        limits = np.array([ax.get_ylim() for ax in column])
        for ax in column:
            ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
        for ax in column[:-1]:
            ax.set_xlabel("")
    return axes


def _curves(
    ax: Axes,
    history: pd.DataFrame,
    column: str,
    styles: Mapping[str, Style],
    scale: float = 1,
    at: str | None = None,
) -> list[np.ndarray]:
    """Each label's mean over seeds, with a 95 % CI band for three or more seeds; for two, thin lines for the seeds.

    x is the epoch, or the mean over seeds of the column `at`. With `at`, up to ALL_MARKED epochs are all marked.
    Returns the means, for the axis limits.
    """
    drawn = []
    for label, style in styles.items():
        rows = history[history["label"] == label]
        if rows.empty:
            continue
        table = scale * rows.set_index(["epoch", "seed"])[column].astype(float).unstack()  # noqa: PD010
        table = table.dropna()  # drop epochs that not every seed has reached: their mean is over fewer seeds
        x, mean = table.index.to_numpy(), table.mean(axis=1).to_numpy()
        if at:
            x = rows.groupby("epoch")[at].mean().loc[table.index].to_numpy()
        if table.shape[1] >= 3:
            intervals = [t_interval(values) for values in table.to_numpy()]
            low = [i.low if i.exists else i.point for i in intervals]
            high = [i.high if i.exists else i.point for i in intervals]
            ax.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0)
        elif table.shape[1] == 2:
            ax.plot(x, table.to_numpy(), color=style.colour, linewidth=0.7, alpha=0.7)
        marker = {"marker": style.marker, "markerfacecolor": style.face} if style.marker else {}
        every = 1 if at and len(x) <= ALL_MARKED else max(1, len(x) // 10)
        ax.plot(x, mean, color=style.colour, linestyle=style.line, label=plain(label), markevery=every, **marker)
        drawn.append(mean)
    if not drawn:
        no_data(ax)
        return drawn
    if not at:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlabel("epoch")
    return drawn


def _accuracy_limits(ax: Axes, drawn: Iterable[np.ndarray]) -> None:
    """With ten or more epochs, cut off the rise of the first half: the differences are at the end."""
    drawn = [mean for mean in drawn if len(mean)]
    if not drawn:
        return
    low, high = ax.get_ylim()
    if max(map(len, drawn)) >= 10:
        low = max(low, min(mean[len(mean) // 2] for mean in drawn) - 1)
    ax.set_ylim(low, min(high, 100.5))


def _loss_limits(ax: Axes, drawn: Iterable[np.ndarray]) -> None:
    if any(len(mean) for mean in drawn):
        ax.set_ylim(0, None)
