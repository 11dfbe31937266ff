"""One colour, marker and line style per family, and the rcParams of every figure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib import colors, rcParamsDefault

from senet_lib.analysis.plots.fonts import font_families
from senet_lib.models import family_name

# Settings of windows and backends, which a style leaves alone
_NOT_STYLE = ("backend", "date.epoch", "docstring", "figure.max_open", "figure.raise", "interactive", "keymap")
_NOT_STYLE += ("macosx", "savefig.directory", "timezone", "tk.", "toolbar", "webagg")
WIDTH = 9.0  # inches; the width of a full figure, shown at the report's text width


@dataclass(frozen=True)
class Style:
    """How one network is drawn in every figure."""

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

_SHADES = (0.0, -0.4, 0.45, -0.65)  # of a family's first, second, ... network: < 0 towards black, > 0 towards white
_MARKERS = {"o": "oph8", "s": "sdPH", "^": "^v<>", "D": "D*Xd", "X": "X+x*"}

# For the second and later networks of a single family that outnumbers its shades; the other families' colours are free
# then. The numbers of colours and markers are coprime, so networks that share a colour differ in their marker
_COLOURS = ("#d55e00", "#029e73", "#cc78bc", "#ca9161", "#56b4e9", "#949494", "#de8f05", "#444444")
_MANY_MARKERS = "s^DvPX*<>ph"


def house_style(names: Iterable[str] = ()) -> dict[str, object]:
    """rcParams of every figure: `plt.rcParams.update(house_style())`, or `with plt.rc_context(house_style())`.

    Contains matplotlib's defaults for all other style settings, so that a user's matplotlibrc has no effect. names:
    text of the figures that may be in any script, such as class names; fonts that have it are added.
    """
    defaults = {key: value for key, value in rcParamsDefault.items() if not key.startswith(_NOT_STYLE)}
    return defaults | {
        "font.family": font_families(names),
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
        "svg.hashsalt": "senet",  # identical figures give identical bytes
        "svg.fonttype": "path",
    }


def network_styles(models: Mapping[str, str]) -> dict[str, Style]:
    """label -> Style, from label -> model name; the first network of a family has the family's own style."""
    styles, seen = {}, dict.fromkeys(PALETTE, 0)
    crowded = len(set(map(family_name, models.values()))) == 1 and len(models) > len(_SHADES)
    for label, model in models.items():
        family = family_name(model)
        base, index = PALETTE[family], seen[family]
        seen[family] += 1
        if crowded and index > 0:
            colour = _COLOURS[(index - 1) % len(_COLOURS)]
            marker = _MANY_MARKERS[(index - 1) % len(_MANY_MARKERS)]
        else:
            colour = shaded(base.colour, _SHADES[index % len(_SHADES)])
            marker = _MARKERS[base.marker][index % len(_MARKERS[base.marker])]
        styles[label] = Style(colour, marker, base.line, filled=index == 0)
    return styles


def plain(name: object, longest: int = 40) -> str:
    """External text that matplotlib draws literally: no formulas, no line breaks, at most `longest` characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return text.replace("$", r"\$")


def shaded(colour: str, towards: float) -> str:
    """The colour mixed with white (towards > 0) or black (towards < 0) by that share."""
    rgb = np.array(colors.to_rgb(colour))
    end = 1.0 if towards > 0 else 0.0
    return colors.to_hex(rgb + (end - rgb) * abs(towards))
