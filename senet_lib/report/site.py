"""The static site: README, notebooks with their outputs, reports, studies and docs, as linked pages with a search.

`stage` copies the pages into a folder that is laid out like the repository, so that their relative links keep working;
`build` runs Sphinx on it with docs/conf.py. Nothing is executed, and no page loads anything from another host.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from senet_lib.project import project_root
from senet_lib.report.executed_notebooks import copy_with_links_of_source, outdated, sources
from senet_lib.report.site_check import problems

# The pages below each heading of the contents, in reading order. A pattern stands for its files, sorted by name.
CONTENTS = {
    "Notebooks": ("notebooks/*.ipynb",),
    "Results": ("results/README.md", "results/published/*/report.md", "results/test_set_log.md", "results/tuning.md"),
    "Reference": ("docs/*.md", "studies/README.md", "benchmarks/README.md"),
    "Project": ("CONTRIBUTING.md", "CHANGELOG.md"),
}
UNLISTED = ("benchmarks/results/*.md",)  # pages that another page links to
SHORT = 26  # characters of a table's cell that stays in one line
NBSP = "\N{NO-BREAK SPACE}"
HOME = "README.md"  # the start page, as index.html
# Markdown: a code block, code, or [text](target), whose text may be a picture
LINK = re.compile(
    r"^```.*?^```$|`[^`\n]*`|(!?\[(?:[^\[\]]|!\[[^\[\]]*\]\([^()]*\))*\]\()([^()\s]+)(\))", re.MULTILINE | re.DOTALL
)


def build(root: Path, target: Path) -> None:
    """Write the site to `target`, replacing an earlier one. Raises CalledProcessError with Sphinx's code if a page has
    a broken link or another defect; Sphinx names them on stderr."""
    with tempfile.TemporaryDirectory(prefix="site-") as folder:
        source, doctrees, written = (Path(folder) / name for name in ("source", "doctrees", "html"))
        stage(root, source)
        command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--jobs", "auto"]
        command += ["-c", str(root / "docs"), "-d", str(doctrees), str(source), str(written)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "0"})
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(written, target, ignore=shutil.ignore_patterns(".*", "objects.inv", "*macros.html"))


def stage(root: Path, folder: Path) -> None:
    """Copy the site's pages from the repository at `root` to `folder`, with every file that they link to."""
    texts = {page: _titled(page, (root / page).read_text(encoding="utf-8")) for page in _pages(root)}
    texts["studies/README.md"] = _list_of_studies(root)
    for source in sources(root):
        texts[f"notebooks/{source.name}"] = copy_with_links_of_source(root, source)
    for page, text in texts.items():
        if page.endswith(".ipynb"):
            text = _notebook_with_links(text, page, texts.keys(), root, folder)
        else:
            text = _with_links(_unbroken(text), page, texts.keys(), root, folder)
        if page == HOME:
            text += "".join(_contents(title, patterns, texts) for title, patterns in CONTENTS.items())
        _write(folder / ("index.md" if page == HOME else page), text)


def _pages(root: Path) -> list[str]:
    patterns = [pattern for part in (*CONTENTS.values(), UNLISTED) for pattern in part]
    found = [path for pattern in patterns if pattern.endswith(".md") for path in sorted(root.glob(pattern))]
    return [HOME, *(path.relative_to(root).as_posix() for path in found)]


def _titled(page: str, text: str) -> str:
    """The page with a title, which a table written by a benchmark lacks."""
    if text.startswith("# "):
        return text
    return f"---\norphan: true\n---\n# Benchmark: {Path(page).stem}\n\n{text}"


def _unbroken(text: str) -> str:
    """The text with its short table cells in one line: 93.02 ± 0.09 (n = 5)."""

    def cell(match: re.Match) -> str:
        return match[0].replace(" ", NBSP) if len(match[0]) <= SHORT and re.search(r"\d", match[0]) else match[0]

    lines = (
        re.sub(r"(?<=\| )[^|]+(?= \|)", cell, line) if line.startswith("| ") else line for line in text.split("\n")
    )
    return "\n".join(lines)


def _contents(title: str, patterns: Iterable[str], pages: Iterable[str]) -> str:
    """Navigation for the start page: a hidden list of the pages that match the patterns."""
    listed = [page for pattern in patterns for page in sorted(pages) if Path(page).match(pattern)]
    entries = "\n".join(page.rpartition(".")[0] for page in dict.fromkeys(listed))
    return f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"


def _list_of_studies(root: Path) -> str:
    """A page with every study file, which a code host shows as a folder."""
    text = (
        "# Study files\n\n[studies.md](../docs/studies.md) explains the keys; `make plan STUDY=NAME` lists the runs.\n"
    )
    for path in (*sorted((root / "studies").glob("*.yaml")), *sorted((root / "studies/recipes").glob("*.yaml"))):
        name = path.relative_to(root / "studies").with_suffix("").as_posix()
        content = path.read_text(encoding="utf-8")
        text += f"\n## {name}\n\n[{path.name}]({path.relative_to(root / 'studies').as_posix()})\n\n"
        text += f"```yaml\n{content}```\n"
    return text


def _notebook_with_links(text: str, page: str, pages: Iterable[str], root: Path, folder: Path) -> str:
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _with_links("".join(cell["source"]), page, pages, root, folder)
        elif cell["metadata"].get("jupyter", {}).get("source_hidden"):  # as JupyterLab calls it
            cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
    return json.dumps(notebook, ensure_ascii=False)


def _with_links(text: str, page: str, pages: Iterable[str], root: Path, folder: Path) -> str:
    """The page with its relative links adapted to the site, and the files that it links to copied."""

    def adapted(match: re.Match) -> str:
        before, target, after = match.groups()
        if before is None or re.match(r"[a-z]+:|#", target):
            return match[0]
        shown = before.lstrip("!")[1:-2]
        path, mark, anchor = target.partition("#")
        place = os.path.normpath(os.path.join(os.path.dirname(page), path))
        if (root / place).is_dir():
            place = next((p for p in (f"{place}/README.md", f"{place}/report.md") if p in pages), place)
        if place not in pages:
            if (root / place).is_dir():
                return shown  # of a folder, the name is enough
            if not (root / place).is_file():
                return match[0]  # Sphinx reports it
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / place, folder / place)
        place = "index.md" if place == HOME else place
        link = os.path.relpath(place, os.path.dirname(page) or ".").replace(os.sep, "/")
        return f"{before[: -len(shown) - 2]}{LINK.sub(adapted, shown)}]({link}{mark}{anchor}{after}"

    return LINK.sub(adapted, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(root: Path | None = None) -> int:
    root = root or project_root()
    if late := outdated(root):
        names = ", ".join(path.name for path in late)
        print(f"error: {names}: changed since it was executed; run `make notebooks`", file=sys.stderr)
        return 1
    target = root / "site"
    build(root, target)
    found = problems(target)
    print("\n".join(found) or f"site: {target.relative_to(root) / 'index.html'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
