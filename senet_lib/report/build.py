"""A study's report: the executed analysis notebook as one self-contained HTML file.

    results/<study>/analysis.ipynb   the executed copy
                    report.html      its output, without code
                    figures, tables  written by the notebook
                    report.json      hashes of inputs and outputs; unchanged inputs are not executed again

Heavy imports happen only when something is executed.
"""

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from senet_lib.files import read_json, read_record, sha256_of, write_json, write_text
from senet_lib.project import project_root
from senet_lib.report.html_page import TEMPLATE, ReportError, to_page
from senet_lib.results import ANALYSED_FILES, EXAMPLES, twin_folder
from senet_lib.running.notebook import UnknownParameter, execute, without_execution_record, write_notebook

if TYPE_CHECKING:
    from nbformat import NotebookNode

SOURCE = "08_analysis.ipynb"
NOTEBOOK = "analysis.ipynb"  # the executed copy
PARTIAL = "analysis.partial.ipynb"  # the executed part of a failed execution
REPORT = "report.html"
STAMP = "report.json"
OUTPUT = re.compile(r"analysis\.ipynb|report\.html|(figures|tables)/\w[^/\\]*")  # names of a report's files
INPUT_FILES = ("config.json", "summary.json", "failure.json", *ANALYSED_FILES)  # of each run

# The folders and files of the library that affect the notebook's output
LIBRARY = (
    "analysis",
    "models",
    "report",
    "results",
    "data/__init__.py",
    "data/catalog.py",
    "durations.py",
    "errors.py",
    "files.py",
    "menus.py",
    "metrics.py",
    "project.py",
    "strict_yaml.py",
    "study.py",
)
CELL_SECONDS = 600


def build_report(results_dir: Path) -> Path:
    """Execute the analysis notebook on a results folder and write report.html there, unless nothing changed.

    Raises FileNotFoundError if the folder holds no study, ReportError if the notebook fails.
    """
    results_dir = Path(results_dir).resolve()
    report = results_dir / REPORT
    if not (results_dir / "study.json").is_file():
        raise FileNotFoundError(
            f"{results_dir} has no study.json, so it is not a results folder; `make reproduce STUDY=...` writes one"
        )
    source = project_root() / "notebooks" / SOURCE
    if not source.is_file():
        raise ReportError(f"{source} does not exist; run this in a checkout of the project, or set SENET_ROOT to one")
    inputs = _digest_of_inputs(results_dir, source)
    earlier_inputs, earlier = _stamp(results_dir)
    if earlier_inputs == inputs and _all_there(results_dir, earlier):
        return report

    with tempfile.TemporaryDirectory(prefix=".report-", dir=results_dir) as folder:
        executed = Path(folder) / NOTEBOOK
        try:
            notebook, written = _execute(source, results_dir, executed)
        except ReportError:
            if executed.is_file():
                os.replace(executed, results_dir / PARTIAL)
            raise
    page = to_page(notebook, read_json(results_dir / "study.json")["name"])
    write_notebook(notebook, results_dir / NOTEBOOK)
    write_text(report, page)
    (results_dir / PARTIAL).unlink(missing_ok=True)
    outputs = {name: sha256_of(results_dir / name) for name in (NOTEBOOK, report.name, *written)}
    for name in earlier.keys() - outputs.keys():  # e.g. of a network that is no longer in the study
        (results_dir / name).unlink(missing_ok=True)
    write_json(results_dir / STAMP, {"inputs": inputs, "outputs": outputs})
    return report


def _digest_of_inputs(results_dir: Path, source: Path) -> str:
    """One hash over all inputs of the report."""
    library = Path(__file__).parents[1]
    sources = [path for name in LIBRARY for path in (library / name).rglob("*.py")]
    sources += [library / name for name in LIBRARY if name.endswith(".py")]
    paths = {f"senet_lib/{path.relative_to(library).as_posix()}": path for path in sources}
    paths |= {f"template/{path.name}": path for path in TEMPLATE.iterdir()}
    paths |= {SOURCE: source, EXAMPLES: results_dir / EXAMPLES}
    twin = twin_folder(results_dir, read_record(results_dir / "study.json") or {})
    for folder in filter(None, (results_dir, twin)):
        at = "twin/" if folder == twin else ""
        paths[f"{at}study.json"] = folder / "study.json"
        for run_dir in folder.glob("runs/[!.]*"):
            paths |= {f"{at}{run_dir.name}/{name}": run_dir / name for name in INPUT_FILES}
    digest = hashlib.sha256()
    for name in sorted(paths):
        content = sha256_of(paths[name]) if paths[name].is_file() else "none"
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def _stamp(results_dir: Path) -> tuple[object, dict[str, str]]:
    """The hash of the last report's inputs, and the digests of its files. Without files if report.json is missing or
    damaged: whatever names it has, only files of a report are ever removed."""
    stamp = read_record(results_dir / STAMP) or {}
    outputs = stamp.get("outputs")
    if not isinstance(outputs, dict) or not all(map(OUTPUT.fullmatch, outputs)):
        return None, {}
    return stamp.get("inputs"), outputs


def _all_there(results_dir: Path, outputs: dict[str, str]) -> bool:
    return bool(outputs) and all(
        (results_dir / name).is_file() and sha256_of(results_dir / name) == digest for name, digest in outputs.items()
    )


def _execute(source: Path, results_dir: Path, target: Path) -> "tuple[NotebookNode, list[str]]":
    """The executed notebook, and the files that it reports as written below the results folder."""
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError

    from senet_lib.report.page import COMPLETE

    try:
        # No cwd: it would change the directory of the whole process, and the path is absolute anyway
        executed = execute(source, target, {"results": str(results_dir)}, execution_timeout=CELL_SECONDS)
    except UnknownParameter as error:
        raise ReportError(str(error)) from error
    except PapermillExecutionError as error:
        what = " ".join(f"{error.ename}: {error.evalue}".split())
        raise ReportError(f"{source.name}, cell [{error.exec_count}] failed: {what}") from error
    except (DeadKernelError, TimeoutError, RuntimeError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReportError(f"{source.name} could not be executed: {what}") from error
    # A notebook whose kernel was killed looks complete, so require the metadata that its last cell writes
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            if COMPLETE in output.get("metadata", {}):
                _make_portable(executed)
                return executed, list(output.metadata[COMPLETE])
    raise ReportError(f"{source.name} stopped before its last cell")


def _make_portable(notebook: "NotebookNode") -> None:
    """Remove times and absolute paths, so that the copy in the results folder runs on any machine."""
    without_execution_record(notebook)
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = '# Parameters\nresults = "."'
