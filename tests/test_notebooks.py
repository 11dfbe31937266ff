"""The notebooks: clean sources, checked parameters, and execution from top to bottom."""

import ast
import re

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import papermill
import pytest

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
            plain = re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.MULTILINE)
            nodes = list(ast.walk(ast.parse(plain)))
            where = f"{path.name}, {cell.id}"
            assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)], where
            texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            assert not [text for text in texts if re.match(r"/[a-z]+/", text)], where
            assert "sys.path" not in cell.source, where


def test_colab_cells_are_equal():
    """Except for the last lines of notebooks that train, which name the device."""
    reference = cells(named("resnet"), "code")[0].source
    for path in NOTEBOOKS:
        assert reference.startswith(cells(path, "code")[0].source), path.name


def parameters_of(name, tmp_path):
    """Parameters with which a notebook that trains takes seconds."""
    small = {"knobs": {"width": 0.5} | ({"reduction": 4} if name == "senet" else {}), "device": "cpu"}
    if name == "train":
        return small | {"recipe": {"epochs": 1, "batch_size": 256}, "threads": 1, "run_dir": str(tmp_path)}
    return small | {"epochs": 1} if name in ("resnet", "senet", "sknet") else {}


@pytest.mark.parametrize("name", ["train", "resnet", "senet", "sknet"])
def test_training_notebooks_run(tmp_path, monkeypatch, name):
    """In this process, which is faster than in a kernel."""
    figures, names = [], {}
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    for cell in cells(named(name), "code"):
        if cell.id != "colab":
            exec(compile(cell.source, f"<{name}, cell {cell.id}>", "exec"), names)
        if cell.id == "parameters":
            names |= parameters_of(name, tmp_path)
    plt.close("all")
    assert len(figures) == (2 if name == "train" else 1)
    assert 0 <= names["outcome"].evaluation.accuracy <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "resnet", "senet", "sknet", "architectures", "source_notes"])
def test_notebooks_run_headless(tmp_path, name):
    target, source = tmp_path / "executed.ipynb", named(name)
    executed = execute(source, target, parameters_of(name, tmp_path), cwd=str(source.parent))
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr" and "Warning" in output["text"]]
