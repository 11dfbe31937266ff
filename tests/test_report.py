"""The analysis notebook and the report built from it: for whole, incomplete and hostile studies."""

import ast
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import papermill
import PIL.Image
import pytest
from IPython.display import HTML, Image, Markdown
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from synthetic import CIFAR10, THREE, write_study

from senet_lib.analysis import examples, markup, stats, tables
from senet_lib.analysis.plots import fonts
from senet_lib.files import read_json, write_arrays, write_json
from senet_lib.report import build, html_page
from senet_lib.report import page as present
from senet_lib.report.build import build_report
from senet_lib.report.html_page import ReportError, foreign_content, to_page
from senet_lib.results import EXAMPLES, load_results, write_summary

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "report.md"
EVIL = "<script>alert('x')</script>"
TWO = {label: THREE[label] for label in ("resnet20", "sk_resnet20")}
ACCURACIES = {"resnet20": (0.905, None), "se_resnet20": (0.925, 0.01), "sk_resnet20": (0.945, 0.01)}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.setenv("SENET_ROOT", str(ROOT))


# The notebook, without a kernel


class Shown:
    """What the notebook displayed: by kind, and all of it as the text of one page."""

    def __init__(self):
        self.texts, self.tables, self.images, self.metadata, self.page = [], [], [], {}, []

    def __call__(self, output, metadata=None):
        kinds = {Markdown: self.texts, HTML: self.tables, Image: self.images}
        kinds[type(output)].append(output if isinstance(output, Image) else output.data)
        self.metadata |= metadata or {}
        self.page.append(f"![{output.alt}]()" if isinstance(output, Image) else output.data)

    @property
    def text(self):
        return "\n\n".join(part.strip() for part in self.page) + "\n"


def run_notebook(name, parameters, monkeypatch, *, every=0):
    """Run a notebook's code in this process and render `every` n-th of its figures. Returns what it shows, its Page."""
    shown, names, counter, render = Shown(), {}, itertools.count(), present.rendered

    def rendered(figure, **options):
        return render(figure, **options) if every and next(counter) % every == 0 else dict.fromkeys(("svg", "png"), b"")

    monkeypatch.setattr(present, "display", shown)
    monkeypatch.setattr(present, "rendered", rendered)
    (source,) = (ROOT / "notebooks").glob(f"*_{name}.ipynb")
    for cell in nbformat.read(source, as_version=4).cells:
        if cell.id == "colab" or "notebook-only" in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            shown.page.append(cell.source)
            continue
        exec(compile(cell.source, f"<cell {cell.id}>", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= parameters
    return shown, names["page"]


def analyse(folder, monkeypatch, **options):
    return run_notebook("analysis", {"results": str(folder)}, monkeypatch, **options)


def golden_page(folder):
    """The text of a report with every kind of finding: a failed and a missing run, published accuracies,
    test-time augmentation, thresholds reached, and stored pictures. Also what was shown, and the Page."""
    networks = {
        label: {**THREE[label], "accuracy": accuracy, "tta_gain": gain}
        for label, (accuracy, gain) in ACCURACIES.items()
    }
    networks["resnet20"]["published"] = {"accuracy": 0.9125, "source": "a paper, 164 epochs", "runs": 1}
    failed, missing = {"se_resnet20-seed1": "NonFiniteLoss: the loss is nan in epoch 3"}, ["sk_resnet20-seed3"]
    write_study(folder, networks, seeds=(0, 1, 2, 3), images=2000, failed=failed, missing=missing)
    results = load_results(folder)
    environment = {"versions": {"torch": "1.2.3"}, "device": "cpu", "precision": "fp32", "threads": 2}
    environment |= {"git_commit": "0123abc", "data": {"name": "cifar10", "fingerprints": results.study["fingerprints"]}}
    for run_id in results.done["run_id"]:
        write_json(folder / "runs" / run_id / "environment.json", environment)
        write_summary(folder / "runs" / run_id, read_json(folder / "runs" / run_id / "summary.json"))
    chosen = examples.choose(results)[1:]  # the picture of the first one is not stored
    arrays = {
        "image": chosen["image"].to_numpy(int),
        "true": np.array([CIFAR10.index(name) for name in chosen["true"]]),
    }
    write_arrays(folder / EXAMPLES, arrays | {"pixels": np.zeros((len(chosen), 8, 8, 3), np.uint8)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(present, "to_html", markup.to_markdown)
        shown, page = analyse(folder, patch)
    return shown.text, shown, page


def test_report_equals_the_golden_page(tmp_path):
    text, shown, page = golden_page(tmp_path)
    assert text == GOLDEN.read_text(encoding="utf-8"), "intended? run tests/golden/write_report.py"
    captions = [text for text in shown.texts if re.match(r"\*\*(Figure|Table) \d+", text)]
    assert len(captions) == page.figures + page.tables
    assert len(shown.images) == page.figures == 11
    for image in shown.images:  # the finding, not the caption again
        assert len(image.alt) > 40 and re.search(r"\d %|\d pp|\d s|points|losses", image.alt), image.alt
        assert not any(image.alt in present._bare(caption) for caption in captions)
    assert all("n\N{NO-BREAK SPACE}=" in caption for caption in captions if caption.startswith("**Figure"))
    assert shown.metadata[present.NOTICE] is True
    assert shown.metadata[present.COMPLETE] == sorted(page.files)
    assert all((tmp_path / name).is_file() for name in page.files)
    assert "0.9125" in (tmp_path / "tables/networks.csv").read_text()
    listed = (tmp_path / "tables/examples.csv").read_text().splitlines()
    assert len(listed) == len(examples.choose(load_results(tmp_path)))


def test_labels_may_be_column_names(tmp_path, monkeypatch):
    labels = ("first", "second", "label", "index", "Image", "nan")
    networks = {label: {**THREE["resnet20"], "accuracy": 0.8 + 0.01 * i} for i, label in enumerate(labels)}
    folder = write_study(tmp_path, networks, seeds=(0, 1), images=200, epochs=2)
    results = load_results(folder)
    chosen = examples.choose(results)
    pictures = np.zeros((len(chosen), 4, 4, 3), np.uint8)
    true = np.array([CIFAR10.index(name) for name in chosen["true"]])
    write_arrays(folder / EXAMPLES, {"image": chosen["image"].to_numpy(int), "true": true, "pixels": pictures})
    shown, page = analyse(folder, monkeypatch)
    listed = pd.read_csv(folder / "tables" / "confused_pairs.csv", keep_default_na=False)
    assert list(listed.columns) == [*tables.CLASS_PAIR, *labels]
    networks = pd.read_csv(folder / "tables" / "networks.csv", keep_default_na=False)
    assert list(networks["label"]) == list(labels)
    assert set(labels) <= set((folder / "tables/examples.csv").read_text().splitlines()[0].split(","))


def test_edge_case_studies_are_reported(tmp_path, monkeypatch):
    """One seed on a validation split, untimed; no baseline; many classes without errors; no finished run."""
    folder = write_study(tmp_path / "single", seeds=(0,), images=100, epochs=3, holdout=5000)
    write_json(folder / "study.json", read_json(folder / "study.json") | {"timed": False})
    shown, page = analyse(folder, monkeypatch)
    assert page.figures == 8 and "no comparison has a confidence interval (n = 1)" in shown.text
    assert "alidation accuracy" in shown.text
    said = re.sub(r"(?m)^- .*test accuracies.*$", "", shown.text)  # the note that these are not test accuracies
    assert not re.search(r"test (accurac|images|loss)", said, re.IGNORECASE)
    assert "tables/time_to.md" not in page.files and "figures/seconds_per_epoch.png" not in page.files
    assert not re.search(r"\bnan\b", shown.text.lower())

    baseline = ["resnet20-seed0", "resnet20-seed1"]
    write_study(tmp_path / "no baseline", seeds=(0, 1), images=100, epochs=2, classes=CIFAR10[:3], missing=baseline)
    shown, page = analyse(tmp_path / "no baseline", monkeypatch)
    assert page.figures == 9 and "tables/comparisons.md" not in page.files

    perfect = {label: {**THREE[label], "accuracy": 1.0} for label in ("resnet20", "sk_resnet20")}
    classes = [f"class {i}" for i in range(100)]
    options = {"seeds": (0, 1), "images": 500, "classes": classes, "data": "cifar100", "epochs": 2, "spread": 0.0}
    shown, page = analyse(write_study(tmp_path / "perfect", perfect, **options), monkeypatch)
    assert page.figures == 10 and stats.NO_SPREAD in shown.text
    assert len((tmp_path / "perfect/tables/class_accuracies.csv").read_text().splitlines()) == 1 + 2 * 100

    write_study(tmp_path / "nothing", seeds=(0,), missing=[f"{label}-seed0" for label in THREE])
    shown, page = analyse(tmp_path / "nothing", monkeypatch)
    assert (shown.images, page.figures) == ([], 0) and "0 of 3" in shown.text


def test_notebook_runs_at_its_defaults(tmp_path, monkeypatch):
    """From notebooks/, in a clone that has only the published studies, which it leaves unchanged."""
    (tmp_path / "notebooks").mkdir()
    default = papermill.inspect_notebook(str(ROOT / "notebooks/08_analysis.ipynb"))["results"]["default"].strip('"')
    write_study(tmp_path / "notebooks" / default, TWO, seeds=(0,), images=50, epochs=1)
    assert (ROOT / "notebooks" / default / "study.json").is_file()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.chdir(tmp_path / "notebooks")
    shown, page = run_notebook("analysis", {}, monkeypatch)
    assert page.figures and page.files and present.COMPLETE not in shown.metadata
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_many_configurations_and_unknown_scripts(tmp_path, monkeypatch):
    networks = {f"n{i}": {**THREE["resnet20"], "accuracy": 0.5 + 0.04 * i} for i in range(tables.MANY + 2)}
    name = "\N{LINEAR A SIGN AB001}"
    folder = write_study(tmp_path, networks, seeds=(0,), images=60, classes=("cat", name, "dog"), epochs=2)
    drawn = {}
    monkeypatch.setattr(present.Page, "figure", lambda page, axes, name, caption, **options: drawn.update({name: axes}))
    shown, page = analyse(folder, monkeypatch)
    plt.close("all")
    assert "accuracies" in drawn and "accuracy_against_cost" not in drawn
    assert len(drawn["accuracies"].containers) == len(networks)
    assert len(drawn["confusion_matrices"]) == len(drawn["curves_by_network"]) <= 7
    if fonts.undrawable([name]):
        assert f"class 2: {name}" in shown.text
        ticks = drawn["confusion_matrices"][0].get_yticklabels()
        assert [tick.get_text() for tick in ticks] == ["cat", "class 2", "dog"]


def test_missing_results_name_the_command(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="make reproduce"):
        analyse(tmp_path / "quick", monkeypatch)
    with pytest.raises(FileNotFoundError, match="make reproduce"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


# The report, with its kernel


class Reader(HTMLParser):
    """A page's tags with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)
        self.close()
        self.text = "".join(self.texts)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report of a study with hostile names everywhere, a failed and a missing run, in a folder with braces."""
    folder = tmp_path_factory.mktemp("hostile") / "results {of} mine"
    evil = {**THREE["se_resnet20"], "published": {"accuracy": 0.87, "source": f"{EVIL} [a](javascript:alert(1))"}}
    run_ids = [f"{EVIL}-seed{seed}".replace("/", "_") for seed in (0, 1)]
    write_study(
        folder,
        {"resnet20": THREE["resnet20"], EVIL: evil},
        seeds=(0, 1),
        images=100,
        epochs=3,
        classes=(EVIL, '"><img src=x onerror=alert(1)>', "$x^2$", "a | b", "**bold**"),
        failed={run_ids[1]: f"ValueError: {EVIL}\n\n## not a heading"},
        missing=["resnet20-seed1"],
        question=f"Is {EVIL} better?",
        notes=f"Beware of {EVIL} and <b>this</b>.",
        name="hostile & co",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SENET_ROOT", str(ROOT))
        path = build_report(folder)
    return path, path.read_text(encoding="utf-8")


def test_hostile_names_are_text_in_the_report(hostile):
    page, reader = hostile[1], Reader(hostile[1])
    assert foreign_content(page) == []
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "embed", "form", "svg", "b"}
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in reader.attributes("img"))
    assert "default-src 'none'" in page
    error = f"ValueError: {EVIL} ## not a heading"
    for part in (f"Is {EVIL} better?", f"Beware of {EVIL} and <b>this</b>.", error, "**bold**", "$x^2$"):
        assert part in reader.text


def test_report_structure(hostile):
    page, reader = hostile[1], Reader(hostile[1])
    assert reader.text.index("2 of 4") < reader.text.index("better?")  # what is missing comes first
    for code in ("page.figure(", "import ", "In [", "Out[", "results = ", "notebook-only"):
        assert code not in page
    boxes = [attrs for attrs in reader.attributes("div") if attrs.get("class") == "scroll"]
    assert boxes and all(attrs["tabindex"] == "0" and attrs["role"] == "region" for attrs in boxes)
    assert [attrs["aria-label"] for attrs in boxes] == [f"Table {i}" for i in range(1, len(boxes) + 1)]
    assert len(reader.attributes("summary")) == len(reader.attributes("img"))  # opens the figure on a phone
    images = reader.attributes("img")
    assert len(images) == 10 and all(len(attrs["alt"]) > 40 for attrs in images)
    sections = [attrs["id"] for attrs in reader.attributes("h2")]
    links = [attrs["href"] for attrs in reader.attributes("a") if attrs["href"].startswith("#")]
    assert links == [f"#{section}" for section in sections]
    assert len(set(sections)) == len(sections) >= 10


def test_report_is_portable(hostile):
    folder = hostile[0].parent
    names = {path.name for path in folder.iterdir()}
    assert names == {"analysis.ipynb", "figures", "report.html", "report.json", "runs", "study.json", "tables"}
    copy = (folder / "analysis.ipynb").read_text(encoding="utf-8")
    for text in (copy, hostile[1]):
        assert str(folder) not in text and str(ROOT) not in text
    notebook = nbformat.reads(copy, as_version=4)
    assert "papermill" not in notebook.metadata
    (injected,) = [c for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert 'results = "."' in injected.source  # runs where it is


def test_equal_results_give_equal_bytes(hostile, tmp_path, monkeypatch):
    """In another process, without a kernel and papermill."""
    folder = shutil.copytree(hostile[0].parent, tmp_path / "copy")
    before = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("[ft]*/*")}
    _, page = analyse(folder, monkeypatch, every=3)
    assert page.files.keys() == before.keys()
    drawn = [name for name, content in page.files.items() if content]
    assert len([name for name in drawn if name.endswith(".svg")]) == 4
    assert [name for name in drawn if before[name] != page.files[name]] == []


def test_png_palette_keeps_white():
    figure, ax = plt.subplots()
    ax.plot([0, 1], [0, 1])
    whole = PIL.Image.open(io.BytesIO(present.rendered(figure, photographs=True)["png"]))
    reduced = PIL.Image.open(io.BytesIO(present.rendered(figure)["png"]))
    plt.close(figure)
    assert (whole.mode, reduced.mode, whole.size) == ("RGBA", "P", reduced.size)
    shift = np.abs(np.asarray(whole.convert("RGB"), dtype=int) - np.asarray(reduced.convert("RGB")))
    assert shift.mean() < 1
    assert reduced.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_compact_svg_draws_the_same():
    figure, ax = plt.subplots()
    ax.plot([0, 0.00123], [-1.5, 1e6], label="ÄÖ $x^2$")
    ax.imshow(np.eye(3), extent=(0, 0.001, 0, 5e5), aspect="auto")
    ax.legend()
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    svg = file.getvalue().decode()
    compact = present.compact_svg(svg)
    assert len(compact) < 0.85 * len(svg) and present.compact_svg(compact) == compact
    for one, other in zip(ElementTree.fromstring(svg).iter(), ElementTree.fromstring(compact).iter(), strict=True):
        assert one.tag == other.tag
        numbers = []
        for element in (one, other):
            place = re.fullmatch(r"translate\((\S+) (\S+)\)", element.get("transform", ""))
            x, y = place.groups() if place else (element.get("x", 0), element.get("y", 0))
            found = [element.get(name, "") for name in ("d", "style", "points", "width", "height")]
            found += [] if place else [element.get("transform", "")]
            numbers.append([float(x), float(y), *map(float, re.findall(r"-?\b\d+(?:\.\d+)?\b", " ".join(found)))])
        assert numbers[1] == pytest.approx(numbers[0], abs=0.00501), one.attrib


def test_only_changed_reports_are_built_again(hostile, monkeypatch):
    folder = hostile[0].parent
    code = (
        "import sys; from pathlib import Path; from senet_lib.report.build import build_report;"
        "build_report(Path(sys.argv[1]));"
        "print(sorted({'papermill', 'nbconvert', 'matplotlib', 'torch', 'scipy'} & set(sys.modules)))"
    )
    before = hostile[0].stat().st_mtime_ns
    command = [sys.executable, "-c", code, str(folder)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"  # heavy imports
    assert hostile[0].stat().st_mtime_ns == before

    class Executed(Exception):
        pass

    def execute(*arguments):
        raise Executed

    monkeypatch.setattr(build, "_execute", execute)
    for name in ("runs/resnet20-seed0/summary.json", "study.json", "report.html", "figures/differences.svg"):
        path = folder / name
        content = path.read_bytes()
        path.unlink() if path.suffix == ".svg" else path.write_bytes(content + b"\n")
        try:
            with pytest.raises(Executed):
                build_report(folder)
        finally:
            path.write_bytes(content)
        assert build_report(folder) == hostile[0], name


def test_stamp_covers_imported_modules():
    """A module that the notebook imports makes the report stale when it changes. And none imports torch."""
    cells = nbformat.read(ROOT / "notebooks" / "08_analysis.ipynb", as_version=4).cells
    sources = [c.source for c in cells if c.cell_type == "code" and "notebook-only" not in c.metadata.get("tags", [])]
    statements = [statement for source in sources for statement in ast.parse(source).body]
    imports = [ast.unparse(found) for found in statements if isinstance(found, ast.Import | ast.ImportFrom)]
    code = "\n".join([*imports, "import sys, json", "print(json.dumps(list(sys.modules)))"])
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules = json.loads(found.stdout)
    assert "torch" not in modules
    used = [name.removeprefix("senet_lib.").replace(".", "/") for name in modules if name.startswith("senet_lib.")]
    assert "analysis/stats" in used
    for module in used:
        assert {module.split("/")[0], f"{module}.py", f"{module}/__init__.py"} & set(build.LIBRARY), module


# Failing notebooks


def project_with(root, monkeypatch, *cells, parameter="results"):
    """A project whose analysis notebook has these code cells."""
    parameters = new_code_cell(f'{parameter} = ""  # a folder', metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[parameters, *map(new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, root / "notebooks/08_analysis.ipynb")
    monkeypatch.setenv("SENET_ROOT", str(root))


@pytest.fixture
def reported(tmp_path):
    """A results folder with an earlier, good report."""
    folder = tmp_path / "results"
    write_json(folder / "study.json", {"name": "small", "runs": []})
    (folder / "report.html").write_text("the earlier report")
    (folder / "analysis.ipynb").write_text("the earlier copy")
    return folder


def test_failures_keep_the_earlier_report(tmp_path, monkeypatch, reported):
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    for cells, parameter, message in (
        (("1", 'raise ValueError("boom,\\n  twice")'), "results", r"cell \[4\].*ValueError: boom, twice$"),
        (("1",), "results", "before its last cell"),
        ((killed, "2"), "results", "DeadKernelError"),
        (("1",), "folder", "no parameter results"),
    ):
        project_with(tmp_path / "project", monkeypatch, *cells, parameter=parameter)
        with pytest.raises(ReportError, match=message):
            build_report(reported)
        assert (reported / "report.html").read_text() == "the earlier report"
        assert (reported / "analysis.ipynb").read_text() == "the earlier copy"
        left = {path.name for path in reported.iterdir()} - {"study.json", "report.html", "analysis.ipynb"}
        assert left <= {"analysis.partial.ipynb"}


def test_outdated_outputs_are_removed(tmp_path, monkeypatch, reported):
    metadata = {present.COMPLETE: ["figures/new.svg"]}
    project_with(
        tmp_path / "project",
        monkeypatch,
        "from pathlib import Path\nfrom IPython.display import Markdown, display",
        'Path(results, "figures").mkdir(exist_ok=True); Path(results, "figures/new.svg").write_text("new")',
        f'display(Markdown("done"), metadata={metadata!r})',
    )
    (reported / "figures").mkdir()
    for name in ("old.svg", "of_another_notebook.svg"):
        (reported / "figures" / name).write_text(name)
    write_json(reported / "report.json", {"inputs": "other", "outputs": {"figures/old.svg": "0"}})
    (reported / "analysis.partial.ipynb").write_text("of an earlier failure")
    assert "done" in build_report(reported).read_text()
    assert {path.name for path in (reported / "figures").iterdir()} == {"new.svg", "of_another_notebook.svg"}
    assert not (reported / "analysis.partial.ipynb").exists()
    assert set(read_json(reported / "report.json")["outputs"]) == {"analysis.ipynb", "report.html", "figures/new.svg"}


# The HTML page


def page_of(*cells):
    return to_page(new_notebook(cells=list(cells)), "a study")


def output(data):
    return new_code_cell("secret()", outputs=[new_output("display_data", data)])


def test_formulas_become_mathml():
    page = page_of(new_markdown_cell("Inline $y = x^2$, and\n\n$$\\sum_c s_c$$"))
    assert page.count("<math") == 2
    assert 'display="block"' in page and "<msup>" in page
    assert "$" not in page.split("<body>")[1]


def test_foreign_markup_becomes_text():
    source = f"before {EVIL} <img src=x onerror=alert(1)> [a](javascript:alert(1))"
    page = page_of(new_markdown_cell(source), output({"text/markdown": EVIL}))
    assert "<script" not in page
    assert "javascript:alert" not in {attrs.get("href") for attrs in Reader(page).attributes("a")}
    assert Reader(page).text.count(EVIL) == 2
    page = page_of(
        output({"text/html": f"<table><tr><td>{EVIL}</td></tr></table>"}),
        output({"text/html": '<table><tr><td onclick="x()">1</td></tr></table>'}),
        output({"text/html": "<table><tr><td>fine</td></tr></table>"}),
    )
    assert len(Reader(page).attributes("td")) == 1
    assert foreign_content(page) == []


def test_code_and_warnings_are_left_out():
    warning = new_output("stream", name="stderr", text="a warning")
    page = page_of(
        new_markdown_cell("for the notebook", metadata={"tags": ["notebook-only"]}),
        new_code_cell("secret()", outputs=[warning, new_output("stream", name="stdout", text="printed <b>")]),
    )
    assert not [text for text in ("for the notebook", "secret", "a warning") if text in page]
    assert "printed &lt;b&gt;" in page


def test_foreign_content_is_found(monkeypatch):
    for fragment in (
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
    ):
        assert foreign_content(f"<html><body>{fragment}</body></html>"), fragment
    fine = "<a href='https://arxiv.org'>x</a><a href='#y'>y</a><img src='data:image/png;base64,aa'>"
    assert foreign_content(fine) == []
    monkeypatch.setattr(html_page, "_markdown", lambda text: "<script>1</script>")
    with pytest.raises(ReportError, match="self-contained: <script>"):
        page_of(new_markdown_cell("x"))
