"""report.json: whether a report is still valid, and which files of an earlier report are removed."""

import itertools
import json

import pytest
from nbformat.v4 import new_notebook

from senet_lib.files import read_json, write_json
from senet_lib.project import project_root
from senet_lib.report import build


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A results folder, whose report consists of one figure with the number of the execution."""
    monkeypatch.setenv("SENET_ROOT", str(project_root()))
    folder, numbers = tmp_path / "results", itertools.count(1)
    write_json(folder / "study.json", {"name": "small", "runs": []})
    (folder / "figures").mkdir()

    def execute(*_):
        (folder / "figures" / "new.svg").write_text(str(next(numbers)))
        return new_notebook(), ["figures/new.svg"]

    monkeypatch.setattr(build, "_execute", execute)
    monkeypatch.setattr(build, "to_page", lambda *_: "the report")
    return folder


def test_damaged_stamp_gives_a_new_report_and_removes_nothing(folder):
    kept = [folder / "study.json", folder / "runs" / "a" / "summary.json", folder.parent / "outside.svg"]
    kept += [folder / "figures" / "mine" / "other.svg"]
    for path in kept[1:]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    names = ("study.json", "runs/a/summary.json", "../outside.svg", str(kept[2]), "figures/../../outside.svg")
    names += ("figures/mine/other.svg", "figures/..", "figures\\..\\..\\outside.svg", "", ".", "figures")
    stamps = [{"outputs": {name: "0"}} for name in names]
    stamps += [{"outputs": value} for value in ([], "text", None, 1, ["figures/new.svg"], {"figures/new.svg": [1]})]
    contents = [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, *(json.dumps(stamp).encode() for stamp in stamps)]

    build.build_report(folder)
    intact = read_json(folder / build.STAMP)
    contents.append(json.dumps(intact | {"outputs": intact["outputs"] | {"../outside.svg": "0"}}).encode())
    for number, content in enumerate(contents, 2):
        (folder / build.STAMP).write_bytes(content)
        build.build_report(folder)
        assert (folder / "figures" / "new.svg").read_text() == str(number), f"not built again: {content[:60]}"
        assert read_json(folder / build.STAMP)["outputs"].keys() == intact["outputs"].keys()
        assert all(path.is_file() for path in kept), content
    before = (folder / build.STAMP).read_bytes()
    build.build_report(folder)
    assert (folder / build.STAMP).read_bytes() == before, "nothing changed, so nothing is built"
    assert (folder / "figures" / "new.svg").read_text() == str(number)


def test_new_results_of_the_twin_give_a_new_report(folder):
    write_json(folder / "study.json", {"name": "small", "runs": [], "twin": "other"})

    def execution():
        build.build_report(folder)
        return (folder / "figures" / "new.svg").read_text()

    assert (execution(), execution()) == ("1", "1")
    twin = folder.parent / "published" / "other"
    for number, path in enumerate(("study.json", "runs/a-seed0/summary.json", "runs/a-seed1/summary.json"), 2):
        write_json(twin / path, {})
        assert (execution(), execution()) == (str(number), str(number)), path
    twin.rename(folder.parent / "other")
    assert execution() == "4", "the same results in another place"
