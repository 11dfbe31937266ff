"""What ties the project's files together: one lock, no stale copies of it, badges that can be rewritten."""

import importlib.util
import json
import re
import shutil
import subprocess

import pytest
from synthetic import write_study

from senet_lib.analysis import sentences, tables
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


def test_environment_yml_is_what_the_lock_says():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert text == tool("environment_yml").environment(lock)
    pins = re.findall(r"^([A-Za-z0-9._-]+==\S+)", lock, re.MULTILINE)
    assert len(pins) > 50
    assert all(f'"{pin}' in text for pin in pins)


def test_every_pin_of_the_lock_has_hashes():
    blocks = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / "requirements.lock").read_text(encoding="utf-8").strip())
    assert all("--hash=sha256:" in block for block in blocks)


def test_make_help_lists_every_target_with_a_line():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[0] for line in listed.splitlines() if line and line[0].islower()} == targets


def test_pages_show_the_committed_numbers():
    assert pages.stale(ROOT) == [], "stale: run python -m senet_lib.report.results_pages"


def test_the_tracked_tree_is_small():
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = [path.stat().st_size for name in files.split("\0") if name and (path := ROOT / name).is_file()]
    assert sum(sizes) < 20 * 2**20


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_that_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


README = "# Title\n\n<!-- found -->\nold\n<!-- /found -->\n\n<!-- headline -->\n<!-- /headline -->\n"


def publish_made_up(root, name, **options):
    return write_study(root / "results" / "published" / name, images=200, name=name, **options)


def test_a_published_study_enters_the_pages_without_an_edit(tmp_path):
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    (tmp_path / "results").mkdir()
    readme, results = pages.pages(tmp_path).values()
    assert "old" not in readme
    assert "No study is published yet." in readme
    assert "questions about 50-layer networks are open" in readme

    publish_made_up(tmp_path, "source_a_narrow", question="What of the small one?")
    publish_made_up(tmp_path, "another", question="What of another?")
    pages.main(tmp_path)
    readme, results = ((tmp_path / name).read_text(encoding="utf-8") for name in ("README.md", "results/README.md"))
    assert "What of the small one?" in readme
    assert "are open" not in readme
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


def test_a_tuned_configuration_without_a_decision_is_named(tmp_path):
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
    assert "- R1: highest mean." in table
    assert "| adopted | R1, broken |" in table
    assert "### `a_tuning`" not in pages.pages(tmp_path)[tmp_path / "results" / "README.md"]


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    return tmp_path


def test_badges_are_written_once_however_often_and_change_nothing_else(copy):
    badges = tool("badges")
    assert badges.main("some/where", copy) == 0
    assert badges.main("owner/name", copy) == 0
    readme = (copy / "README.md").read_text(encoding="utf-8")
    for path in (copy / "notebooks").glob("*.ipynb"):
        content = json.loads(path.read_text(encoding="utf-8"))
        title, colab = "".join(content["cells"][0]["source"]), "".join(content["cells"][1]["source"])
        assert title.count("colab-badge.svg") == 1
        assert f"owner/name/blob/main/notebooks/{path.name}" in title
        assert 'address = "git+https://github.com/owner/name"' in colab
        assert readme.count(f"github/owner/name/blob/main/notebooks/{path.name}") == 1
        original = json.loads((ROOT / "notebooks" / path.name).read_text(encoding="utf-8"))
        assert content["cells"][2:] == original["cells"][2:]
    assert "some/where" not in readme


def test_badges_for_a_wrong_repository_write_nothing(copy, capsys):
    before = (copy / "README.md").read_bytes()
    assert tool("badges").main("no-slash", copy) == 2
    assert "owner/name" in capsys.readouterr().err
    assert (copy / "README.md").read_bytes() == before
