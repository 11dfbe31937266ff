"""Figures: tidy tables and intervals in, axes out. Nothing is shown, saved or read here.

A family has one colour, marker and line style everywhere, so that a figure reads in grey print and to a colour-blind
reader; several networks of one family differ in shade and marker. Where all are of one family and more than its shades,
as in an ablation, each has a colour of its own. Accuracies come as fractions and are drawn in percent. Every function
draws into the axes it is given, or into a new figure, and returns the axes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from senet_lib.stats import Interval, t_interval
from senet_lib.tables import points

WIDTH = 9.0  # inches of a whole figure: what the report shows at its full text width
PARAMS, MACS = "parameters (millions)", "multiply-adds of one image (millions)"
ALL_MARKED = 40  # marks of more epochs would cover one another and the line
MANY_CLASSES = 20  # from here on a confusion matrix has no numbers in its cells


@dataclass(frozen=True)
class Style:
    """How one network is drawn, everywhere."""

    colour: str
    marker: str
    line: str
    filled: bool = True

    @property
    def face(self) -> str:
        return self.colour if self.filled else "white"


# Colours of seaborn's "colorblind" palette, which follows Wong, Nature Methods 8:441 (2011)
PALETTE = {
    "resnet": Style("#0173b2", "o", "-"),
    "se": Style("#de8f05", "s", "--"),
    "sk": Style("#029e73", "^", "-."),
    "sk+se": Style("#cc78bc", "D", ":"),
    "other": Style("#767676", "X", (0, (5, 1, 1, 1, 1, 1))),
}
_SHADES = (0.0, -0.4, 0.45, -0.65)  # of the second, third, ... network of a family: towards black, towards white
_MARKERS = {"o": "oph8", "s": "sdPH", "^": "^v<>", "D": "D*Xd", "X": "X+x*"}
# Of the networks behind the first where one family is crowded and alone: other families' colours are free then. The
# numbers of colours and marks have no common divisor, so what shares a colour differs in its mark
_COLOURS = ("#d55e00", "#029e73", "#cc78bc", "#ca9161", "#56b4e9", "#949494", "#de8f05", "#444444")
_MANY_MARKERS = "s^DvPX*<>ph"


def house_style() -> dict[str, object]:
    """rcParams of every figure: `plt.rcParams.update(house_style())`, or `with plt.rc_context(house_style())`."""
    return {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e3e3e3",
        "grid.linewidth": 0.7,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "legend.handlelength": 3.2,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "savefig.dpi": 200,
        "svg.hashsalt": "senet",  # the same figure gives the same bytes
        "svg.fonttype": "path",
    }


def family_of(model: str) -> str:
    """The palette's key of a registered model's name: 'sk_se_resnet20' -> 'sk+se'."""
    words = re.split(r"[^a-z0-9]+", model.lower())
    sk = any(word.startswith("sk") for word in words)
    se = any(word == "se" or word.startswith("senet") for word in words)
    if sk or se:
        return "sk+se" if sk and se else "sk" if sk else "se"
    return "resnet" if any(re.match(r"(pre)?res(net|next)|wrn|fast$", word) for word in words) else "other"


def network_styles(models: Mapping[str, str]) -> dict[str, Style]:
    """label -> Style, from label -> model name; the first network of a family has the family's own style."""
    styles, seen = {}, dict.fromkeys(PALETTE, 0)
    crowded = len(set(map(family_of, models.values()))) == 1 and len(models) > len(_SHADES)
    for label, model in models.items():
        family = family_of(model)
        base, index = PALETTE[family], seen[family]
        seen[family] += 1
        if crowded and index > 0:
            colour = _COLOURS[(index - 1) % len(_COLOURS)]
            marker = _MANY_MARKERS[(index - 1) % len(_MANY_MARKERS)]
        else:
            colour = _shade(base.colour, _SHADES[index % len(_SHADES)])
            marker = _MARKERS[base.marker][index % len(_MARKERS[base.marker])]
        styles[label] = Style(colour, marker, base.line, filled=index == 0)
    return styles


# ------------------------------------------------------------------------------------------------------------- curves


def accuracy_curves(
    history: pd.DataFrame,
    models: Mapping[str, str],
    *,
    axes: Sequence[Axes] | None = None,
    evaluated: str = "test",
    published: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Accuracy against the epoch, all networks: left on the training images, right on the evaluated ones.

    history: label, seed, epoch, train_accuracy, test_accuracy. models: label -> model name, in the order of the legend.
    evaluated: what the right panel's images are called. published: label -> accuracy, a dashed line where it fits.
    """
    own_figure, axes = axes is None, _row_of_axes(axes, 2)
    styles = network_styles(models)
    for ax, column, title in zip(axes, ("train", "test"), ("training", evaluated), strict=True):
        drawn = _curves(ax, history, f"{column}_accuracy", styles, scale=100)
        _accuracy_limits(ax, drawn)
        ax.set(title=f"{title.capitalize()} images", ylabel=f"{title} accuracy (%)")
    if published:
        _published_lines(axes[1], published, styles)
    _legend(axes[0], "lower right", outside=own_figure)
    return axes


def loss_curves(
    history: pd.DataFrame,
    models: Mapping[str, str],
    *,
    axes: Sequence[Axes] | None = None,
    evaluated: str = "test",
) -> np.ndarray:
    """Cross-entropy against the epoch, all networks: left on the training images, right on the evaluated ones."""
    own_figure, axes = axes is None, _row_of_axes(axes, 2)
    for ax, column, title in zip(axes, ("train", "test"), ("training", evaluated), strict=True):
        drawn = _curves(ax, history, f"{column}_loss", network_styles(models))
        _loss_limits(ax, drawn)
        ax.set(title=f"{title.capitalize()} images", ylabel=f"{title} loss (cross-entropy)")
    _legend(axes[0], "upper right", outside=own_figure)
    return axes


def accuracy_against_seconds(
    history: pd.DataFrame,
    models: Mapping[str, str],
    *,
    axes: Sequence[Axes] | None = None,
    evaluated: str = "test",
) -> np.ndarray:
    """Evaluated accuracy against the seconds of training so far, an epoch a point: all of them left, their second half
    right.

    history: label, seed, epoch, test_accuracy, train_seconds (of the epoch, without its evaluation). An epoch's point
    is at the mean of the seeds' seconds up to its end.
    """
    own_figure, axes = axes is None, _row_of_axes(axes, 2)
    history = history.astype({"train_seconds": float}).sort_values("epoch", kind="stable")
    history = history.assign(elapsed=history.groupby(["label", "seed"])["train_seconds"].cumsum())
    last = history.groupby("label")["epoch"].transform("max")
    parts = {"All epochs": history, "Second half of the epochs": history[history["epoch"] > last // 2]}
    for ax, (title, part) in zip(axes, parts.items(), strict=True):
        if _curves(ax, part, "test_accuracy", network_styles(models), scale=100, at="elapsed"):
            ax.set(xlabel="seconds of training, without evaluation", ylabel=f"{evaluated} accuracy (%)")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            ax.set_ylim(None, min(ax.get_ylim()[1], 100.5))
        ax.set_title(title)
    if len(history):
        axes[0].set_xlim(0, None)
    _legend(axes[0], "lower right", outside=own_figure)
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

    history: the columns of history.csv, with `seed` where there are several runs. style: the family's if not given.
    """
    axes = _row_of_axes(axes, 2)
    own = style or PALETTE[family_of(model)]
    history = history.assign(seed=0) if "seed" not in history else history
    names = {f"{evaluated} images": own, "training images": Style(_shade(own.colour, 0.35), "", ":")}
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
    _legend(axes[0], "lower right")
    return axes


def network_grid(history: pd.DataFrame, models: Mapping[str, str], *, evaluated: str = "test") -> np.ndarray:
    """Every network's own curves, one row each, on common axes. Returns axes of shape (networks, 2)."""
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
            _no_data(ax)
    for column in axes.T:
        limits = np.array([ax.get_ylim() for ax in column])
        for ax in column:
            ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
        for ax in column[:-1]:
            ax.set_xlabel("")
    return axes


# ---------------------------------------------------------------------------------------------------------- confusion


def confusion_matrices(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """Row-normalised confusion matrices, one panel a network, one colour scale. Returns the flat axes.

    matrices: label -> (K, K) shares in [0, 1], row = true class, column = predicted. The scale is a square root, so
    that an error of a few percent can be told from none.
    """
    axes = _matrix_axes(len(matrices), len(classes))
    norm = colors.PowerNorm(0.5, vmin=0, vmax=100)
    for ax, (label, matrix) in zip(axes, matrices.items(), strict=False):
        image = _matrix(ax, 100 * np.asarray(matrix), classes, label, cmap="Blues", norm=norm)
    if matrices:
        _colour_bar(image, axes, "share of the true class (%)", ticks=(0, 1, 5, 10, 25, 50, 100))
    return axes


def confusion_difference(
    matrices: Mapping[str, np.ndarray], baseline: np.ndarray, classes: Sequence[str], baseline_label: str = "baseline"
) -> np.ndarray:
    """Each network's confusion matrix minus the baseline's, in percentage points, centred at 0. Returns the flat axes.

    On the diagonal positive is better; off the diagonal negative is better.
    """
    axes = _matrix_axes(len(matrices), len(classes), without="nothing to compare")
    differences = {label: 100 * (np.asarray(matrix) - baseline) for label, matrix in matrices.items()}
    largest = max((np.nanmax(np.abs(difference)) for difference in differences.values()), default=0) or 1
    norm = colors.TwoSlopeNorm(0, -largest, largest)
    for ax, (label, difference) in zip(axes, differences.items(), strict=False):
        title = f"{label} minus {baseline_label}"
        image = _matrix(ax, difference, classes, title, cmap="PuOr_r", norm=norm, signed=True)
    if matrices:
        _colour_bar(image, axes, "difference (pp of the true class)")
    return axes


def example_images(chosen: pd.DataFrame, pictures: Mapping[int, np.ndarray]) -> np.ndarray:
    """A row a pair of classes: its images, each with its true class and how many runs took it for the other one.

    chosen: first, second, image, true, taken, runs, in the order of the rows. pictures: image -> (h, w, 3) uint8.
    Returns axes of shape (pairs, images)."""
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
            title = f"{plain(example.true, 18)}\nas {plain(other, 14)}: {example.taken} of {example.runs}"
            ax.set_title(title, fontsize=8, fontweight="normal", loc="center")
    if not rows:
        _no_data(axes[0, 0])
    return axes


def per_class_accuracy(
    recalls: pd.DataFrame,
    models: Mapping[str, str],
    *,
    baseline: str | None = None,
    most: int = 24,
    ax: Axes | None = None,
) -> Axes:
    """Accuracy within each class, mean over seeds and 95 % CI, hardest class of the baseline first.

    recalls: label, class, mean, low, high (fractions; low and high empty where there is no interval). Of more than
    `most` classes, those where the networks lie furthest apart are shown.
    """
    if recalls.empty:
        return _no_data(plt.subplots(layout="constrained")[1] if ax is None else ax)
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
    offsets = np.linspace(0.28, -0.28, len(table.columns)) if len(table.columns) > 1 else [0.0]
    for label, offset in zip(table.columns, offsets, strict=True):
        rows = recalls[recalls["label"] == label].set_index("class").reindex(order)
        _points(ax, 100 * rows["mean"], np.arange(len(order)) + offset, styles[label], label, rows=100 * rows)
    ax.set_yticks(range(len(order)), [plain(name, 24) for name in order])
    ax.set(xlabel="accuracy within the class (%)", ylim=(-0.6, len(order) - 0.4))
    ax.grid(axis="y", visible=False)
    for boundary in np.arange(0.5, len(order) - 1):
        ax.axhline(boundary, color="#eeeeee", linewidth=0.8, zorder=0)
    _marker_legend(ax, "outside upper center")
    return ax


# ----------------------------------------------------------------------------------------------- accuracy against cost


def params_vs_accuracy(networks: pd.DataFrame, *, ax: Axes | None = None, metric: str = "test accuracy") -> Axes:
    """Mean accuracy and its 95 % CI against the parameters.

    networks: label, model, params, mean, low, high; `published` where there is one, drawn dashed if it fits.
    """
    return _cost_vs_accuracy(networks, "params", PARAMS, metric, ax)


def macs_vs_accuracy(networks: pd.DataFrame, *, ax: Axes | None = None, metric: str = "test accuracy") -> Axes:
    """Mean accuracy and its 95 % CI against the multiply-adds of one image; columns as `params_vs_accuracy`."""
    return _cost_vs_accuracy(networks, "macs", MACS, metric, ax)


def accuracy_against_cost(networks: pd.DataFrame, *, metric: str = "test accuracy") -> np.ndarray:
    """The headline figure: `params_vs_accuracy` and `macs_vs_accuracy` side by side, one accuracy axis, one legend."""
    _, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.0), sharey=True, layout="constrained")
    _cost_vs_accuracy(networks, "params", PARAMS, metric, axes[0], labelled=False)  # the right panel's labels do
    _cost_vs_accuracy(networks, "macs", MACS, metric, axes[1])
    axes[1].set_ylabel("")
    for ax in axes:
        if ax.get_legend():
            ax.get_legend().remove()
    _marker_legend(axes[0], "outside lower center")
    return axes


def difference_intervals(
    differences: Mapping[tuple[str, str], Interval],
    models: Mapping[str, str],
    *,
    margin: float,
    ax: Axes | None = None,
) -> Axes:
    """Differences with their intervals, in percentage points; the band is the margin within which a difference was
    declared too small to matter. differences: (treatment, baseline) -> Interval, in fractions; drawn in the treatment's
    style. A baseline that all share is named once, below; otherwise each row names its own."""
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.45 * max(1, len(differences))), layout="constrained")
    if not differences:
        return _no_data(ax, "nothing to compare")
    styles = network_styles(models)
    ax.axvspan(-100 * margin, 100 * margin, color="#ececec", zorder=0, label=f"±{100 * margin:g} pp: too small")
    ax.axvline(0, color="#444444", linewidth=1)
    baselines = {baseline for _, baseline in differences}
    names = [
        plain(treatment, 30) + ("" if len(baselines) == 1 else f" \N{MINUS SIGN} {plain(baseline, 30)}")
        for treatment, baseline in differences
    ]
    for row, ((treatment, _), interval) in enumerate(reversed(differences.items())):
        table = pd.DataFrame([{"mean": interval.point, "low": interval.low, "high": interval.high}], dtype=float)
        style = styles.get(treatment, PALETTE["other"])
        _points(ax, 100 * table["mean"], [row], style, None, rows=100 * table, size=7)
        text = points(interval.point) + ("" if interval.exists else "  (no interval)")
        ax.annotate(text, (100 * interval.point, row), xytext=(0, 7), textcoords="offset points", ha="center", size=8)
    ax.set_yticks(range(len(differences)), names[::-1])
    to = f" to {plain(baselines.pop())}" if len(baselines) == 1 else ""
    ax.set(ylim=(-0.6, len(differences) - 0.3), xlabel=f"difference{to} (pp)")
    ax.margins(x=0.12)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="best")
    return ax


def crossed(
    cells: Mapping[str, Mapping[str, Interval]],
    models: Mapping[str, str],
    *,
    factor: str,
    metric: str = "test accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Networks crossed with the levels of one factor: mean accuracies with their intervals, a line a network. Lines
    that are not parallel are an interaction. cells: label -> {level: Interval}, in fractions."""
    if ax is None:
        _, ax = plt.subplots(figsize=(0.62 * WIDTH, 3.4), layout="constrained")
    if not cells:
        return _no_data(ax)
    styles = network_styles(models)
    levels = list(dict.fromkeys(level for row in cells.values() for level in row))
    for index, (label, row) in enumerate(cells.items()):
        style = styles.get(label) or PALETTE[family_of(label)]
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
    """Seconds of training an epoch (median over epochs, mean over seeds), with the factor to the baseline.

    networks: label, model, seconds_per_epoch.
    """
    styles = network_styles(dict(zip(networks["label"], networks["model"], strict=True)))
    networks = networks.dropna(subset=["seconds_per_epoch"])
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, 1.1 + 0.42 * max(1, len(networks))), layout="constrained")
    if networks.empty:
        return _no_data(ax)
    seconds = networks.set_index("label")["seconds_per_epoch"].astype(float)
    for row, label in enumerate(reversed(seconds.index)):
        style, value = styles[label], seconds[label]
        ax.barh(row, value, color=style.colour, height=0.6, hatch=_HATCHES[style.line], edgecolor="white", linewidth=0)
        factor = f"   {value / seconds[baseline]:.2f}x" if baseline in seconds and label != baseline else ""
        ax.annotate(f"{value:.3g} s{factor}", (value, row), xytext=(5, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(seconds)), [plain(label, 30) for label in reversed(seconds.index)])
    ax.set(xlabel="seconds of training an epoch", xlim=(0, 1.25 * seconds.max()))
    ax.grid(axis="y", visible=False)
    return ax


# ------------------------------------------------------------------------------------------------------------- pieces

_HATCHES = {"-": "", "--": "//", "-.": "\\\\", ":": "..", PALETTE["other"].line: "xx"}


def plain(name: object, longest: int = 40) -> str:
    """A name from outside as text that matplotlib draws as it is: no formulas, no line breaks, not endless."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return text.replace("$", r"\$")


def _shade(colour: str, towards: float) -> str:
    """The colour mixed with white (towards > 0) or black (towards < 0) by that share."""
    rgb = np.array(colors.to_rgb(colour))
    end = 1.0 if towards > 0 else 0.0
    return colors.to_hex(rgb + (end - rgb) * abs(towards))


def _row_of_axes(axes: Sequence[Axes] | None, count: int) -> np.ndarray:
    if axes is None:
        _, axes = plt.subplots(1, count, figsize=(WIDTH, 3.7), layout="constrained")
    axes = np.asarray(axes)
    if axes.shape != (count,):
        raise ValueError(f"needs {count} axes, got shape {axes.shape}")
    return axes


def _no_data(ax: Axes, why: str = "no finished run") -> Axes:
    if not ax.texts:
        ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="#666666")
    ax.set(xticks=[], yticks=[])
    return ax


def _curves(
    ax: Axes,
    history: pd.DataFrame,
    column: str,
    styles: Mapping[str, Style],
    scale: float = 1,
    at: str | None = None,
) -> list[np.ndarray]:
    """Mean over seeds of each label's curve; a band (95 % CI) from three seeds on, single seeds thin below that.
    Against the epoch; or against the mean over seeds of the column `at`, and then up to ALL_MARKED epochs are all
    marked. Returns the means, for the axis limits."""
    drawn = []
    for label, style in styles.items():
        rows = history[history["label"] == label]
        if rows.empty:
            continue
        table = scale * rows.set_index(["epoch", "seed"])[column].astype(float).unstack()  # noqa: PD010
        table = table.dropna()  # an epoch that not every seed has reached would be a mean of other seeds
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
        _no_data(ax)
        return drawn
    if not at:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlabel("epoch")
    return drawn


def _accuracy_limits(ax: Axes, drawn: Iterable[np.ndarray]) -> None:
    """Of ten epochs and more, leave the first half's climb below the axis: the differences are at the end."""
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


def _legend(ax: Axes, loc: str, *, outside: bool = False) -> None:
    """A legend in the axes, or below the whole figure, where it covers nothing."""
    handles, labels = ax.get_legend_handles_labels()
    if handles and outside:
        ax.figure.legend(handles, labels, loc="outside lower center", ncols=_legend_columns(len(handles)))
    elif handles:
        ax.legend(loc=loc)


def _marker_legend(ax: Axes, loc: str) -> None:
    """A legend of the whole figure with the markers alone: error bars would shrink to specks in it."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        markers = [handle[0] for handle in handles]
        ax.figure.legend(markers, labels, loc=loc, ncols=_legend_columns(len(markers)), handlelength=1.2)


def _legend_columns(entries: int) -> int:
    """As many columns as fill the rows evenly, five at most."""
    rows = max(1, -(-entries // 5))
    return max(1, -(-entries // rows))


def _published_lines(
    ax: Axes, published: Mapping[str, float], styles: Mapping[str, Style], *, labelled: bool = True
) -> None:
    """A dashed line for each published accuracy that is near what was measured, labelled right of the axes, where
    nothing is drawn."""
    low, high = ax.get_ylim()
    reach = 0.5 * (high - low)
    near = {label: 100 * value for label, value in published.items() if low < 100 * value < high + reach}
    if not near:
        return
    ax.set_ylim(low, max(high, max(near.values()) + 0.05 * (high - low)))
    places = _spread_out(list(near.values()), gap=0.1 * (ax.get_ylim()[1] - low))
    for (label, value), place in zip(near.items(), places, strict=True):
        ax.axhline(value, color=styles[label].colour, linestyle=(0, (6, 3)), linewidth=1, zorder=1)
        if labelled:
            ax.annotate(
                f"{plain(label, 24)}\npublished: {value:.2f}",
                (1.015, place),
                xycoords=("axes fraction", "data"),
                va="center",
                size=7.5,
                color=_shade(styles[label].colour, -0.3),
            )


def _spread_out(values: Sequence[float], gap: float) -> list[float]:
    """The values moved up just so far that neighbours are `gap` apart."""
    places: list[float] = [0.0] * len(values)
    previous = -np.inf
    for index in np.argsort(values, kind="stable"):
        previous = max(values[index], previous + gap)
        places[index] = float(previous)
    return places


def _points(ax, x, y, style: Style, label: str | None, *, rows: pd.DataFrame, size: float = 5) -> None:
    """Horizontal means with their intervals; a mean without an interval has no bar."""
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


def _cost_vs_accuracy(
    networks: pd.DataFrame, column: str, title: str, metric: str, ax: Axes | None, *, labelled: bool = True
) -> Axes:
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH / 2, 3.7), layout="constrained")
    # Of all, so that a network looks the same where another one is missing
    styles = network_styles(dict(zip(networks["label"], networks["model"], strict=True)))
    networks = networks.dropna(subset=["mean", column])
    if networks.empty:
        return _no_data(ax)
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
        _published_lines(ax, dict(zip(known["label"], known["published"], strict=True)), styles, labelled=labelled)
    ax.set(xlabel=title, ylabel=f"{metric} (%)")
    ax.legend(loc="best")
    return ax


def _cost_limits(ax: Axes, costs: np.ndarray) -> None:
    """Logarithmic from a factor of five on; never so narrow that a hair's difference looks like a large one."""
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
    """Points of 1/72 inch by which markers are moved sideways, so that those at almost the same place stay visible."""
    places = ax.transScale.transform(np.column_stack([values, np.ones(len(values))]))[:, 0]
    left, right = ax.transScale.transform(np.column_stack([ax.get_xlim(), (1, 1)]))[:, 0]
    order = np.argsort(places, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(places[order]) > 0.04 * (right - left)) + 1)
    shifts = np.zeros(len(values))
    for group in groups:
        shifts[group] = 9 * (np.arange(len(group)) - (len(group) - 1) / 2)
    return shifts


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... around the range."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    return [tick for tick in ticks if 0.8 * low <= tick <= 1.25 * high] or [low, high]


def _matrix_axes(count: int, classes: int, without: str = "no finished run") -> np.ndarray:
    """Two panels a row; one for many classes. Flat axes, one for each matrix; where there is none, a low one that says
    so, as `without`."""
    if not count:
        _, ax = plt.subplots(figsize=(WIDTH, 1.3), layout="constrained")
        return np.array([_no_data(ax, without)])
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
    every = -(-len(classes) // 50)  # at most 50 names an axis
    size = 8 if len(classes) <= MANY_CLASSES else 5.5
    names = [plain(name, 16) for name in classes][::every]
    ax.set_xticks(range(0, len(classes), every), names, rotation=90, fontsize=size)
    ax.set_yticks(range(0, len(classes), every), names, fontsize=size)
    ax.tick_params(length=0 if every == 1 else 2)
    if len(classes) <= MANY_CLASSES:
        _cell_numbers(ax, values, image, signed)
    return image


def _cell_numbers(ax: Axes, values: np.ndarray, image, signed: bool) -> None:
    """Percent, or points, in each cell; what would round to nothing is left empty."""
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value) or abs(value) < (0.5 if not signed else 0.05):
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
        digits = 1 if signed and abs(value) < 9.95 else 0
        text = f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}") if signed else f"{value:.0f}"
        size = (8 if len(values) <= 12 else 6) - (1.5 if signed else 0)
        cell = ax.text(column, row, text, ha="center", va="center", color=ink, size=size)
        cell.set_in_layout(False)  # it lies inside; measuring a hundred of them a panel takes seconds


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
