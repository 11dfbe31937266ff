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
FEWEST_FOR_BAND = 5  # seeds; the interval of fewer is so wide that the band hides the curves
FEWEST_FOR_LINE = 3  # epochs; a line through one or two points suggests a course that was not measured
FEWEST_FOR_CUT = 10  # epochs; then the accuracy axis begins in the second half


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
        row[0].get_legend().remove()
    if not labels:
        for ax in axes[0]:
            no_data(ax)
    for column in axes.T:
        limits = np.array([ax.get_ylim() for ax in column])
        for ax in column:
            ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
        for ax in column[:-1]:
            ax.set_xlabel("")
    add_legend(axes[0, 0], "", outside=True)
    return axes


def curve_key(history: pd.DataFrame, *, accuracy: bool = False) -> str:
    """What the curves of this history show, for a caption: 'Lines: means over seeds; bands: 95 % t CIs.'

    accuracy: whether the axis shows accuracies by epoch, which may begin in the second half.
    """
    seeds = history.groupby("label")["seed"].nunique()
    epochs = history["epoch"].max()
    lines, single = ("Lines", "thin lines") if epochs >= FEWEST_FOR_LINE else ("Points", "small points")
    parts = [f"{lines}: means over seeds" if seeds.max() > 1 else f"{lines}: one seed"]
    parts += ["bands: 95 % t CIs"] * bool((seeds >= FEWEST_FOR_BAND).any() and epochs >= FEWEST_FOR_LINE)
    parts += [f"{single}: single seeds"] * bool(_drawn_singly(seeds, epochs).any())
    cut = " The accuracy axis leaves out the rise of the first half." if accuracy and epochs >= FEWEST_FOR_CUT else ""
    return f"{'; '.join(parts)}.{cut}"


def _drawn_singly(seeds, epochs: int):
    return (seeds > 1) & ((seeds < FEWEST_FOR_BAND) | (epochs < FEWEST_FOR_LINE))


def _curves(
    ax: Axes,
    history: pd.DataFrame,
    column: str,
    styles: Mapping[str, Style],
    scale: float = 1,
    at: str | None = None,
) -> list[np.ndarray]:
    """Each label's mean over seeds, with a 95 % CI band from FEWEST_FOR_BAND seeds on, else with its single seeds.

    x is the epoch, or the mean over seeds of the column `at`. With `at`, up to ALL_MARKED epochs are all marked. Fewer
    epochs than FEWEST_FOR_LINE are points. Returns the means, for the axis limits.
    """
    drawn = []
    lined = history["epoch"].max() >= FEWEST_FOR_LINE
    for label, style in styles.items():
        rows = history[history["label"] == label]
        if rows.empty:
            continue
        table = scale * rows.set_index(["epoch", "seed"])[column].astype(float).unstack()  # noqa: PD010
        table = table.dropna()  # drop epochs that not every seed has reached: their mean is over fewer seeds
        x, mean = table.index.to_numpy(), table.mean(axis=1).to_numpy()
        if at:
            x = rows.groupby("epoch")[at].mean().loc[table.index].to_numpy()
        seeds = table.shape[1]
        if _drawn_singly(seeds, FEWEST_FOR_LINE if lined else 1):
            thin = {"linewidth": 0.7} if lined else {"linestyle": "", "marker": ".", "markersize": 4}
            ax.plot(x, table.to_numpy(), color=style.colour, alpha=0.6, **thin)
        elif seeds >= FEWEST_FOR_BAND:
            intervals = [t_interval(values) for values in table.to_numpy()]
            low = [i.low if i.exists else i.point for i in intervals]
            high = [i.high if i.exists else i.point for i in intervals]
            ax.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0)
        marker = {"marker": style.marker, "markerfacecolor": style.face} if style.marker else {}
        if not lined:
            marker = {"marker": "X"} | marker
        every = 1 if not lined or (at and len(x) <= ALL_MARKED) else max(1, len(x) // 10)
        line = style.line if lined else ""
        ax.plot(x, mean, color=style.colour, linestyle=line, label=plain(label), markevery=every, **marker)
        drawn.append(mean)
    if not drawn:
        no_data(ax)
        return drawn
    if not lined:
        ax.margins(x=0.2)
    if not at:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlabel("epoch")
    return drawn


def _accuracy_limits(ax: Axes, drawn: Iterable[np.ndarray]) -> None:
    """From FEWEST_FOR_CUT epochs on, cut off the rise of the first half: the differences are at the end."""
    drawn = [mean for mean in drawn if len(mean)]
    if not drawn:
        return
    low, high = ax.get_ylim()
    if max(map(len, drawn)) >= FEWEST_FOR_CUT:
        low = max(low, min(mean[len(mean) // 2] for mean in drawn) - 1)
    ax.set_ylim(low, min(high, 100.5))


def _loss_limits(ax: Axes, drawn: Iterable[np.ndarray]) -> None:
    if any(len(mean) for mean in drawn):
        ax.set_ylim(0, None)
