"""The parts of a network as boxes and arrows, from top to bottom, with the shapes between them.

Narrow, so that the text stays readable on a phone. Colour and line style of a box are those of its family.
"""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from senet_lib.analysis.plots.style import PALETTE, plain, shaded
from senet_lib.models.description import Description, Paths, Step

# Sizes in inches; the text's in points
NARROWEST, COLUMN = 4.0, 1.35  # of a diagram, of one path
LINE, GAP, PAD, MARGIN = 0.165, 0.36, 0.19, 0.12
TEXT, SHAPE_TEXT = 8.5, 7.5
INK, SOFT = "#222222", "#444444"


def diagram(described: Description, *, ax: Axes | None = None) -> Axes:
    """Draw a description from `senet_lib.models.inspection.describe`.

    `get_label()` of the returned axes is the alternative text. A given `ax` is scaled to the diagram's proportions.
    """
    width = max(NARROWEST, COLUMN * _columns(described.items))
    title = textwrap.wrap(plain(described.title[:1].upper() + described.title[1:], 120), _fitting(width, 10))
    top = LINE * 1.2 * len(title)
    height = top + _height(described.items, width) + 2 * GAP + LINE
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="none")
        ax.set_position((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.set_axis_off()
    ax.set_label(described.alt)
    ax.text(0.08, 0.06, "\n".join(title), weight="bold", size=10, va="top", color=INK)
    y = top + LINE
    _shape(ax, width / 2, y + 0.06, f"input: {described.shape}", ha="center")
    y = _draw(ax, described.items, width / 2, width, y + 0.06 + LINE / 2)
    _arrow(ax, width / 2, y, y + GAP)
    _shape(ax, width / 2 + 0.07, y + GAP / 2, _last_shape(described.items) or described.shape)
    return ax


# --------------------------------------------------------------------------------------------------------------- sizes


def _columns(items: Sequence[Step | Paths]) -> int:
    """The number of columns side by side."""
    return max(
        (sum(max(1, _columns(path)) for path in i.paths) if isinstance(i, Paths) else 1 for i in items), default=1
    )


def _widths(paths: Paths, width: float) -> list[float]:
    """The column of each path; one without a step needs less."""
    needs = [_columns(path) if path else 0.45 for path in paths.paths]
    return [width * need / sum(needs) for need in needs]


def _height(items: Sequence[Step | Paths], width: float) -> float:
    total = 0.0
    for place, item in enumerate(items):
        if isinstance(item, Paths):
            total += PAD * (place > 0)
            inner = zip(item.paths, _widths(item, width), strict=True)
            total += PAD + max(_height(path, column) for path, column in inner) + PAD
            item = item.join
        total += GAP + _box_height(item, width)
    return total


def _box_height(step: Step, width: float) -> float:
    return LINE * len(_lines(step, width)) + 0.12


def _lines(step: Step, width: float) -> list[str]:
    text = textwrap.wrap(plain(step.text, 120), _fitting(_box_width(width), TEXT))
    return ([step.head] if step.head else []) + text


def _box_width(width: float) -> float:
    return min(width - MARGIN, 2.9)


def _fitting(width: float, size: float) -> int:
    """The number of characters of this size that fit."""
    return max(8, int((width - 0.1) * 72 / (0.58 * size)))


# ------------------------------------------------------------------------------------------------------------- drawing


def _draw(ax: Axes, items: Sequence[Step | Paths], x: float, width: float, y: float) -> float:
    """Draw the items below y, centred at x. Returns the y of the last one's lower edge."""
    shape = ""  # of what enters the next item; the first one's is written above it
    for item in items:
        if isinstance(item, Paths):
            if item is not items[0]:
                _line(ax, (x, x), (y, y + PAD))
                _shape(ax, x + 0.07, y + PAD / 2, shape)
                y += PAD
            y = _draw_paths(ax, item, x, width, y)
            y = _draw_step(ax, item.join, x, width, y)
            shape = item.join.shape or shape
            continue
        if shape:
            _shape(ax, x + 0.07, y + GAP / 2, shape)
        y = _draw_step(ax, item, x, width, y)
        shape = item.shape or shape
    return y


def _draw_paths(ax: Axes, item: Paths, x: float, width: float, y: float) -> float:
    """The paths side by side, from the point (x, y) to the point (x, returned y)."""
    widths = _widths(item, width)
    bottom = y + 2 * PAD + max(_height(path, column) for path, column in zip(item.paths, widths, strict=True))
    left, centres = x - width / 2, []
    for path, column in zip(item.paths, widths, strict=True):
        centre = left + column / 2
        left += column
        centres.append(centre)
        end = _draw(ax, path, centre, column, y + PAD)
        if not path:
            ax.text(
                *(centre, (y + bottom) / 2, "identity"),
                **{"size": SHAPE_TEXT, "ha": "center", "va": "center", "color": SOFT, "rotation": 90, "zorder": 3},
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
            )
        _line(ax, (centre, centre), (y, y + PAD))
        _line(ax, (centre, centre), (end, bottom))
    shapes = [_last_shape(path) for path in item.paths]
    if len(set(filter(None, shapes))) > 1 or any(_last_shape(path) and len(path) > 1 for path in item.paths):
        for centre, shape in zip(centres, shapes, strict=True):
            _shape(ax, centre + 0.07, bottom - PAD / 2 - 0.01, shape)
    for level in (y, bottom):
        _line(ax, (min(centres), max(centres)), (level, level))
    return bottom


def _draw_step(ax: Axes, step: Step, x: float, width: float, y: float) -> float:
    lines, height = _lines(step, width), _box_height(step, width)
    style, neutral = PALETTE[step.family], step.family == "other"
    _arrow(ax, x, y, y + GAP)
    y += GAP
    ax.add_patch(
        FancyBboxPatch(
            (x - _box_width(width) / 2, y),
            _box_width(width),
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor="#f4f4f4" if neutral else shaded(style.colour, 0.85),
            edgecolor=SOFT if neutral else shaded(style.colour, -0.25),
            linewidth=0.9 if neutral else 1.5,
            linestyle="-" if neutral else style.line,
        )
    )
    for row, line in enumerate(lines):
        weight = "bold" if step.head and row == 0 else "normal"
        place = y + 0.06 + LINE * (row + 0.5)
        ax.text(x, place, line, ha="center", va="center", size=TEXT, weight=weight, color=INK)
    return y + height


def _arrow(ax: Axes, x: float, start: float, end: float) -> None:
    arrow = {"arrowstyle": "-|>", "color": SOFT, "linewidth": 1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    arrow["snap"] = False  # or an arrow and the line that it continues are a pixel apart
    ax.annotate("", (x, end), (x, start), arrowprops=arrow)


def _line(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    ax.plot(x, y, color=SOFT, linewidth=1, solid_capstyle="projecting", snap=False)


def _shape(ax: Axes, x: float, y: float, shape: str, ha: str = "left") -> None:
    ax.text(x, y, shape, size=SHAPE_TEXT, color=SOFT, ha=ha, va="center")


def _last_shape(items: Sequence[Step | Paths]) -> str:
    """The output shape of a sequence; empty if it is its input's."""
    shapes = [
        item.join.shape or _last_shape(item.paths[0]) if isinstance(item, Paths) else item.shape for item in items
    ]
    return next(filter(None, reversed(shapes)), "")
