"""A study's report: the analysis notebook, executed, as one HTML file that needs nothing but a browser.

    results/<study>/analysis.ipynb   the executed copy
                    report.html      what it shows, without code
                    figures, tables  written by the notebook
                    report.json      what the report was made from; unchanged inputs execute nothing

Heavy imports happen only when there is something to execute.
"""

import hashlib
import html
import os
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

from senet_lib.notebook import UnknownParameter, execute
from senet_lib.project import project_root
from senet_lib.results import ANALYSED_FILES, EXAMPLES, read_json, sha256_of, write_json, write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOK = "analysis.ipynb"
PARTIAL = "analysis.partial.ipynb"  # as far as a failed execution came
INPUT_FILES = ("config.json", "summary.json", "failure.json", *ANALYSED_FILES)  # of a run
# The sources that the notebook's outcome rests on
LIBRARY = ("examples", "notebook", "present", "plots", "report", "results", "sentences", "stats", "tables")
TEMPLATE = Path(__file__).parent / "report_template"
CELL_SECONDS = 600


class ReportError(RuntimeError):
    """Why there is no new report, in one line; an earlier one is as it was."""


def build_report(results_dir: Path) -> Path:
    """Execute the analysis of a results folder and write report.html there; nothing is executed if nothing changed.

    Raises FileNotFoundError when the folder holds no study, ReportError when the notebook fails.
    """
    results_dir = Path(results_dir).resolve()
    report = results_dir / "report.html"
    if not (results_dir / "study.json").is_file():
        raise FileNotFoundError(
            f"{results_dir}: no study.json there; a results folder is written by `make reproduce STUDY=...`"
        )
    source = project_root() / "notebooks" / NOTEBOOK
    if not source.is_file():
        raise ReportError(f"{source} is not there; run this in a checkout of the project, or set SENET_ROOT to one")
    inputs = _digest_of_inputs(results_dir, source)
    stamp = _stamp(results_dir)
    if stamp.get("inputs") == inputs and _all_there(results_dir, stamp.get("outputs", {})):
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
    _write_notebook(notebook, results_dir / NOTEBOOK)
    write_text(report, page)
    (results_dir / PARTIAL).unlink(missing_ok=True)
    outputs = {name: sha256_of(results_dir / name) for name in (NOTEBOOK, report.name, *written)}
    for name in stamp.get("outputs", {}).keys() - outputs.keys():  # of a network that the study no longer has
        (results_dir / name).unlink(missing_ok=True)
    write_json(results_dir / "report.json", {"inputs": inputs, "outputs": outputs})
    return report


# ------------------------------------------------------------------------------------------------------ is it still so?


def _digest_of_inputs(results_dir: Path, source: Path) -> str:
    """One hash of everything that the report is made from."""
    library = Path(__file__).parent
    paths = {f"senet_lib/{name}.py": library / f"{name}.py" for name in LIBRARY}
    paths |= {f"template/{path.name}": path for path in TEMPLATE.iterdir()}
    paths |= {NOTEBOOK: source, **{name: results_dir / name for name in ("study.json", EXAMPLES)}}
    for run in read_json(results_dir / "study.json")["runs"]:
        run_dir = results_dir / "runs" / run["run_id"]
        paths |= {f"{run['run_id']}/{name}": run_dir / name for name in INPUT_FILES}
    digest = hashlib.sha256()
    for name in sorted(paths):
        content = sha256_of(paths[name]) if paths[name].is_file() else "none"
        digest.update(f"{name} {content}\n".encode())
    return digest.hexdigest()


def _stamp(results_dir: Path) -> dict:
    try:
        stamp = read_json(results_dir / "report.json")
    except (FileNotFoundError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _all_there(results_dir: Path, outputs: dict[str, str]) -> bool:
    return bool(outputs) and all(
        (results_dir / name).is_file() and sha256_of(results_dir / name) == digest for name, digest in outputs.items()
    )


# ------------------------------------------------------------------------------------------------------------ executing


def _execute(source: Path, results_dir: Path, target: Path) -> "tuple[NotebookNode, list[str]]":
    """The executed notebook, and the files that it says it wrote below the results folder."""
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError

    from senet_lib.present import COMPLETE

    try:
        # No cwd: it would change the directory of this whole process, and the folder is absolute
        executed = execute(source, target, {"results": str(results_dir)}, execution_timeout=CELL_SECONDS)
    except UnknownParameter as error:
        raise ReportError(str(error)) from error
    except PapermillExecutionError as error:
        what = " ".join(f"{error.ename}: {error.evalue}".split())
        raise ReportError(f"{source.name}, cell [{error.exec_count}] failed: {what}") from error
    except (DeadKernelError, TimeoutError, RuntimeError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ReportError(f"{source.name} could not be executed: {what}") from error
    # A notebook whose kernel was killed looks completed: only the notebook's own last word counts
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            if COMPLETE in output.get("metadata", {}):
                _forget_this_machine(executed)
                return executed, list(output.metadata[COMPLETE])
    raise ReportError(f"{source.name} ended before its last cell")


def _forget_this_machine(notebook: "NotebookNode") -> None:
    """Without times and absolute paths: the copy in the results folder can be opened and run wherever it lies."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = '# Parameters\nresults = "."'


def _write_notebook(notebook: "NotebookNode", path: Path) -> None:
    import nbformat

    write_text(path, nbformat.writes(notebook) + "\n")


# ------------------------------------------------------------------------------------------------------------ the page


def to_page(notebook: "NotebookNode", study: str) -> str:
    """The executed notebook as one HTML page. Raises ReportError if anything in it could run or load."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name=TEMPLATE.name, extra_template_basedirs=[str(TEMPLATE.parent)])
    exporter.register_filter("markdown", _markdown)
    exporter.register_filter("only_tables", _only_tables)
    exporter.register_filter("with_contents", _with_contents)
    page, _ = exporter.from_notebook_node(notebook, resources={"study": study})
    problems = foreign_content(page)
    if problems:
        raise ReportError(f"the page would not be self-contained: {'; '.join(problems)}")
    return page


def foreign_content(page: str) -> list[str]:
    """What in an HTML page would execute, or load something from elsewhere; empty for a self-contained page."""
    finder = _ForeignContent()
    finder.feed(page)
    finder.close()
    return finder.found


class _ForeignContent(HTMLParser):
    ACTIVE = frozenset(("script", "iframe", "object", "embed", "form", "link", "base", "audio", "video", "svg"))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.ACTIVE:
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            value = "".join((value or "").split()).lower()
            if name.startswith("on"):
                self.found.append(f"{name}= in <{tag}>")
                continue
            # What loads must be in the page; what is only followed may lead elsewhere
            loads = name in ("src", "srcset", "background", "poster", "data")
            allowed = ("data:image/",) if loads else ("#", "https://", "http://")
            if (loads or name.endswith("href")) and not value.startswith(allowed):
                self.found.append(f"{name}={value[:60]!r} in <{tag}>")

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        if self.get_starttag_text() == "<style>" and re.search(r"@import|url\(", data):
            self.found.append("a style sheet that loads")


def _markdown(text: str) -> str:
    """Markdown as HTML: formulas as MathML, headings with ids, and HTML inside it shown as text, never obeyed."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def text(self, text: str) -> str:
            return html.escape(html.unescape(text), quote=False)  # character references are text, not markup

        def inline_math(self, body: str) -> str:
            return convert(body)

        def block_math(self, body: str) -> str:
            return convert(body, display="block")

        def latex_environment(self, name: str, body: str) -> str:
            return convert(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")

        def heading(self, text: str, level: int, **attrs: object) -> str:
            plain = html.unescape(re.sub(r"<[^>]+>", "", text)).lower()
            anchor = re.sub(r"\W+", "-", plain).strip("-")
            return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    renderer = Renderer(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(text)


def _only_tables(content: str) -> str:
    """HTML output as it is if it is what `tables.to_html` writes; anything else as text."""
    allowed = {"div", "table", "thead", "tbody", "tr", "th", "td"}
    classes = {"", *(f' class="{name}"' for name in ("number", "short", "long", "scroll"))}
    tags = re.findall(r"<\s*/?\s*([^\s>/]*)([^>]*)>", content)
    plain = all(tag in allowed and attributes in classes for tag, attributes in tags)
    return content if plain else f"<pre>{html.escape(content)}</pre>"


def _with_contents(body: str) -> str:
    """The page's body with links to its sections, before the first of them."""
    sections = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body)
    links = "\n".join(f'<a href="#{anchor}">{re.sub(r"<[^>]+>", "", title)}</a>' for anchor, title in sections)
    first = body.find('<div class="text"><h2 ')
    if not sections or first < 0:
        return body
    return f'{body[:first]}<nav aria-label="Contents">{links}</nav>\n{body[first:]}'
