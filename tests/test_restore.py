"""Restoring published and archived runs, whatever their labels were and wherever the results folder is."""

import errno
import os
import shutil
import zipfile

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_notebook

from senet_lib import files, results
from senet_lib.report import publish as publishing
from senet_lib.report.build import NOTEBOOK as EXECUTED
from senet_lib.results import is_intact, load_results
from senet_lib.study import Study, StudyError

ROW = dict.fromkeys(results.HISTORY_COLUMNS, 0.5) | {"epoch": 1}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SENET_ROOT", str(tmp_path))
    return tmp_path


def study_of(*labels, lr=0.1, **changes):
    """A study whose configurations differ in their learning rates alone: lr, lr / 2, ..."""
    networks = {name: {"model": "resnet20", "recipe": {"lr": lr / 2**i}} for i, name in enumerate(labels)}
    return Study(**{"name": "s", "question": "?", "seeds": (0,), "networks": networks, **changes})


def write_finished(folder, study):
    files.write_json(folder / "study.json", study.record(["0", "1"], {"train": "a", "test": "b"}))
    for run in study.runs():
        run_dir, label = folder / "runs" / run.run_id, np.array([0, 1])
        files.write_json(run_dir / "config.json", run.record())
        files.write_json(run_dir / "environment.json", {"device": "cpu"})
        results.write_history(run_dir, [ROW])
        results.write_predictions(run_dir, label, label, label)
        numbers = {"test_accuracy": 1.0, "test_loss": 0.5, "params": 1, "macs": 1, "epochs": 1, "train_seconds": 0.5}
        results.write_summary(run_dir, {"hash": run.hash, "run_id": run.run_id, "evaluated_on": "test", **numbers})
    return folder


def restore(study, folder):
    return publishing.restore(study, study.runs(), folder)


def archive(study, folder):
    return publishing.archive(study, study.runs(), folder)


def test_relabelled_runs_are_restored_by_their_hash(root):
    published = write_finished(publishing.published_folder("s"), study_of("a", "b"))
    for kind in ("published", "archived"):
        if kind == "archived":
            archive(study_of("a", "b"), published)
            shutil.rmtree(published)
        for labels in (("a", "b"), ("new", "b"), ("b", "a")):
            study, folder = study_of(*labels), root / f"{kind} {labels}"
            assert restore(study, folder) == [run.run_id for run in study.runs()], (kind, labels)
            for run in study.runs():
                assert is_intact(folder / "runs" / run.run_id, run.hash)
            loaded = load_results(folder)
            assert set(loaded.done["run_id"]) == set(loaded.environments) == {f"{label}-seed0" for label in labels}
            assert restore(study, folder) == []
        with pytest.raises(StudyError, match="no finished run of s"):
            restore(study_of("a", lr=0.7), root / "other")
    folder = write_finished(root / "own", study_of("a", "b"))
    assert restore(study_of("new", "b"), folder) == [], "the run is there, under its earlier label"


def test_damaged_stored_runs_are_named(root, capsys):
    published = write_finished(publishing.published_folder("s"), study_of("a", "b"))
    (published / "runs" / "b-seed0" / "predictions.npz").write_bytes(b"")
    assert restore(study_of("a", "b"), root / "own") == ["a-seed0"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith("b-seed0: ")
    assert "predictions.npz" in said


@pytest.fixture
def publish(monkeypatch):
    """Publishes without executing the report's notebook."""
    monkeypatch.setattr(publishing, "build_report", lambda folder: nbformat.write(new_notebook(), folder / EXECUTED))
    return lambda study, folder: publishing.publish(study, study.runs(), folder)


def test_stored_results_are_those_of_the_study_as_it_is_now(root, publish):
    """Seeds and notes that its file was given after study.json was written in the results folder."""
    earlier, now = study_of("a", "b"), study_of("a", "b", seeds=(0, 1), notes="Trained on two machines.")
    folder = write_finished(root / "own", now)
    files.write_json(folder / "study.json", earlier.record(["0", "1"], {"train": "a", "test": "b"}))
    for store in (archive, publish):
        stored = load_results(store(now, folder))
        assert stored.study["notes"] == now.notes
        assert sorted(stored.done["run_id"]) == ["a-seed0", "a-seed1", "b-seed0", "b-seed1"], store


def test_stored_runs_are_not_lost(root, publish):
    study = study_of("a", "b")
    whole, part = write_finished(root / "whole", study), write_finished(root / "part", study)
    shutil.rmtree(part / "runs" / "b-seed0")
    message = "b-seed0: published or archived, but not in .*part.*make restore STUDY=s"
    archived = archive(study, whole)
    before = archived.read_bytes()
    with pytest.raises(StudyError, match=message):
        archive(study, part)
    assert archived.read_bytes() == before
    with pytest.raises(StudyError, match="c-seed0: published or archived, but not in"):
        archive(study_of("a", "c"), part)  # the same run under a new label
    assert archived.read_bytes() == before
    published = publish(study, whole)
    assert not archived.exists()
    two_seeds = study_of("a", "b", seeds=(0, 1))
    with pytest.raises(StudyError, match="a-seed0, b-seed0: published or archived, but not in"):
        publish(two_seeds, write_finished(root / "other", study_of("a", "b", seeds=(1,))))
    assert sorted(load_results(published).done["run_id"]) == ["a-seed0", "b-seed0"]
    with pytest.raises(StudyError, match="no run of s, as it is configured now, is finished in"):
        archive(study_of("a", lr=0.7), whole)


def test_an_unfinished_or_damaged_run_makes_way(root, capsys):
    """As after an interrupted `make reproduce`: otherwise archiving asks for a restoration that does nothing."""
    study = study_of("a", "b", "c")
    publishing.archive(study, study.runs(), write_finished(root / "whole", study))
    folder = write_finished(root / "own", study)
    (folder / "runs" / "a-seed0" / results.SUMMARY).unlink()
    (folder / "runs" / "b-seed0" / "history.csv").write_bytes(b"")
    before = (folder / "runs" / "c-seed0").stat().st_mtime_ns
    with pytest.raises(StudyError, match="a-seed0, b-seed0: published or archived, but not in"):
        archive(study, folder)
    assert restore(study, folder) == ["a-seed0", "b-seed0"]
    assert (folder / "runs" / "c-seed0").stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("is kept in .") == 2
    assert len(list((folder / "runs").glob(".[ab]-seed0.superseded-*"))) == 2
    archive(study, folder)
    assert restore(study, folder) == []


def test_restore_needs_no_permissions(root, monkeypatch):
    """Some file systems and network mounts refuse every change of permissions and times."""

    def refused(path, *_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    published = write_finished(publishing.published_folder("s"), study_of("a"))
    for name in ("chmod", "utime", "setxattr"):
        monkeypatch.setattr(os, name, refused)
    assert restore(study_of("a"), root / "first") == ["a-seed0"]
    archive(study_of("a"), published)
    assert restore(study_of("a"), root / "second") == ["a-seed0"]
    assert load_results(root / "second").done["run_id"].tolist() == ["a-seed0"]


def test_archives_write_nothing_outside(root):
    file = archive(study_of("a"), write_finished(root / "own", study_of("a")))
    with zipfile.ZipFile(file, "a") as packed:
        for name in ("../outside", "../../outside", f"{root}/outside", "runs/../../../outside"):
            packed.writestr(name, "")
        link = zipfile.ZipInfo("runs/link")
        link.external_attr = 0o120777 << 16  # a symbolic link
        packed.writestr(link, str(root))
    with files.unpacked(file) as folder:
        assert not (folder / "runs" / "link").is_symlink()
        assert not list(folder.parent.glob("outside"))
        assert len(load_results(folder).done) == 1
    assert not list(root.rglob("outside"))


def test_study_files_name_no_other_folders(root):
    """A run's name is a folder's name, so neither an archive nor a report has files of another place."""
    folder = write_finished(root / "results" / "s", study_of("a"))
    shutil.move(folder / "runs" / "a-seed0", root / "elsewhere-seed0")
    content = files.read_json(folder / "study.json")
    for label in ("../../../elsewhere", "..\\..\\elsewhere", "/etc"):
        for run_id in (f"{label}-seed0", "../../../elsewhere-seed0"):
            run = content["runs"][0] | {"label": label, "run_id": run_id}
            networks = {label: content["networks"]["a"]}
            files.write_json(folder / "study.json", content | {"runs": [run], "networks": networks, "baseline": label})
            with pytest.raises(ValueError, match=r"study\.json is damaged: runs\.0: "):
                archive(study_of("a"), folder)
