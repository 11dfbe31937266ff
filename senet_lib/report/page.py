"""Shows the figures and tables of an analysis notebook and stores them: svg and png, csv and Markdown.

A `Page` numbers figures and tables, shows them with their captions, and writes all files at the end of the notebook. A
notebook that fails midway therefore leaves earlier files unchanged. Each file is written atomically, and equal
results give equal bytes.
"""

import html
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
from IPython.display import HTML, Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from senet_lib.analysis.markup import to_html, to_markdown
from senet_lib.files import replacing
from senet_lib.results import StudyResults

COMPLETE = "page_complete"  # output metadata: marks the end of the notebook and lists the files
CAPTION = "caption"  # output metadata: the caption of a 'figure' or a 'table'
FILE = "file"  # output metadata of a caption: the name of its files
NOTICE = "notice"
PIXELS_PER_INCH = 100  # of a figure as shown; the png has twice the resolution


class Page:
    """A report under construction. `show` and the captions take Markdown in which external text is already escaped."""

    def __init__(self, results: StudyResults) -> None:
        self.results = results
        self.files: dict[str, bytes] = {}  # path below the results folder -> content
        self.figures = self.tables = 0

    def show(self, text: str) -> None:
        """Show a paragraph; nothing if `text` is empty."""
        if text:
            display(Markdown(text))

    def notice(self, text: str) -> None:
        """Show a highlighted paragraph; nothing if `text` is empty."""
        if text:
            display(Markdown(f"> {text}"), metadata={NOTICE: True})

    def figure(
        self, axes: Axes | np.ndarray, name: str, caption: str, *, alt: str = "", photographs: bool = False
    ) -> None:
        """Show the figure of these axes, store it as figures/<name>.svg and .png, and close it.

        alt: the alternative text; by default the caption. photographs: the figure contains photographs, so the png
        keeps all colours. Without a finished run, one line replaces the figure.
        """
        figure = np.asarray(axes).flat[0].figure
        if self.results.done.empty:
            plt.close(figure)
            self.show("*No figure: no run has finished.*")
            return
        self.figures += 1
        for kind, content in rendered(figure, photographs=photographs).items():
            self.files[f"figures/{name}.{kind}"] = content
        width = round(figure.get_figwidth() * PIXELS_PER_INCH)
        plt.close(figure)
        image = Image(self.files[f"figures/{name}.png"], format="png", width=width, alt=_bare(alt or caption))
        display(image)
        self._caption(f"**Figure {self.figures}.** {caption}", "figure", name)

    def table(
        self, shown: pd.DataFrame, name: str, caption: str, *, numbers: pd.DataFrame | None = None, empty: str = ""
    ) -> None:
        """Show a table of text; store it as tables/<name>.md, and the numbers behind it as tables/<name>.csv.
        `empty` replaces a table without rows."""
        if shown.empty:
            self.show(f"*{empty or 'No entries.'}*")
            return
        self.tables += 1
        numbers = shown if numbers is None else numbers
        self.files[f"tables/{name}.md"] = to_markdown(shown).encode()
        self.files[f"tables/{name}.csv"] = numbers.to_csv(index=False, lineterminator="\n").encode()
        self._caption(f"**Table {self.tables}.** {caption}", "table", name)
        display(HTML(to_html(shown)))

    def write(self) -> None:
        """Write every figure and table, and show their number. Those of a stored study stay unchanged."""
        text = f"*This page has {self.figures} figures and {self.tables} tables"
        if _is_stored(self.results.path):
            display(Markdown(f"{text}. The files of the stored study were left unchanged.*"))
            return
        for path, content in self.files.items():
            with replacing(self.results.path / path) as file:
                file.write(content)
        text += ", stored in `figures/` and `tables/`.*"
        display(Markdown(text), metadata={COMPLETE: sorted(self.files)})

    def _caption(self, text: str, of: str, name: str) -> None:
        display(Markdown(text), metadata={CAPTION: of, FILE: name})


def _is_stored(path: Path) -> bool:
    """Whether a study is archived or published; `make publish` builds a new one under a name that starts with a dot."""
    path = path.resolve()
    return path.suffix == ".zip" or (path.parent.name == "published" and not path.name.startswith("."))


def rendered(figure: Figure, *, photographs: bool = False) -> dict[str, bytes]:
    """The figure as 'svg' and 'png', reproducible byte for byte and small. A png without photographs has a palette: a
    third of the size."""
    figure.set_dpi(2 * PIXELS_PER_INCH)  # text width varies slightly with the resolution
    for _ in range(2):  # the layout settles in the second pass; both files then share it
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    contents = {}
    for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=2 * PIXELS_PER_INCH, metadata=metadata)
        contents[kind] = file.getvalue()
    contents["svg"] = compact_svg(contents["svg"].decode("utf-8")).encode("utf-8")
    if not photographs:
        contents["png"] = with_palette(contents["png"])
    return contents


def compact_svg(svg: str) -> str:
    """The same picture as matplotlib's in about three quarters of its size: coordinates to a hundredth of a point,
    glyphs placed by their x and y, short names of glyphs, no indentation."""

    def rounded(number: re.Match) -> str:
        value = float(number[0])
        return f"{value:.{2 if abs(value) >= 1 else 4}f}".rstrip("0").rstrip(".")

    svg = re.sub(r"(?<![\w.])-?\d+\.\d{3,}", rounded, svg)
    svg = re.sub(r'(<use xlink:href="[^"]*") transform="translate\((\S+) (\S+)\)"', r'\1 x="\2" y="\3"', svg)
    svg = svg.replace(' y="0"', "").replace("DejaVuSans", "g")
    return re.sub(r"\n +", "\n", svg)


def with_palette(png: bytes) -> bytes:
    """The picture with at most 256 colours."""
    whole = _in_rgb(png)
    reduced = whole.quantize(256, method=PIL.Image.Quantize.MEDIANCUT, dither=PIL.Image.Dither.NONE)
    file = io.BytesIO()
    reduced.save(file, format="png", optimize=True, dpi=whole.info.get("dpi"))
    return file.getvalue()


def is_drawing(png: bytes) -> bool:
    """Whether the picture has few colours, as lines and text on one background have; photographs have more."""
    return _in_rgb(png).getcolors(4096) is not None


def _in_rgb(png: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(png)).convert("RGB")


def _bare(text: str) -> str:
    """Markdown as the plain text of an attribute, which the HTML writer escapes again."""
    return " ".join(html.unescape(text.replace("*", "").replace("`", "")).split())
