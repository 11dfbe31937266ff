"""The analysis notebook and the page that is made of it: for whole, broken and hostile studies."""

import ast
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import PIL.Image
import pytest
from IPython.display import HTML, Image, Markdown
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from synthetic import CIFAR10, THREE, write_study

from senet_lib.analysis import examples
from senet_lib.files import read_json, write_arrays, write_json
from senet_lib.report import build, html_page
from senet_lib.report import page as present
from senet_lib.report.build import build_report
from senet_lib.report.html_page import ReportError, foreign_content, to_page
from senet_lib.results import EXAMPLES, load_results

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "analysis.ipynb"
EVIL = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.setenv("SENET_ROOT", str(ROOT))


# The notebook, without a kernel


class Shown:
    """What running the notebook's code cells displayed."""

    def __init__(self):
        self.texts, self.tables, self.images, self.metadata = [], [], [], {}

    def __call__(self, thing, metadata=None):
        kinds = {Markdown: self.texts, HTML: self.tables, Image: self.images}
        kinds[type(thing)].append(thing if isinstance(thing, Image) else thing.data)
        self.metadata |= metadata or {}

    @property
    def everything(self):
        return "\n".join([*self.texts, *self.tables, *(image.alt for image in self.images)])


def run_notebook(folder, monkeypatch, *, rendered=False):
    """Run the analysis notebook's code in this process; figures are made, and rendered only if asked for."""
    shown = Shown()
    monkeypatch.setattr(present, "display", shown)
    if not rendered:
        monkeypatch.setattr(present, "rendered", lambda figure, **_: {"svg": b"drawing", "png": b"picture"})
    names = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or "notebook-only" in tags:
            continue
        source = f"results = {str(folder)!r}" if "parameters" in tags else cell.source
        exec(compile(source, f"<cell {cell.id}>", "exec"), names)
    return shown, names["page"]


def test_a_study_that_is_not_timed_has_a_page_without_seconds(tmp_path, monkeypatch):
    write_study(tmp_path / "timed", images=50)
    write_study(tmp_path / "untimed", images=50)
    path = tmp_path / "untimed" / "study.json"
    write_json(path, read_json(path) | {"timed": False})
    whole, _ = run_notebook(tmp_path / "timed", monkeypatch)
    shown, _ = run_notebook(tmp_path / "untimed", monkeypatch)
    for said in ("Seconds of training an epoch", "Seconds per epoch", "against the seconds of training", "s / epoch"):
        assert said in whole.everything and said not in shown.everything
    assert "seconds of training" not in shown.everything.lower()
    assert "No seconds are reported" in shown.everything and "No seconds are reported" not in whole.everything
    assert len(shown.images) == len(whole.images) - 2


def test_the_notebooks_source_is_clean():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        assert re.fullmatch(r"[a-z][a-z0-9-]+", cell.id)
        if cell.cell_type != "code":
            continue
        assert (cell.outputs, cell.execution_count) == ([], None)
        assert len(cell.source.splitlines()) <= 20
        if "notebook-only" not in cell.metadata.get("tags", []):  # the Colab cell has a line magic
            nodes = list(ast.walk(ast.parse(cell.source)))
            assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in nodes)
        assert "torch" not in cell.source or "notebook-only" in cell.metadata.get("tags", [])
        assert "sys.path" not in cell.source


def test_the_parameters_are_literals_with_a_comment_each():
    (cell,) = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    (assignment,) = ast.parse(cell.source).body
    assert ast.literal_eval(assignment.value) == "../results/quick"
    assert "  # " in cell.source


def test_without_results_the_notebook_says_what_to_run(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no study.json there; .* `make reproduce STUDY=...`$"):
        run_notebook(tmp_path / "quick", monkeypatch)


def test_a_whole_study(tmp_path, monkeypatch):
    networks = {label: dict(network) for label, network in THREE.items()}
    networks["resnet20"]["published"] = {"accuracy": 0.9125, "source": "a paper, 164 epochs", "runs": 1}
    shown, page = run_notebook(write_study(tmp_path, networks, images=200), monkeypatch)
    assert "incomplete" not in shown.everything
    assert shown.texts[0].startswith("# synthetic")
    assert shown.texts[1].startswith("**Asked:**")
    assert len(shown.images) == page.figures == 10
    assert "a paper, 164 epochs" in shown.everything
    captions = [text for text in shown.texts if re.match(r"\*\*(Figure|Table) \d+", text)]
    assert len(captions) == page.figures + page.tables
    for caption in captions:
        if caption.startswith("**Figure"):
            assert "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}3" in caption
    assert shown.metadata[present.COMPLETE] == sorted(page.files)
    for name in page.files:
        assert (tmp_path / name).is_file()
    assert (tmp_path / "tables/networks.md").read_text().startswith("| Network | Parameters |")
    assert "0.9125" in (tmp_path / "tables/networks.csv").read_text()


def test_a_fast_recipes_times_and_augmented_accuracies(tmp_path, monkeypatch):
    changes = {"resnet20": (0.915, None), "se_resnet20": (0.925, 0.01), "sk_resnet20": (0.945, 0.01)}
    networks = {
        label: {**THREE[label], "accuracy": accuracy, "tta_gain": gain} for label, (accuracy, gain) in changes.items()
    }
    shown, page = run_notebook(write_study(tmp_path, networks, images=2000), monkeypatch)
    (table,) = [table for table in shown.tables if "Seconds to 90 %" in table]
    assert "in 3 of 3" in table
    assert {"tables/time_to.csv", "tables/time_to.md", "figures/accuracy_against_seconds.png"} <= set(page.files)
    (caption,) = [text for text in shown.texts if "against the seconds of training" in text]
    assert caption.startswith("**Figure ")
    assert "up to the last epoch (10)" in caption
    assert any("no stopping rule" in text for text in shown.texts)
    assert any("Test accuracy with test-time augmentation (%)" in table for table in shown.tables)
    assert any(text.startswith("Test-time augmentation") for text in shown.texts)
    assert "Seconds of a run (factor to resnet20)" in shown.everything


def test_without_them_one_sentence_says_that_no_run_came_so_far(tmp_path, monkeypatch):
    networks = {label: {**network, "accuracy": 0.8} for label, network in THREE.items()}
    shown, page = run_notebook(write_study(tmp_path, networks, images=200), monkeypatch)
    assert "*No finished run reaches 90 % test accuracy.*" in shown.texts
    assert "tables/time_to.md" not in page.files
    assert "stopping rule" not in shown.everything
    assert "augmentation" not in shown.everything


def test_pictures_are_shown_where_they_were_left(tmp_path, monkeypatch):
    study = load_results(write_study(tmp_path, images=200))
    chosen = examples.choose(study)
    assert len(chosen) > 8
    images = chosen["image"].to_numpy(int)[1:]  # the first one's is not there
    true = np.array([CIFAR10.index(name) for name in chosen["true"][1:]])
    pixels = np.zeros((len(images), 8, 8, 3), np.uint8)
    write_arrays(tmp_path / EXAMPLES, {"image": images, "true": true, "pixels": pixels})
    shown, page = run_notebook(tmp_path, monkeypatch)
    assert page.figures == 11
    assert f"Pictures of {len(images)} images" in shown.everything
    assert (tmp_path / "figures/examples.png").is_file()
    listed = (tmp_path / "tables/examples.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in listed] == ["Image", *map(str, images)]
    assert listed[0].endswith(",True class,Taken for,resnet20,se_resnet20,sk_resnet20")


def test_one_seed(tmp_path, monkeypatch):
    shown, page = run_notebook(write_study(tmp_path, seeds=(0,), images=200, epochs=3), monkeypatch)
    assert "Inconclusive" in shown.texts[1]
    assert "n = 1: no interval" in shown.everything
    assert "nan" not in shown.everything.lower().replace("resnan", "")
    assert page.figures == 10


def test_a_failed_and_a_missing_run(tmp_path, monkeypatch):
    error = "NonFiniteLoss: the loss is nan in epoch 3"
    missing = [f"sk_resnet20-seed{seed}" for seed in (0, 1, 2)]
    write_study(tmp_path, images=200, failed={"se_resnet20-seed1": error}, missing=missing)
    shown, _ = run_notebook(tmp_path, monkeypatch)
    assert "This study is incomplete" in shown.texts[1]
    assert shown.metadata[present.NOTICE] is True
    assert error in shown.tables[-1]
    assert "no finished run (of 3)" in shown.everything


def test_a_missing_baseline(tmp_path, monkeypatch):
    write_study(tmp_path, seeds=(0, 1), images=100, missing=["resnet20-seed0", "resnet20-seed1"])
    shown, _ = run_notebook(tmp_path, monkeypatch)
    assert "no two networks to compare yet" in shown.texts[2]


def test_no_finished_run(tmp_path, monkeypatch):
    write_study(tmp_path, seeds=(0,), missing=[f"{label}-seed0" for label in THREE])
    shown, page = run_notebook(tmp_path, monkeypatch)
    assert "No run of this study is finished" in shown.texts[1]
    assert "Nothing yet: none of the 3 planned runs is finished." in shown.texts[2]
    assert (shown.images, page.figures) == ([], 0)


def test_one_network_alone(tmp_path, monkeypatch):
    write_study(tmp_path, {"sk_resnet20": THREE["sk_resnet20"]}, seeds=(0, 1), images=100)
    shown, _ = run_notebook(tmp_path, monkeypatch)
    assert "there are no two networks to compare yet" in shown.texts[1]


def test_a_hundred_classes(tmp_path, monkeypatch):
    classes = [f"class {i}" for i in range(100)]
    shown, page = run_notebook(
        write_study(tmp_path, seeds=(0, 1), images=1000, classes=classes, data="cifar100"), monkeypatch
    )
    assert page.figures == 10
    assert len((tmp_path / "tables/class_accuracies.csv").read_text().splitlines()) == 1 + 3 * 100


def test_a_holdout_is_nowhere_called_test_accuracy(tmp_path, monkeypatch):
    shown, page = run_notebook(write_study(tmp_path, seeds=(0, 1), images=100, holdout=5000), monkeypatch)
    said = shown.everything.replace("are not test accuracies", "").replace("test set was not used", "")
    assert "alidation accuracy" in said
    assert not re.search(r"test (accurac|images|loss)", said, re.IGNORECASE)
    written = b"".join(content for name, content in page.files.items() if name.endswith(".md"))
    assert b"Test accuracy" not in written


def test_perfect_networks_have_no_spread_and_no_verdict(tmp_path, monkeypatch):
    networks = {label: {**network, "accuracy": 1.0} for label, network in THREE.items()}
    shown, _ = run_notebook(write_study(tmp_path, networks, images=100, spread=0.0), monkeypatch)
    assert "all seeds alike: no interval" in shown.texts[1]


# The report, with its kernel


class Reader(HTMLParser):
    """A page's tags with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A built report of a study with hostile names everywhere, a failed and a missing run; in a folder with braces."""
    folder = tmp_path_factory.mktemp("hostile") / "results {of} mine"
    evil = {**THREE["se_resnet20"], "published": {"accuracy": 0.87, "source": f"{EVIL} [a](javascript:alert(1))"}}
    networks = {"resnet20": THREE["resnet20"], EVIL: evil, "sk_resnet20": THREE["sk_resnet20"]}
    run_ids = [f"{EVIL}-seed{seed}".replace("/", "_") for seed in (0, 1, 2)]
    write_study(
        folder,
        networks,
        images=200,
        epochs=3,
        classes=(EVIL, '"><img src=x onerror=alert(1)>', "$x^2$", "a | b", "**bold**", *CIFAR10[5:]),
        failed={run_ids[1]: f"ValueError: {EVIL}\n\n## not a heading"},
        missing=["sk_resnet20-seed2"],
        question=f"Is {EVIL} better?",
        notes=f"Beware of {EVIL} and <b>this</b>.",
        name="hostile & co",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENET_ROOT", str(ROOT))
        built = build_report(folder)
    return built, built.read_text(encoding="utf-8")


def test_the_report_is_one_file_that_runs_and_loads_nothing(hostile):
    path, page = hostile
    assert path.name == "report.html"
    assert foreign_content(page) == []
    reader = Reader(page)
    tags = {tag for tag, _ in reader.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "svg", "b"}
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in reader.attributes("img"))
    assert "default-src 'none'" in page


def test_the_report_shows_hostile_names_as_text(hostile):
    text = "".join(Reader(hostile[1]).text)
    assert f"Is {EVIL} better?" in text
    assert f"Beware of {EVIL} and <b>this</b>." in text
    assert f"ValueError: {EVIL} ## not a heading" in text
    assert "**bold**" in text
    assert "$x^2$" in text


def test_the_report_says_what_is_missing_before_anything_else(hostile):
    text = "".join(Reader(hostile[1]).text)
    assert "7 of 9 planned runs are finished" in text
    assert text.index("This study is incomplete") < text.index("Asked:") < text.index("Found:")


def test_the_report_has_no_code_and_no_prompts(hostile):
    page = hostile[1]
    for code in ("page.figure(", "import ", "In [", "Out[", "results = ", "notebook-only"):
        assert code not in page


def test_every_image_has_an_alternative_text_and_every_section_a_link(hostile):
    reader = Reader(hostile[1])
    images = reader.attributes("img")
    assert len(images) == 10
    assert all(len(attrs["alt"]) > 40 for attrs in images)
    assert "accuracies are" in images[0]["alt"]
    sections = [attrs["id"] for attrs in reader.attributes("h2")]
    links = [attrs["href"] for attrs in reader.attributes("a") if attrs["href"].startswith("#")]
    assert [f"#{section}" for section in sections] == links
    assert len(sections) >= 10
    assert len(set(sections)) == len(sections)


def test_the_sections_are_in_the_readers_order(hostile):
    text = "".join(Reader(hostile[1]).text)
    titles = ("Found:", "Accuracy against cost", "Curves", "What is taken for what", "Class by class", "Statistics")
    titles += ("What it costs", "Published numbers beside ours", "Deviations and notes", "To reproduce", "Every run")
    places = [text.rindex(title) for title in titles]
    assert places == sorted(places)


def test_the_executed_copy_names_no_folder_of_this_machine(hostile):
    folder = hostile[0].parent
    copy = (folder / "analysis.ipynb").read_text(encoding="utf-8")
    assert str(folder) not in copy
    assert str(ROOT) not in copy
    notebook = nbformat.reads(copy, as_version=4)
    assert "papermill" not in notebook.metadata
    (injected,) = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert 'results = "."' in injected.source  # the copy can be run where it lies
    assert str(folder) not in hostile[1]


def test_the_same_results_give_the_same_bytes(hostile, monkeypatch):
    """In another process, without a kernel and papermill."""
    folder = hostile[0].parent
    before = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("[ft]*/*")}
    _, page = run_notebook(folder, monkeypatch, rendered=True)
    assert page.files.keys() == before.keys()
    assert len([name for name in before if name.endswith(".svg")]) == 10
    assert [name for name in before if before[name] != page.files[name]] == []


def test_a_figures_png_has_a_palette_that_keeps_the_paper_white_but_for_photographs():
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0, 1])
    whole = PIL.Image.open(io.BytesIO(present.rendered(figure, photographs=True)["png"]))
    reduced = PIL.Image.open(io.BytesIO(present.rendered(figure)["png"]))
    plt.close(figure)
    assert (whole.mode, reduced.mode) == ("RGBA", "P")
    assert whole.size == reduced.size
    shift = np.abs(np.asarray(whole.convert("RGB"), dtype=int) - np.asarray(reduced.convert("RGB")))
    assert shift.mean() < 1
    assert reduced.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_nothing_but_the_products_is_left_behind(hostile):
    names = {path.name for path in hostile[0].parent.iterdir()}
    assert names == {"analysis.ipynb", "figures", "report.html", "report.json", "runs", "study.json", "tables"}


def test_an_unchanged_study_is_not_executed_again(hostile, monkeypatch):
    monkeypatch.setattr(build, "_execute", lambda *arguments: pytest.fail("executed again"))
    before = hostile[0].stat().st_mtime_ns
    assert build_report(hostile[0].parent) == hostile[0]
    assert hostile[0].stat().st_mtime_ns == before


def test_the_check_of_an_unchanged_study_imports_nothing_heavy(hostile):
    code = (
        "import sys; from pathlib import Path; from senet_lib.report.build import build_report;"
        "build_report(Path(sys.argv[1]));"
        "print(sorted({'papermill', 'nbconvert', 'matplotlib', 'torch', 'scipy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(hostile[0].parent)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


class Executed(Exception):
    """Raised in place of an execution, to see that one would take place."""


@pytest.fixture
def would_execute(monkeypatch):
    def execute(*arguments):
        raise Executed

    monkeypatch.setattr(build, "_execute", execute)


@pytest.mark.parametrize("change", ["a run's summary", "study.json", "a figure is gone", "the page was edited"])
def test_a_changed_input_or_a_lost_output_is_noticed(hostile, would_execute, change):
    folder = hostile[0].parent
    path = {
        "a run's summary": folder / "runs/resnet20-seed0/summary.json",
        "study.json": folder / "study.json",
        "a figure is gone": folder / "figures/differences.svg",
        "the page was edited": hostile[0],
    }[change]
    content = path.read_bytes()
    try:
        path.unlink() if "gone" in change else path.write_bytes(content + b"\n")
        with pytest.raises(Executed):
            build_report(folder)
    finally:
        path.write_bytes(content)
    assert hostile[0].read_text(encoding="utf-8") == hostile[1]


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(FileNotFoundError, match="no study.json there"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


# When the notebook fails: small notebooks of the tests' own


def project_with(tmp_path, monkeypatch, *cells, parameter="results"):
    """A project whose analysis notebook has these code cells."""
    parameters = new_code_cell(f'{parameter} = ""  # a folder', metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[parameters, *map(new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "project/notebooks").mkdir(parents=True)
    nbformat.write(notebook, tmp_path / "project/notebooks/analysis.ipynb")
    monkeypatch.setenv("SENET_ROOT", str(tmp_path / "project"))


@pytest.fixture
def reported(tmp_path):
    """A results folder with an earlier, good report."""
    folder = tmp_path / "results"
    write_json(folder / "study.json", {"name": "small", "runs": []})
    (folder / "report.html").write_text("the earlier report")
    (folder / "analysis.ipynb").write_text("the earlier copy")
    return folder


@pytest.mark.parametrize(
    ("cells", "parameter", "message"),
    [
        (("1", 'raise ValueError("boom,\\n  twice")'), "results", r"cell \[4\] failed: ValueError: boom, twice$"),
        (("1",), "results", "ended before its last cell"),
        (("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "2"), "results", "DeadKernelError"),
        (("1",), "folder", "has no parameter results"),
    ],
    ids=["an error", "no last word", "a killed kernel", "another parameter"],
)
def test_a_failure_keeps_the_earlier_report(tmp_path, monkeypatch, reported, cells, parameter, message):
    project_with(tmp_path, monkeypatch, *cells, parameter=parameter)
    with pytest.raises(ReportError, match=message):
        build_report(reported)
    assert (reported / "report.html").read_text() == "the earlier report"
    assert (reported / "analysis.ipynb").read_text() == "the earlier copy"
    left = {path.name for path in reported.iterdir()} - {"study.json", "report.html", "analysis.ipynb"}
    assert left <= {"analysis.partial.ipynb"}


def test_outputs_of_an_earlier_report_that_are_no_longer_made_are_removed(tmp_path, monkeypatch, reported):
    said = {present.COMPLETE: ["figures/new.svg"]}
    project_with(
        tmp_path,
        monkeypatch,
        "from pathlib import Path\nfrom IPython.display import Markdown, display",
        'Path(results, "figures").mkdir(exist_ok=True); Path(results, "figures/new.svg").write_text("new")',
        f'display(Markdown("done"), metadata={said!r})',
    )
    (reported / "figures").mkdir()
    for name in ("old.svg", "of_another_notebook.svg"):
        (reported / "figures" / name).write_text(name)
    write_json(reported / "report.json", {"inputs": "other", "outputs": {"figures/old.svg": "0"}})
    (reported / "analysis.partial.ipynb").write_text("of an earlier failure")
    page = build_report(reported).read_text()
    assert "done" in page
    assert {path.name for path in (reported / "figures").iterdir()} == {"new.svg", "of_another_notebook.svg"}
    assert not (reported / "analysis.partial.ipynb").exists()
    assert set(read_json(reported / "report.json")["outputs"]) == {"analysis.ipynb", "report.html", "figures/new.svg"}


# The page


def page_of(*cells):
    return to_page(new_notebook(cells=list(cells)), "a study")


def shown(data, **metadata):
    return new_code_cell("secret()", outputs=[new_output("display_data", data, metadata=metadata)])


def test_formulas_become_mathml():
    page = page_of(new_markdown_cell("Inline $y = x^2$, and\n\n$$\\sum_c s_c$$"))
    assert page.count("<math") == 2
    assert 'display="block"' in page
    assert "$" not in page.split("<body>")[1]
    assert "<msup>" in page


def test_html_in_markdown_is_text():
    page = page_of(new_markdown_cell(f"before {EVIL} <img src=x onerror=alert(1)>"), shown({"text/markdown": EVIL}))
    assert "<script" not in page
    assert "".join(Reader(page).text).count(EVIL) == 2


def test_links_with_a_scheme_that_executes_lose_it():
    assert "javascript:" not in page_of(new_markdown_cell("[a](javascript:alert(1))")).replace("#harmful-link", "")


def test_html_output_other_than_our_tables_is_text():
    page = page_of(
        shown({"text/html": f"<table><tr><td>{EVIL}</td></tr></table>"}),
        shown({"text/html": '<table><tr><td onclick="x()">1</td></tr></table>'}),
        shown({"text/html": "<table><tr><td>fine</td></tr></table>"}),
    )
    assert len(Reader(page).attributes("td")) == 1
    assert foreign_content(page) == []


def test_what_only_a_notebook_needs_and_what_went_wrong_inside_is_left_out():
    warning = new_output("stream", name="stderr", text="a warning")
    page = page_of(
        new_markdown_cell("for the notebook", metadata={"tags": ["notebook-only"]}),
        new_code_cell("secret()", outputs=[warning, new_output("stream", name="stdout", text="printed <b>")]),
    )
    assert "for the notebook" not in page
    assert "secret" not in page
    assert "a warning" not in page
    assert "printed &lt;b&gt;" in page


@pytest.mark.parametrize(
    "fragment",
    [
        "<script src='x.js'></script>",
        "<img src='http://example.org/a.png' alt=''>",
        "<p onclick='x()'>",
        "<link rel='stylesheet' href='x.css'>",
        "<a href='javascript:alert(1)'>",
        "<a href=' java\nscript:alert(1)'>",
        "<iframe srcdoc='x'></iframe>",
        "<img src='data:text/html,x'>",
        "<style>@import 'x.css'</style>",
        "<style>p { background: url(x.png) }</style>",
        "<svg><image href='x.png'/></svg>",
    ],
)
def test_foreign_content_is_found(fragment):
    assert foreign_content(f"<html><body>{fragment}</body></html>")


def test_links_and_embedded_images_are_not_foreign():
    assert (
        foreign_content("<a href='https://arxiv.org'>x</a><a href='#y'>y</a><img src='data:image/png;base64,aa'>") == []
    )


def test_a_page_that_would_load_something_is_not_written(monkeypatch):
    monkeypatch.setattr(html_page, "_markdown", lambda text: "<script>1</script>")
    with pytest.raises(ReportError, match="not be self-contained: <script>"):
        page_of(new_markdown_cell("x"))


def test_the_library_list_of_the_stamp_is_what_the_notebook_imports():
    """A module that the notebook comes to use must make the report stale when it changes."""
    imports = "\n".join(
        cell.source
        for cell in nbformat.read(NOTEBOOK, as_version=4).cells
        if cell.cell_type == "code" and "notebook-only" not in cell.metadata.get("tags", [])
    )
    lines = [line for line in imports.splitlines() if line.startswith(("import ", "from "))]
    code = (
        "\n".join(lines)
        + "\nimport sys, json\nprint(json.dumps([m for m in sys.modules if m.startswith('senet_lib.')]))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    used = [module.removeprefix("senet_lib.").replace(".", "/") for module in json.loads(found.stdout)]
    assert "analysis/stats" in used
    for module in used:
        assert {module.split("/")[0], f"{module}.py", f"{module}/__init__.py"} & set(build.LIBRARY), module
