"""The project's other files agree with one another: lock, Makefile, generated pages, links, badges."""

import importlib.util
import json
import re
import shutil
import subprocess

import nbformat
import pytest
from synthetic import SOURCE_A, SOURCE_A_COMPARISONS, THREE, write_study

from senet_lib.analysis import sentences, tables
from senet_lib.analysis.comparisons import without_uncompared
from senet_lib.project import project_root
from senet_lib.report import results_pages as pages
from senet_lib.results import load_results

ROOT = project_root()
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md"), *ROOT.glob("benchmarks/*.md")])


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_environment_yml_matches_the_lock():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert text == tool("environment_yml").environment(lock)
    packages = re.split(r"\n(?=[A-Za-z0-9])", lock.strip())
    assert len(packages) > 50
    for package in packages:
        assert f'"{package.split()[0]}' in text
        assert "--hash=sha256:" in package, package


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    listed = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert {line.split()[0] for line in listed.splitlines() if line and line[0].islower()} == targets


def test_pages_show_the_committed_numbers():
    assert pages.stale(ROOT) == [], "stale: run python -m senet_lib.report.results_pages"


def test_repository_stays_small():
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = [path.stat().st_size for name in files.split("\0") if name and (path := ROOT / name).is_file()]
    assert 0 < sum(sizes) < 20 * 2**20
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


def test_readme_says_which_studies_have_results():
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Studies\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    stated = {name: cells[-1].strip() for cells in rows for name in re.findall(r"`(\w+)`", cells[0])}
    assert set(stated) == {path.stem for path in ROOT.glob("studies/*.yaml")} - {"quick"}
    for name, said in stated.items():
        published = (ROOT / "results" / "published" / name / "study.json").is_file()
        archived = (ROOT / "results" / "archive" / f"{name}.zip").is_file()
        assert said.startswith("published") == published, name
        assert (said == "not trained yet") == (not published and not archived), name


def test_links_lead_to_existing_files():
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    for path in (*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("results/published/notebooks/*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        texts[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for page, whole in texts.items():
        text = re.sub(r"```.*?```", "", whole, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith(("http://", "https://", "#")):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


README = "# Title\n\n<!-- found -->\nold\n<!-- /found -->\n\n<!-- headline -->\n<!-- /headline -->\n"


def publish_made_up(root, name, **options):
    return write_study(root / "results" / "published" / name, images=200, name=name, **options)


def test_published_study_enters_the_pages(tmp_path):
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "results").mkdir()
    readme, results = pages.pages(tmp_path).values()
    assert "old" not in readme
    assert "`source_a_short`" in readme, "an open question"

    publish_made_up(tmp_path, "source_a_narrow", question="What of the small one?")
    publish_made_up(tmp_path, "another", question="What of another?")
    pages.main(tmp_path)
    readme, results = ((tmp_path / name).read_text(encoding="utf-8") for name in ("README.md", "results/README.md"))
    assert "What of the small one?" in readme
    assert "`source_a_short`" not in readme
    publish_made_up(tmp_path / "one", "source_a_narrow", seeds=[0])
    one_seed = load_results(tmp_path / "one" / "results" / "published" / "source_a_narrow")
    question, first_values = pages.found({"source_a_narrow": one_seed}).splitlines()
    assert "`source_a_short`" in question and "n = 1 seed" in first_values.replace("\N{NO-BREAK SPACE}", " ")
    assert re.findall(r"### `(\w+)`", results) == ["another", "source_a_narrow"]
    study = load_results(tmp_path / "results" / "published" / "another")
    found = tables.compare(study)
    assert pages.networks_table(study, found) in results
    assert len(found) == 2
    for pair in found:
        assert sentences.one_verdict(pair) in results
    assert pages.stale(tmp_path) == []
    publish_made_up(tmp_path, "third")
    assert pages.stale(tmp_path) == [tmp_path / "results" / "README.md"]


def test_fast_without_intervals_enters_the_readme(tmp_path):
    labels = ("fast", "se_fast", "sk_fast", "fast_wide")
    networks = dict.fromkeys(labels, THREE["resnet20"])
    comparisons = [("se_fast", "fast"), ("sk_fast", "fast"), ("sk_fast", "fast_wide")]
    publish_made_up(tmp_path, "fast", networks=networks, comparisons=comparisons, seeds=[0])
    fast = load_results(tmp_path / "results" / "published" / "fast")
    said = pages.found({"fast": fast}).splitlines()[-1]
    assert "SE and SK change the accuracy by these percentage points" in said and "n = 1: no interval" in said


def test_source_a_heads_the_readme_once_it_has_three_seeds(tmp_path):
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "results").mkdir()
    known = {"networks": SOURCE_A, "comparisons": SOURCE_A_COMPARISONS, "question": "What of the small one?"}
    publish_made_up(tmp_path, "source_a_narrow", seeds=(0,), **known)
    readme = pages.pages(tmp_path)[tmp_path / "README.md"]
    for said in ("resnet50 ", "No difference between them has a confidence interval yet.", "will answer them"):
        assert said in readme
    assert "What of the small one?" not in readme

    shutil.rmtree(tmp_path / "results" / "published")
    publish_made_up(tmp_path, "source_a_narrow", seeds=(0, 1), **known)
    readme = pages.pages(tmp_path)[tmp_path / "README.md"]
    assert "SENet50 to 95.05 % and SKNet50 to 89.81 %" in readme, "source A's own accuracies"
    assert "of that size.\n  - SE in" in readme and "What of the small one?" not in readme

    shutil.rmtree(tmp_path / "results" / "published")
    publish_made_up(tmp_path, "source_a_narrow", **known)
    readme = pages.pages(tmp_path)[tmp_path / "README.md"]
    for pair in tables.compare(load_results(tmp_path / "results" / "published" / "source_a_narrow")):
        said = f"{pair.verdict}, {sentences.change(pair.difference)}"
        assert (said in readme) == ((pair.treatment, pair.baseline) in pages.SOURCE_A_EFFECTS), pair.treatment
    assert "What of the small one?" in readme and "will answer them" not in readme
    rows = re.findall(r"^\| (\w+) \| \d", readme, flags=re.MULTILINE)
    expected = [label for label in pages.SOURCE_A_NETWORKS if label in SOURCE_A]
    assert rows[: len(expected)] == expected and sorted(rows) == sorted(SOURCE_A)


def test_readme_names_the_verdicts_that_rest_on_networks_in_no_comparison():
    results = load_results(ROOT / "results" / "published" / "source_a_narrow")
    found = tables.compare(results)
    _, again = without_uncompared(results, found)
    assert again, "otherwise this test needs another study"
    (said,) = [line for line in pages.found({"source_a_narrow": results}).splitlines() if "Sensitivity: " in line]
    for before, after in zip(found, again, strict=True):
        named = f"{after.verdict}, {sentences.change(after.difference)}" in said
        assert named == (before.verdict != after.verdict), after.treatment


def test_tuned_configuration_needs_a_decision(tmp_path, capsys):
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    publish_made_up(tmp_path, "a_tuning", holdout=5000)
    (tmp_path / "results" / "tuning.md").write_text("<!-- table -->\n<!-- /table -->\n", encoding="utf-8")
    decisions = tmp_path / "results" / "tuning_decisions.csv"
    header = "study,network,change,decision,rule,declared\n"
    rows = "a_tuning,resnet20,base,baseline,,none\na_tuning,se_resnet20,SE,not adopted,highest mean,before\n"
    decisions.write_text(header + rows, encoding="utf-8")
    with pytest.raises(ValueError, match="a_tuning / sk_resnet20"):
        pages.pages(tmp_path)
    decisions.write_text(header + rows + "a_tuning,sk_resnet20,SK,adopted,highest mean,broken\n", encoding="utf-8")
    table = pages.pages(tmp_path)[tmp_path / "results" / "tuning.md"]
    assert "| a_tuning | sk_resnet20 | SK |" in table
    assert "R1: highest mean" in table
    assert "| adopted | R1, broken |" in table
    decisions.write_text(decisions.read_text() + "later_tuning,resnet20,base,baseline,,none\n", encoding="utf-8")
    shutil.rmtree(tmp_path / "results" / "published")
    publish_made_up(tmp_path, "a_tuning", holdout=5000, missing=[f"se_resnet20-seed{seed}" for seed in range(3)])
    rows = pages.pages(tmp_path)[tmp_path / "results" / "tuning.md"].splitlines()
    assert [row for row in rows if "later_tuning" in row] == [], "not stored yet"
    assert sum("| no finished run |" in row for row in rows) == 1
    assert "`a_tuning`" not in pages.pages(tmp_path)[tmp_path / "results" / "README.md"]
    decisions.write_text(header, encoding="utf-8")
    assert pages.main(tmp_path) == 2
    assert capsys.readouterr().err.startswith("error: tuning_decisions.csv has no row for a_tuning / resnet20")


def test_make_variables_that_say_no_mean_no():
    for said, given in (("", False), ("0", False), ("no", False), ("false", False), ("1", True), ("yes", True)):
        for target, variable, option in (
            ("reproduce", "NO_WAIT", "--no-wait"),
            ("bundle", "CHECKPOINTS", "--checkpoints"),
        ):
            command = ["make", "--dry-run", target, "VENV=", f"{variable}={said}"]
            printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            assert (option in printed) == given, (variable, said)


def test_badges_are_replaced_and_nothing_else(tmp_path, capsys):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    badges, before = tool("badges"), (tmp_path / "README.md").read_bytes()
    assert badges.main("no-slash", tmp_path) == 2
    assert "owner/name" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_bytes() == before

    assert badges.main("some/where", tmp_path) == 0
    assert badges.main("owner/name", tmp_path) == 0
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "some/where" not in readme
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        content = json.loads(path.read_text(encoding="utf-8"))
        title, colab = "".join(content["cells"][0]["source"]), "".join(content["cells"][1]["source"])
        assert title.count("colab-badge.svg") == 1, path.name
        assert f"owner/name/blob/main/notebooks/{path.name}" in title
        assert 'address = "https://github.com/owner/name"' in colab
        assert readme.count(f"github/owner/name/blob/main/notebooks/{path.name}") == 1, path.name
        original = json.loads((ROOT / "notebooks" / path.name).read_text(encoding="utf-8"))
        assert content["cells"][2:] == original["cells"][2:]
