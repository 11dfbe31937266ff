"""What an analysis notebook shows is also what it leaves behind: figures as svg and png, tables as csv and Markdown.

A `Page` numbers figures and tables, shows them with their captions, and writes all of them when the notebook has come
to its end, so that a notebook that fails half-way leaves an earlier set of files as it was. Files are written whole,
and byte for byte the same from the same results.
"""

import html
import io

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

COMPLETE = "page_complete"  # output metadata: the notebook has reached its end; its value names the files
CAPTION = "caption"  # of a 'figure' or a 'table'
NOTICE = "notice"
PIXELS_PER_INCH = 100  # at which a figure is shown; the png holds twice as many


class Page:
    """One report in the making. `show` and the captions take Markdown whose outside text has been escaped."""

    def __init__(self, results: StudyResults) -> None:
        self.results = results
        self.files: dict[str, bytes] = {}  # path below the results folder -> content
        self.figures = self.tables = 0

    def show(self, text: str) -> None:
        """A paragraph; nothing for an empty one."""
        if text:
            display(Markdown(text))

    def notice(self, text: str) -> None:
        """A paragraph that must not be overlooked; nothing for an empty one."""
        if text:
            display(Markdown(f"> {text}"), metadata={NOTICE: True})

    def figure(
        self, axes: Axes | np.ndarray, name: str, caption: str, *, alt: str = "", photographs: bool = False
    ) -> None:
        """Show the figure of these axes and keep it as figures/<name>.svg and .png; close it.

        alt: what a reader who cannot see it should know; the caption if there is no more to say. photographs: it holds
        some, and needs all colours. Without a finished run there is nothing to draw, and one line says so.
        """
        figure = np.asarray(axes).flat[0].figure
        if self.results.done.empty:
            plt.close(figure)
            self.show("*No figure here: no run is finished.*")
            return
        self.figures += 1
        for kind, content in rendered(figure, photographs=photographs).items():
            self.files[f"figures/{name}.{kind}"] = content
        width = round(figure.get_figwidth() * PIXELS_PER_INCH)
        plt.close(figure)
        image = Image(self.files[f"figures/{name}.png"], format="png", width=width, alt=_bare(alt or caption))
        display(image)
        self._caption(f"**Figure {self.figures}.** {caption}", "figure")

    def table(
        self, shown: pd.DataFrame, name: str, caption: str, *, numbers: pd.DataFrame | None = None, empty: str = ""
    ) -> None:
        """Show a table of text; keep it as tables/<name>.md, and the numbers behind it as tables/<name>.csv. `empty` is
        said instead of a table without rows."""
        if shown.empty:
            self.show(f"*{empty or 'Nothing to list.'}*")
            return
        self.tables += 1
        numbers = shown if numbers is None else numbers
        self.files[f"tables/{name}.md"] = to_markdown(shown).encode()
        self.files[f"tables/{name}.csv"] = numbers.to_csv(index=False, lineterminator="\n").encode()
        self._caption(f"**Table {self.tables}.** {caption}", "table")
        display(HTML(to_html(shown)))

    def write(self) -> None:
        """Write every figure and table, and say how many."""
        for path, content in self.files.items():
            with replacing(self.results.path / path) as file:
                file.write(content)
        said = f"*{self.figures} figures and {self.tables} tables are in `figures/` and `tables/` beside this page.*"
        display(Markdown(said), metadata={COMPLETE: sorted(self.files)})

    def _caption(self, text: str, of: str) -> None:
        display(Markdown(text), metadata={CAPTION: of})


def rendered(figure: Figure, *, photographs: bool = False) -> dict[str, bytes]:
    """The figure as 'svg' and 'png', without what would differ from one time to the next. A png without photographs has
    a palette: a third of the bytes."""
    figure.set_dpi(2 * PIXELS_PER_INCH)  # text is a little wider or narrower at another resolution
    for _ in range(2):  # the layout settles with the second pass; both files then share it
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    contents = {}
    for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=2 * PIXELS_PER_INCH, metadata=metadata)
        contents[kind] = file.getvalue()
    if not photographs:
        contents["png"] = _with_palette(contents["png"])
    return contents


def _with_palette(png: bytes) -> bytes:
    whole = PIL.Image.open(io.BytesIO(png)).convert("RGB")
    reduced = whole.quantize(256, method=PIL.Image.Quantize.MEDIANCUT, dither=PIL.Image.Dither.NONE)
    file = io.BytesIO()
    reduced.save(file, format="png", optimize=True, dpi=2 * (2 * PIXELS_PER_INCH,))
    return file.getvalue()


def _bare(text: str) -> str:
    """Markdown as the plain text of an attribute, which its writer escapes again."""
    return html.unescape(text.replace("*", "").replace("`", ""))
