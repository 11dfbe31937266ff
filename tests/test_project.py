"""What ties the project's files together: one lock, no stale copies of it, badges that can be rewritten."""

import importlib.util
import json
import re
import shutil
import subprocess

import pytest
from synthetic import write_study

from senet_lib import sentences, stats, tables
from senet_lib.launch import PUBLISHED_WEIGHTS
from senet_lib.project import project_root
from senet_lib.results import NOTEBOOK, WEIGHTS, altered_files, load_study, read_json

ROOT = project_root()


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


def test_the_readmes_numbers_are_the_published_ones():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("verdicts", "results"):
        assert readme.count(f"<!-- {name} -->") == readme.count(f"<!-- /{name} -->") == 1
    assert tool("readme").filled(readme, ROOT) == readme, "stale: run tools/readme.py"
    opening = readme.split("## ", 1)[0]
    assert "<!-- verdicts -->" in opening
    for path in (ROOT / "results" / "published").iterdir():
        assert f"### `{path.name}`\n" in readme


README = "# Title\n\n<!-- verdicts -->\nold\n<!-- /verdicts -->\n\n<!-- results -->\n<!-- /results -->\n"


def publish_made_up(root, name, **options):
    folder = write_study(root / "results" / "published" / name, images=200, name=name, **options)
    (folder / "tables").mkdir()
    (folder / "tables" / "networks.md").write_text(f"| table of {name} |\n", encoding="utf-8")
    return folder


def test_a_published_study_comes_into_the_readme_without_an_edit_of_it(tmp_path):
    readme = tool("readme")
    assert "**Verdict so far: none**" in readme.filled(README, tmp_path)
    publish_made_up(tmp_path, "first_look", seeds=(0,))
    text = readme.filled(README, tmp_path)
    assert "none**, since no published study has a comparison with an interval: `first_look`" in text
    assert "old" not in text

    for name in ("another", "thin", "fashion"):
        publish_made_up(tmp_path, name, question=f"What of {name}?")
    publish_made_up(tmp_path, "a_tuning", holdout=5000)
    text = readme.filled(text, tmp_path)
    opening, sections = text.split("<!-- /verdicts -->")
    assert re.findall(r"What of (\w+)\?", opening) == ["thin", "fashion", "another"]
    assert re.findall(r"### `(\w+)`", sections) == ["thin", "fashion", "another", "first_look", "a_tuning"]
    assert re.findall(r"table of (\w+)", sections) == ["thin", "fashion", "another", "first_look", "a_tuning"]
    assert "a_tuning" not in opening, "what was only tuned decides nothing"
    assert "without a verdict: `first_look`" in opening
    assert stats.rule() in opening
    found = tables.compare(load_study(tmp_path / "results" / "published" / "thin"))
    assert len(found) == 2
    for pair in found:
        assert sentences.one_verdict(pair) in opening
    assert readme.filled(text, tmp_path) == text


def test_published_results_carry_what_their_summaries_vouch_for_and_no_place_of_a_machine():
    runs = sorted((ROOT / "results" / "published").glob("*/runs/*"))
    assert runs
    for run_dir in runs:
        altered = altered_files(run_dir)
        absent = {name for name in altered if not (run_dir / name).exists()}
        assert absent <= {NOTEBOOK, WEIGHTS}, "a notebook stays behind, and most weights"
        assert set(altered) == absent, "what is there is what the summary vouches for, weights included"
        weights = run_dir / WEIGHTS
        assert not weights.exists() or weights.stat().st_size <= PUBLISHED_WEIGHTS
        seeds = read_json(run_dir.parent.parent / "study.json")["seeds"]
        assert not weights.exists() or read_json(run_dir / "config.json")["seed"] == seeds[0]
    for path in (ROOT / "results" / "published").rglob("*"):
        if path.suffix in (".json", ".html", ".md", ".csv"):
            assert str(ROOT.parent) + "/" not in path.read_text(encoding="utf-8"), path


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
