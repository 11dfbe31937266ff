"""Notebook sources: clean, parameterised, and executed headless from top to bottom."""

import ast
import json
import re

import nbformat
import papermill
import pytest

from senet_lib.project import project_root

NOTEBOOKS = sorted((project_root() / "notebooks").glob("*.ipynb"))
# The smallest that still trains, one notebook a family; resnet and senet are executed by the tests of launch
SMALLEST = {"recipe": {"epochs": 1, "batch_size": 256}, "knobs": {"width": 0.5}, "device": "cpu", "threads": 1}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_the_notebooks_are_all_there():
    assert {path.stem for path in NOTEBOOKS} >= {
        "01_architectures",
        "resnet",
        "senet",
        "sknet",
        "analysis",
        "attention",
        "source_notes",
        "questions",
    }


@each_notebook
def test_a_source_is_valid_and_carries_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    for cell in cells(path, "code"):
        assert cell.outputs == []
        assert cell.execution_count is None


@each_notebook
def test_it_opens_with_title_and_question_then_the_colab_cell_and_the_parameters(path):
    first, *_ = nbformat.read(path, as_version=4).cells
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "?" in first.source
    code = cells(path, "code")
    assert code[0].id == "colab"
    assert code[1].metadata.get("tags") == ["parameters"]


@each_notebook
def test_parameters_are_literals_each_with_a_comment_and_known_to_papermill(path):
    source = cells(path, "code")[1].source
    lines = [line for line in source.splitlines() if line.strip()]
    for line in lines:
        name, _, value = line.partition(" = ")
        literal, _, comment = value.partition("  # ")
        assert name.isidentifier()
        ast.literal_eval(literal)
        assert comment, f"{name} has no comment"
    assert len(papermill.inspect_notebook(str(path))) == len(lines)


@each_notebook
def test_a_source_defines_nothing_and_names_no_place_of_a_machine(path):
    for cell in cells(path, "code"):
        plain = re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.MULTILINE)
        nodes = list(ast.walk(ast.parse(plain)))
        assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)], cell.id
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        assert not [text for text in texts if re.match(r"/[a-z]+/", text)], cell.id
        assert "sys.path" not in cell.source


@each_notebook
def test_the_colab_cell_is_the_same_everywhere_but_for_the_line_about_the_gpu(path):
    reference = cells(project_root() / "notebooks" / "resnet.ipynb", "code")[0].source
    assert reference.startswith(cells(path, "code")[0].source)


@pytest.mark.parametrize(("name", "parameters"), [("sknet", SMALLEST), ("01_architectures", {}), ("source_notes", {})])
def test_it_runs_headless_from_top_to_bottom(tmp_path, name, parameters):
    target = tmp_path / "executed.ipynb"
    given = parameters | ({"run_dir": str(tmp_path)} if parameters else {})
    source = project_root() / "notebooks" / f"{name}.ipynb"
    papermill.execute_notebook(
        str(source), str(target), given, kernel_name="python3", cwd=str(source.parent), progress_bar=False
    )
    executed = json.loads(target.read_text(encoding="utf-8"))
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    warnings = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in warnings if "Warning" in "".join(text)]
