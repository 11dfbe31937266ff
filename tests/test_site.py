"""The static site: links that work on a code host and on the site, executed notebooks, and the finished pages."""

import base64
import io
import json
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from senet_lib.errors import UserError
from senet_lib.project import project_root
from senet_lib.report import executed_notebooks, site
from senet_lib.report.markdown_page import to_markdown_page
from senet_lib.report.site_check import problems

ROOT = project_root()


def test_drawings_of_executed_notebooks_are_small_and_photographs_unchanged():
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 256, (80, 120, 3), np.uint8)
    drawing = np.full((80, 120, 3), 255, np.uint8)
    drawing[::4] = rng.integers(0, 256, (100, 3), np.uint8)[rng.integers(0, 100, (20, 120))]  # 100 colours on white
    for picture, reduced in ((drawing, True), (photograph, False)):
        before = png_of(picture)
        output = nbformat.v4.new_output("display_data", data={"image/png": base64.b64encode(before).decode("ascii")})
        executed_notebooks._reduce_drawing(output)
        after = base64.b64decode(output.data["image/png"])
        assert (len(after) < len(before)) == (after != before) == reduced
        assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(after)).convert("RGB")), picture)


def png_of(picture):
    file = io.BytesIO()
    PIL.Image.fromarray(picture).convert("RGBA").save(file, format="png")
    return file.getvalue()


def test_ids_of_styled_tables_do_not_change_between_executions():
    def executed():
        tables = [pd.DataFrame({"a": [1]}).style.to_html() for _ in range(2)]
        plain = f"<Styler at {hex(id(tables))}>"
        outputs = [nbformat.v4.new_output("display_data", {"text/html": t, "text/plain": plain}) for t in tables]
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output]) for output in outputs])

    first, second = executed(), executed()
    for notebook in (first, second):
        executed_notebooks._number_table_ids(notebook)
    assert first.cells[0].outputs[0].data["text/plain"] == "<Styler>"
    pages = [[cell.outputs[0].data["text/html"] for cell in notebook.cells] for notebook in (first, second)]
    assert pages[0] == pages[1] and 'id="T_1"' in pages[0][0] and 'id="T_2_row0_col0"' in pages[0][1]


def test_executed_notebooks_are_up_to_date():
    """If this fails: make notebooks."""
    assert [path.name for path in executed_notebooks.outdated(ROOT)] == []
    for source in executed_notebooks.sources(ROOT):
        copy = nbformat.read(ROOT / executed_notebooks.FOLDER / source.name, as_version=4)
        errors = [output for cell in copy.cells for output in cell.get("outputs", []) if output.output_type == "error"]
        assert not errors, source.name
        assert str(ROOT) not in nbformat.writes(copy), source.name


def test_changed_notebook_is_outdated(tmp_path):
    source, copy = tmp_path / "notebooks/01_a.ipynb", tmp_path / executed_notebooks.FOLDER / "01_a.ipynb"
    for path in (source, copy):
        path.parent.mkdir(parents=True)
    notebook = new_notebook(cells=[new_code_cell("1 + 1")])
    nbformat.write(notebook, source)
    assert executed_notebooks.outdated(tmp_path) == [source]
    notebook.metadata[executed_notebooks.DIGEST] = executed_notebooks.digest(source)
    notebook.cells[0].metadata["jupyter"] = {"source_hidden": True}
    nbformat.write(notebook, copy)
    assert executed_notebooks.outdated(tmp_path) == []
    with pytest.raises(UserError, match="01_b is no notebook; did you mean '01_a'"):
        executed_notebooks.execute_all(tmp_path, ["01_b.ipynb"])
    notebook.cells[0].source = "1 + 2"
    nbformat.write(notebook, source)
    assert executed_notebooks.outdated(tmp_path) == [source]


@pytest.fixture
def repository(tmp_path):
    """A small repository with one page or file of each kind."""
    texts = {
        "README.md": "# Start\n\n[docs](docs/a.md#part) [folder](studies) [bare](senet_lib) "
        "[`zip`](results/archive/x.zip)"
        " [![picture](f.png)](f.png) [web](https://example.org) `[no](link.md)`\n",
        "docs/a.md": "# A\n\n## Part\n\n[home](../README.md) [results](../results/) [study](../results/published/s/)\n",
        "results/README.md": "# Results\n\n[notebook](../notebooks/01_n.ipynb)\n",
        "results/published/s/report.md": "# Report\n\n![curve](figures/c.svg)\n",
        "results/test_set_log.md": "# Log\n",
        "results/tuning.md": "# Tuning\n\n| 93.02 ± 0.09 (n = 5) | two words | a long cell with the number 5 in it |\n",
        "studies/s.yaml": "question: Why?\n",
        "benchmarks/README.md": "# Benchmarks\n\n[speed](results/speed.md)\n",
        "benchmarks/results/speed.md": "A table without a title\n",
        "CONTRIBUTING.md": "# Contributing\n",
        "CHANGELOG.md": "# Changelog\n",
        "f.png": "",
        "results/archive/x.zip": "",
        "results/published/s/figures/c.svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
        "senet_lib/x.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    hidden = new_code_cell("x = 1", metadata={"jupyter": {"source_hidden": True}})
    for folder, up in (("notebooks", ".."), (str(executed_notebooks.FOLDER), "../../..")):
        notebook = new_notebook(cells=[new_markdown_cell(f"# N\n\n[docs]({up}/docs/a.md)"), hidden])
        (tmp_path / folder).mkdir(parents=True)
        nbformat.write(notebook, tmp_path / folder / "01_n.ipynb")
    return tmp_path


def test_staged_links_lead_to_pages_and_files(repository, tmp_path):
    source = tmp_path / "staged"
    site.stage(repository, source)
    start = (source / "index.md").read_text()
    for link in (
        "[docs](docs/a.md#part)",
        "[folder](studies/README.md)",
        " bare ",
        "[`zip`](results/archive/x.zip)",
        "[![picture](f.png)](f.png)",
        "[web](https://example.org)",
        "`[no](link.md)`",
        ":caption: Notebooks\n\nnotebooks/01_n\n",
    ):
        assert link in start, link
    assert "[home](../index.md) [results](../results/README.md)" in (source / "docs/a.md").read_text()
    assert "[study](../results/published/s/report.md)" in (source / "docs/a.md").read_text()
    assert "orphan: true\n---\n# Benchmark: speed\n" in (source / "benchmarks/results/speed.md").read_text()
    assert "question: Why?" in (source / "studies/README.md").read_text()
    table = "| 93.02\xa0±\xa00.09\xa0(n\xa0=\xa05) | two words | a long cell with the number 5 in it |"
    assert table in (source / "results/tuning.md").read_text()
    for copied in ("f.png", "results/archive/x.zip", "results/published/s/figures/c.svg", "studies/s.yaml"):
        assert (source / copied).is_file(), copied
    cells = json.loads((source / "notebooks/01_n.ipynb").read_text())["cells"]
    assert cells[1]["metadata"]["tags"] == ["hide-input"]


def test_missing_link_stays_for_sphinx_to_report(repository, tmp_path):
    (repository / "docs/a.md").write_text("# A\n\n[gone](missing.md)\n")
    site.stage(repository, tmp_path / "staged")
    assert "[gone](missing.md)" in (tmp_path / "staged/docs/a.md").read_text()


def test_broken_links_and_foreign_loads_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="b.html#y">1</a><a href="b.html#z">2</a><a href="c.html">3</a><a href="#x">4</a>'
        '<a href="https://example.org">5</a><img src="https://example.org/p.png"><script src="s.js"></script>'
        '<link rel="canonical" href="https://example.org/">'
    )
    (tmp_path / "b.html").write_text('<p id="y">')
    found = problems(tmp_path)
    assert [line.partition(": ")[2] for line in found] == [
        "loads https://example.org/p.png",
        "loads s.js, which does not exist",
        "links to b.html#z, a place that the page does not have",
        "links to c.html, which does not exist",
    ]


def test_report_page_links_its_figures_and_tables(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/t.md").write_text("| a |\n| --- |\n| 1 |\n")

    def shown(kind, content, **metadata):
        return new_output("display_data", {kind: content}, metadata=metadata)

    outputs = [
        shown("image/png", "...", **{"image/png": {"alt": "A rises [fast]"}}),
        shown("text/markdown", "**Figure 1.** A.", caption="figure", file="f"),
        shown("text/markdown", "**Table 1.** T.", caption="table", file="t"),
        shown("text/html", "<table></table>"),
        shown("text/markdown", "> Read this.", notice=True),
    ]
    cells = [
        new_markdown_cell("# How to use", metadata={"tags": ["notebook-only"]}),
        new_markdown_cell("## Part"),
        new_code_cell("code", outputs=outputs),
    ]
    parts = to_markdown_page(new_notebook(cells=cells), tmp_path).split("\n\n")
    assert parts[:3] == ["## Part", "[![A rises (fast)](figures/f.svg)](figures/f.svg)", "**Figure 1.** A."]
    assert parts[3:] == [
        "**Table 1.** T.",
        "| a |\n| --- |\n| 1 |",
        "[Numbers of this table](tables/t.csv)",
        "**Note.** Read this.\n",
    ]


@pytest.mark.slow
def test_site_is_built_without_training(tmp_path):
    """Sphinx's warnings are errors, so a page with a broken link fails."""
    site.build(ROOT, tmp_path / "site")
    assert problems(tmp_path / "site") == []
    assert "excit" in (tmp_path / "site/searchindex.js").read_text()
    assert (tmp_path / "site/_sources/notebooks/03_senet.ipynb").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium and `pip install -e .[browser]`")
def test_pages_in_a_browser(tmp_path):
    pytest.importorskip("axe_playwright_python")
    site.build(ROOT, tmp_path / "site")
    command = [sys.executable, str(ROOT / "tools/check_site.py"), str(tmp_path / "site")]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.startswith("no problem found")
