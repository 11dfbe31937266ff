"""The notebooks: clean sources, links and exercises, checked parameters, and execution from top to bottom."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from senet_lib.models import resolve_knobs
from senet_lib.project import project_root
from senet_lib.running.notebook import execute

matplotlib.use("agg")

NOTEBOOKS = sorted((project_root() / "notebooks").glob("*.ipynb"))


def named(name):
    (path,) = (project_root() / "notebooks").glob(f"*_{name}.ipynb")
    return path


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_every_notebook_exists():
    assert [path.stem for path in NOTEBOOKS] == [
        *("01_architectures", "02_resnet", "03_senet", "04_sknet", "05_train"),
        *("06_source_notes", "07_questions", "08_analysis", "09_attention"),
    ]


def test_sources_are_valid_and_without_outputs():
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3", path.name
        assert "widgets" not in notebook.metadata, path.name
        for cell in cells(path, "code"):
            assert (cell.outputs, cell.execution_count) == ([], None), f"{path.name}, {cell.id}"


def test_first_cells_are_title_colab_parameters():
    for path in NOTEBOOKS:
        first, *_ = nbformat.read(path, as_version=4).cells
        assert first.cell_type == "markdown", path.name
        assert first.source.startswith("# "), path.name
        assert "?" in first.source, f"{path.name}: the question"
        code = cells(path, "code")
        assert code[0].id == "colab", path.name
        assert code[1].metadata.get("tags") == ["parameters"], path.name


def test_parameters_are_commented_literals():
    for path in NOTEBOOKS:
        source = cells(path, "code")[1].source
        lines = [line for line in source.splitlines() if line.strip()]
        for line in lines:
            name, _, value = line.partition(" = ")
            literal, _, comment = value.partition("  # ")
            assert name.isidentifier(), f"{path.name}: {line}"
            ast.literal_eval(literal)
            assert comment, f"{path.name}: {name} has no comment"
        assert len(papermill.inspect_notebook(str(path))) == len(lines), f"{path.name}: papermill knows each"


def test_sources_define_nothing_and_name_no_absolute_path():
    for path in NOTEBOOKS:
        for cell in cells(path, "code"):
            plain = re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)
            nodes = list(ast.walk(ast.parse(plain)))
            where = f"{path.name}, {cell.id}"
            assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)], where
            texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            assert not [text for text in texts if re.match(r"/[a-z]+/", text)], where
            assert "sys.path" not in cell.source, where


def test_colab_cells_are_equal_and_collapsed():
    reference = cells(named("resnet"), "code")[0].source
    for path in NOTEBOOKS:
        cell = cells(path, "code")[0]
        assert cell.source == reference, path.name
        assert cell.metadata.get("jupyter", {}).get("source_hidden"), path.name


def test_notebooks_name_their_place_and_neighbours():
    for number, path in enumerate(NOTEBOOKS, start=1):
        first, *_, last = cells(path, "markdown")
        assert f"Notebook {number} of {len(NOTEBOOKS)}." in first.source, path.name
        for neighbour in NOTEBOOKS[max(0, number - 2) : number - 1] + NOTEBOOKS[number : number + 1]:
            assert f"[{neighbour.name}]({neighbour.name})" in first.source, f"{path.name}: {neighbour.name}"
        exercises, _, reading = last.source.partition("## What to read next")
        assert re.findall(r"^(\d)\. ", exercises, re.MULTILINE) == ["1", "2", "3"], path.name
        assert reading.strip(), path.name


def test_exercises_set_parameters_that_exist():
    for path in NOTEBOOKS:
        known = papermill.inspect_notebook(str(path))
        exercises = cells(path, "markdown")[-1].source.partition("## What to read next")[0]
        for text in re.findall(r"`(\w+ = [^`]+)`", exercises):
            name, _, value = text.partition(" = ")
            assert name in known, f"{path.name}: {text}"
            value = ast.literal_eval(value)
            default = ast.literal_eval(known[name]["default"])
            assert type(value) is type(default), f"{path.name}: {text}"
            if name in ("knobs", "model"):
                model = value if name == "model" else ast.literal_eval(known["model"]["default"])
                resolve_knobs(model, **(value if name == "knobs" else {}))
            elif name == "results":
                assert (path.parent / value).exists(), f"{path.name}: {text}"


def test_links_of_notebooks_lead_to_files():
    for path in NOTEBOOKS:
        for cell in cells(path, "markdown"):
            for target in re.findall(r"\]\(([^)\s]+)\)", cell.source):
                if not target.startswith(("https://", "#")):
                    assert (path.parent / target.partition("#")[0]).exists(), f"{path.name}: {target}"
            bare = re.sub(r"\[[^]]*\]\([^)]*\)", "", cell.source)
            assert not re.search(r"arXiv:\d", bare), f"{path.name}, {cell.id}: an arXiv number without a link"


class Shell:
    """Stands in for IPython: notes the commands of a cell, and makes the folder that `git clone` would make."""

    def __init__(self, clone):
        self.clone, self.commands = clone, []

    def system(self, command):
        self.commands.append(command)
        if self.clone:
            (self.clone / "notebooks").mkdir(parents=True)

    def run_line_magic(self, name, line):
        self.commands.append(f"{name} {line}")


def test_colab_cell_clones_or_says_what_to_type(tmp_path, monkeypatch):
    source = cells(named("resnet"), "code")[0].source
    monkeypatch.setitem(sys.modules, "senet_lib", None)  # as if it were not installed
    address = "https://github.com/owner/name"
    for given, clone, stops in (("", None, "address"), (address, None, address), (address, tmp_path / "senet-v1", "")):
        monkeypatch.chdir(tmp_path)
        shell = Shell(clone)
        cell = source.replace('address = ""', f'address = "{given}"', 1).replace('"main"', '"v1"', 1)
        code = TransformerManager().transform_cell(cell)
        names = {"get_ipython": lambda shell=shell: shell}
        if stops:
            with pytest.raises(SystemExit) as stopped:
                exec(code, names)
            assert stops in str(stopped.value) and "\n" not in str(stopped.value)
            assert len(shell.commands) == bool(given)
            continue
        exec(code, names)
        assert Path.cwd() == clone / "notebooks"
        assert [command.split()[0] for command in shell.commands] == ["git", "pip"]
        assert f"torch=={metadata.version('torch')}" in (tmp_path / "constraints.txt").read_text().split()
    monkeypatch.chdir(NOTEBOOKS[0].parent)
    exec(TransformerManager().transform_cell(source), {})  # nothing to do in a checkout


def parameters_of(name, tmp_path, data="digits"):
    """Parameters with which a notebook that trains takes seconds."""
    small = {"data": data, "knobs": {"width": 0.5} | ({"reduction": 4} if name == "senet" else {}), "device": "cpu"}
    if name == "train":
        return small | {"recipe": {"epochs": 1, "batch_size": 256}, "threads": 1, "run_dir": str(tmp_path)}
    return small | {"epochs": 1} if name in ("resnet", "senet", "sknet") else {}


@pytest.mark.parametrize("name", ["train", "resnet", "senet", "sknet"])
def test_training_notebooks_run(tmp_path, images, monkeypatch, name):
    """In this process, which is faster than in a kernel."""
    figures, names = [], {}
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    for cell in cells(named(name), "code"):
        if cell.id != "colab":
            exec(compile(cell.source, f"<{name}, cell {cell.id}>", "exec"), names)
        if cell.id == "parameters":
            names |= parameters_of(name, tmp_path, f"folder:{images}")
    plt.close("all")
    assert len(figures) == 2
    assert 0 <= names["outcome"].evaluation.accuracy <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "resnet", "senet", "sknet", "architectures", "source_notes"])
def test_notebooks_run_headless(tmp_path, name):
    target, source = tmp_path / "executed.ipynb", named(name)
    executed = execute(source, target, parameters_of(name, tmp_path), cwd=str(source.parent))
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr" and "Warning" in output["text"]]
