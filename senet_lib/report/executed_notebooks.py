"""The notebooks with their outputs, executed once at their default parameters and kept in results/published/notebooks/.

A code host shows them, and the site builds from them without training. Each copy records the digest of its source.
"""

import base64
import hashlib
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from senet_lib.errors import UserError, did_you_mean
from senet_lib.project import project_root
from senet_lib.report.page import is_drawing, with_palette
from senet_lib.running.notebook import execute, without_execution_record, write_notebook

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDER = Path("results") / "published" / "notebooks"
# How links to other folders begin in a notebook, and in its copy, which lies two folders deeper
FROM_SOURCE, FROM_COPY = "](../", "](../../../"
DIGEST = "source_sha256"  # notebook metadata of an executed copy


def sources(root: Path) -> list[Path]:
    """The notebooks, in reading order."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def outdated(root: Path) -> list[Path]:
    """The notebooks whose source has changed since its executed copy was written, or that have none."""
    return [source for source in sources(root) if _recorded(root / FOLDER / source.name) != digest(source)]


def digest(source: Path) -> str:
    """The sha256 of the cells' kinds and texts. Metadata, such as which cells are collapsed, changes no output."""
    import nbformat

    cells = nbformat.read(source, as_version=4).cells
    return hashlib.sha256("\0".join(f"{cell.cell_type}\n{cell.source}" for cell in cells).encode()).hexdigest()


def _recorded(copy: Path) -> str:
    import nbformat

    return nbformat.read(copy, as_version=4).metadata.get(DIGEST, "") if copy.is_file() else ""


def copy_with_links_of_source(root: Path, source: Path) -> str:
    """The text of a notebook's executed copy, with links that lead from the notebook's own folder."""
    return (root / FOLDER / source.name).read_text(encoding="utf-8").replace(FROM_COPY, FROM_SOURCE)


def execute_all(root: Path, names: list[str]) -> list[Path]:
    """Execute the outdated notebooks, or those named, and keep the copies. Raises UserError for an unknown name, and
    papermill.PapermillExecutionError."""
    import papermill

    known = {source.stem: source for source in sources(root)}
    named = [name.removesuffix(".ipynb") for name in names]
    for name in named:
        if name not in known:
            raise UserError(f"{name} is no notebook; {did_you_mean(name, known)}")
    chosen = [known[name] for name in named] if named else outdated(root)
    for number, source in enumerate(chosen, start=1):
        print(f"{number} of {len(chosen)}: {source.name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            # A fresh folder: in its own, 05_train would resume an earlier run
            parameters = {"run_dir": folder} if "run_dir" in papermill.inspect_notebook(str(source)) else {}
            executed = execute(source, Path(folder) / source.name, parameters, cwd=str(source.parent))
        _make_portable(executed, root)
        executed.metadata[DIGEST] = digest(source)
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        write_notebook(executed, root / FOLDER / source.name)
    return chosen


def _make_portable(notebook: "NotebookNode", root: Path) -> None:
    """Remove what differs from execution to execution: times, progress bars, and this machine's folders."""
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    without_execution_record(notebook)
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace(FROM_SOURCE, FROM_COPY)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
            CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)  # how they are split depends on the time
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.text = output.text.replace(f"{root}/", "")
                else:
                    _reduce_drawing(output)
    _number_table_ids(notebook)


def _number_table_ids(notebook: "NotebookNode") -> None:
    """Replace the random ids of pandas' styled tables by their number, and remove the addresses of such objects, so
    that equal tables give equal copies."""
    numbers: dict[str, str] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                page = output.data["text/html"]
                for drawn in re.findall(r'<table id="(T_[0-9a-f]{5})"', page):
                    page = page.replace(drawn, numbers.setdefault(drawn, f"T_{len(numbers) + 1}"))
                output.data["text/html"] = page
            if "text/plain" in output.get("data", {}):
                output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+(?=>)", "", output.data["text/plain"])


def _reduce_drawing(output: "NotebookNode") -> None:
    """Give a png without photographs a palette, if that makes it smaller: a third of the size."""
    if "image/png" in output.get("data", {}):
        png = base64.b64decode(output.data["image/png"])
        if is_drawing(png) and len(reduced := with_palette(png)) < 0.9 * len(png):
            output.data["image/png"] = base64.b64encode(reduced).decode("ascii")


def _is_progress(output: "NotebookNode") -> bool:
    """Whether it is part of a progress bar, as text, whose line is written again and again, or as a widget."""
    text = output.get("text", "none")
    return text.startswith("\r") or not text.strip() or any("widget" in kind for kind in output.get("data", {}))


if __name__ == "__main__":
    try:
        execute_all(project_root(), sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
