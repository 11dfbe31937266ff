"""The executed analysis notebook as a Markdown page beside its figures and tables, for a code host and the site."""

from pathlib import Path
from typing import TYPE_CHECKING

from senet_lib.report.page import CAPTION, FILE, NOTICE

if TYPE_CHECKING:
    from nbformat import NotebookNode

LEFT_OUT = "notebook-only"  # tag of cells that explain the notebook itself


def to_markdown_page(notebook: "NotebookNode", folder: Path) -> str:
    """The texts, figures and tables of an executed notebook, without its code.

    folder: has the notebook's figures/ and tables/. A figure is a link to its own file; a table ends with a link to
    its numbers.
    """
    parts = []
    for cell in notebook.cells:
        if LEFT_OUT in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        for output in cell.get("outputs", []):
            parts += _output(output, parts, folder)
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _output(output: "NotebookNode", before: list[str], folder: Path) -> list[str]:
    """The parts of the page for one output; empty if another output stands for it."""
    data, metadata = output.get("data", {}), output.get("metadata", {})
    if "image/png" in data:
        return [metadata.get("image/png", {}).get("alt", "")]  # which its caption, the next output, turns into a link
    if "text/markdown" not in data:
        return []
    text, name = data["text/markdown"], metadata.get(FILE)
    if metadata.get(CAPTION) == "figure":
        alt = before.pop().replace("[", "(").replace("]", ")")
        return [f"[![{alt}](figures/{name}.svg)](figures/{name}.svg)", text]
    if metadata.get(CAPTION) == "table":
        numbers = f"[Numbers of this table](tables/{name}.csv)"
        return [text, (folder / "tables" / f"{name}.md").read_text(encoding="utf-8"), numbers]
    return [f"**Note.** {text.removeprefix('> ')}" if metadata.get(NOTICE) else text]
