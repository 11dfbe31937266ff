"""The run directory and its files: written whole or not at all, and read back exactly."""

import errno
import io
import json
import os
import subprocess
import threading
import zipfile

import numpy as np
import pytest
from synthetic import THREE, write_study

from senet_lib import files, results
from senet_lib.errors import DamagedFile
from senet_lib.models import resolve_knobs
from senet_lib.results import environment, load_results
from senet_lib.running.run import keep_relabelled, relabelled, set_aside_other
from senet_lib.study import RunConfig
from senet_lib.training import checkpoint

ROW = {
    "epoch": 1,
    "lr": 0.1,
    "train_loss": 1 / 3,
    "train_accuracy": 0.1 + 0.2,
    "test_loss": 2.5e-17,
    "test_accuracy": 0.9,
    "train_seconds": 12.5,
    "images_per_second": 1e6,
}


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replacing_is_all_or_nothing(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with files.replacing(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    with pytest.raises(RuntimeError), files.replacing(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"first"
    assert files_in(path.parent) == ["file.txt"]


def test_disk_errors_name_the_path(tmp_path):
    path = tmp_path / "file.txt"
    files.write_text(path, "earlier")
    with pytest.raises(OSError, match="file.txt'$") as full, files.replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # like a failed write, which names no file
    assert full.value.errno == errno.ENOSPC
    assert path.read_text() == "earlier"
    with pytest.raises(OSError, match="file.txt"):
        files.write_text(path / "below.txt", "")
    with pytest.raises(OSError, match="file.txt"):
        files.check_writable(path)
    files.check_writable(tmp_path / "new")
    assert files_in(tmp_path) == ["file.txt", "new"]
    assert files_in(tmp_path / "new") == []


def test_only_temporary_files_are_removed(tmp_path):
    for name in (".checkpoint.next.pt.ab12.tmp", "checkpoint.pt", ".hidden", "mine.tmp"):
        (tmp_path / name).touch()
    files.remove_temporary_files(tmp_path)
    assert files_in(tmp_path) == [".hidden", "checkpoint.pt", "mine.tmp"]


def test_json_refuses_nan_and_names_broken_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert files_in(tmp_path) == []
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json"):
        files.read_json(tmp_path / "a.json")


def test_second_holder_waits_for_the_lock(tmp_path, monkeypatch):
    lock, waiting, entered = tmp_path / "new" / "lock", threading.Event(), threading.Event()
    files.write_text(lock, "the content of a lock file has no meaning")
    monkeypatch.setattr("builtins.print", lambda message, **_: message == "in use" and waiting.set())

    def second():
        with files.exclusive(lock, waiting="in use", required=True):
            entered.set()

    thread = threading.Thread(target=second, daemon=True)
    with files.exclusive(lock, waiting="never printed"):
        thread.start()
        assert waiting.wait(timeout=60)
        assert not entered.is_set()
    assert entered.wait(timeout=60)
    thread.join()


def test_impossible_lock_is_an_error_only_if_required(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / "file").touch()
    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    for lock in (tmp_path / "file" / "lock", tmp_path / "lock"):
        entered = False
        with files.exclusive(lock):
            entered = True
        assert entered, lock
        with pytest.raises(OSError, match="file|lock'"), files.exclusive(lock, required=True):
            pytest.fail(f"entered without {lock}")


def test_missing_abilities_of_a_file_system(tmp_path, monkeypatch):
    """chmod refused or no fsync: files are still written. An error of the disk is none of these."""

    def failing(number):
        def call(*_):
            raise OSError(number, os.strerror(number))

        return call

    monkeypatch.setattr(files.os, "chmod", failing(errno.EPERM))
    for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        monkeypatch.setattr(files.os, "fsync", failing(number))
        files.write_text(tmp_path / f"{number}.txt", "whole")
        assert (tmp_path / f"{number}.txt").read_text() == "whole"
    for number in (errno.EIO, errno.ENOSPC):
        monkeypatch.setattr(files.os, "fsync", failing(number))
        with pytest.raises(OSError, match="lost.txt'$"):
            files.write_text(tmp_path / "lost.txt", "")
    for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        monkeypatch.setattr(files.fcntl, "flock", failing(number))
        with pytest.raises(OSError, match="file system that has them.*--results") as error:
            files.check_writable(tmp_path)
        assert str(error.value).endswith(f"'{tmp_path}'")


def test_history_and_predictions_read_back_exactly(tmp_path):
    results.write_history(tmp_path, [ROW, {**ROW, "epoch": 2}])
    history = results.read_history(tmp_path)
    assert tuple(history.columns) == results.HISTORY_COLUMNS
    assert history.to_dict("records") == [ROW, {**ROW, "epoch": 2}]
    with pytest.raises(ValueError, match="val_accuracy"):
        results.write_history(tmp_path / "new", [{**ROW, "val_accuracy": 1.0}])
    assert not (tmp_path / "new").exists()

    for name in ("a", "b"):
        results.write_predictions(tmp_path / name, np.array([0, 9]), np.array([0, 8]), np.array([1.0, 0.25]))
    table = results.read_predictions(tmp_path / "a")
    assert table.to_dict("list") == {"image": [0, 1], "true": [0, 9], "predicted": [0, 8], "confidence": [1.0, 0.25]}
    assert table["true"].dtype == np.uint8
    assert (tmp_path / "a/predictions.npz").read_bytes() == (tmp_path / "b/predictions.npz").read_bytes()


def test_summary_finishes_the_run_and_records_digests(tmp_path):
    results.write_history(tmp_path, [ROW])
    files.write_json(tmp_path / "failure.json", {"error": "an earlier attempt"})
    assert not results.is_done(tmp_path, "abc")
    results.write_summary(tmp_path, {"hash": "abc", "test_accuracy": 0.8})
    assert files_in(tmp_path) == ["history.csv", "summary.json"]
    assert results.is_intact(tmp_path, "abc")
    assert not results.is_done(tmp_path, "another config")
    assert results.altered_files(tmp_path) == []
    results.write_history(tmp_path, [{**ROW, "lr": 0.2}])
    assert results.altered_files(tmp_path) == ["history.csv"]

    for content in ('{"hash": "abc", "test_accuracy": 0.9, "files": {}, "digest": ""}', "[]", '{"hash": "abc"', "{"):
        (tmp_path / "summary.json").write_text(content)
        assert results.altered_files(tmp_path) == ["summary.json"], content
        assert not results.is_intact(tmp_path, "abc"), content
    assert not results.is_done(tmp_path, "abc")
    files.write_json(tmp_path / "summary.json", {"hash": "abc", "files": {}})  # older summaries have no digest
    assert results.is_intact(tmp_path, "abc")
    numbers = {"test_accuracy": 0.9, "test_loss": 2.5e-17, "epochs": 1, "train_seconds": 12.5}
    for changes in ({}, {"test_accuracy": 0.95}, {"test_loss": 2.5e-16}, {"epochs": 2}, {"train_seconds": "12.5"}):
        files.write_json(tmp_path / "summary.json", {"hash": "abc", "files": {}, **numbers, **changes})
        assert results.is_intact(tmp_path, "abc") == (changes == {}), changes


def test_uncommitted_changes_of_what_a_run_executes_are_recorded(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)

    module, trained, other = "senet_lib/results/environment.py", "notebooks/05_train.ipynb", "notebooks/02_resnet.ipynb"
    for name in (module, trained, other):
        files.write_text(tmp_path / name, "committed")
    files.write_text(tmp_path / ".gitignore", "*.pyc")
    git("init")
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e", "commit", "-m", "m")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / module))
    for name, recorded in (
        (module, True),
        (trained, True),
        (other, False),  # not executed by a run
        ("senet_lib/new.py", True),
        ("senet_lib/new.pyc", False),
        ("results/quick/report.md", False),
    ):
        files.write_text(tmp_path / name, "changed")
        assert environment.environment_record()["git_commit"].endswith("+changes") == recorded, name
        if name in (module, trained, other):
            git("checkout", ".")
        else:
            (tmp_path / name).unlink()
    assert len(environment.environment_record()["git_commit"]) == 40


def test_environment_record_content():
    record = results.environment_record(device="cpu", threads=2)
    assert (record["device"], record["threads"]) == ("cpu", 2)
    assert record["versions"]["numpy"] == np.__version__
    assert set(record) >= {"python", "system", "processor", "cores", "git_commit"}
    json.dumps(record, allow_nan=False)


def test_load_results_reads_every_planned_run(tmp_path):
    networks = {**THREE, "se_resnet20": {**THREE["se_resnet20"], "tta_gain": 0.01}}
    failed = {"sk_resnet20-seed3": "NonFiniteLoss: nan in epoch 3"}
    write_study(tmp_path, networks, seeds=(3, 5), images=50, epochs=4, failed=failed, missing=["resnet20-seed5"])
    study = load_results(tmp_path)
    assert study.labels == list(THREE)
    runs = study.runs.set_index("run_id")
    done = ["resnet20-seed3", "se_resnet20-seed3", "se_resnet20-seed5", "sk_resnet20-seed5"]
    assert runs["status"].to_dict() == {
        **dict.fromkeys(done, "done"),
        "sk_resnet20-seed3": "failed",
        "resnet20-seed5": "missing",
    }
    assert runs["error"].dropna().to_dict() == failed
    # A failed run keeps its epochs but has no predictions
    assert study.history["run_id"].value_counts().to_dict() == {**dict.fromkeys(done, 4), "sk_resnet20-seed3": 2}
    assert set(study.predictions["run_id"]) == set(study.environments) == set(done) == set(study.done["run_id"])
    for run in study.done.itertuples():
        rows = study.predictions[study.predictions["run_id"] == run.run_id]
        assert (rows["true"] == rows["predicted"]).mean() == run.test_accuracy
        assert study.history[study.history["run_id"] == run.run_id]["test_accuracy"].iloc[-1] == run.test_accuracy
        assert run.seconds_per_epoch == pytest.approx(THREE[run.label]["seconds"], rel=0.1)
        with_tta = run.test_accuracy + 0.01 if run.label == "se_resnet20" else np.nan
        assert run.tta_accuracy == pytest.approx(with_tta, rel=0, abs=0, nan_ok=True)


def test_runs_of_an_earlier_study_are_missing(tmp_path):
    write_study(tmp_path, seeds=(0,), images=20, failed={"resnet20-seed0": "an old failure"})
    before, study = load_results(tmp_path), files.read_json(tmp_path / "study.json")
    for run in study["runs"]:
        run["config_hash"] = "0" * 16
    files.write_json(tmp_path / "study.json", study)
    now = load_results(tmp_path)
    assert set(now.runs["status"]) == {"missing"}
    assert now.runs["error"].isna().all()
    for table in ("runs", "history", "predictions"):
        assert list(getattr(now, table).columns) == list(getattr(before, table).columns)
    assert now.history.empty


def test_run_with_a_damaged_file_is_failed(tmp_path):
    write_study(tmp_path, seeds=(0,), images=20)
    run_dir = tmp_path / "runs" / "resnet20-seed0"
    summary = (run_dir / "summary.json").read_bytes()
    damages = {"summary.json": [summary.replace(b'"test_accuracy": 0', b'"test_accuracy": 1')]}
    damages |= {name: [None, b"\x00"] for name in ("predictions.npz", "history.csv", "environment.json")}
    for name, contents in damages.items():
        path, original = run_dir / name, (run_dir / name).read_bytes()
        for content in contents:
            path.unlink() if content is None else path.write_bytes(content)
            assert not path.exists() or path.read_bytes() != original, name
            runs = load_results(tmp_path).runs.set_index("run_id")
            assert dict(runs["status"].value_counts()) == {"done": 2, "failed": 1}, name
            assert name in runs.loc["resnet20-seed0", "error"]
        path.write_bytes(original)
    files.write_text(run_dir / results.NOTEBOOK, "{}")
    results.write_summary(run_dir, json.loads(summary))
    (run_dir / results.NOTEBOOK).unlink()  # as in a published run
    assert set(load_results(tmp_path).runs["status"]) == {"done"}


def damages(content):
    """What may become of a file: emptied, cut, of other text, of other JSON, no text at all."""
    return [b"", content[:-9], b"rubbish\n", b"[]", b"{}", b"null", b"\xff" + content[1:], bytes(len(content))]


def test_damaged_files_of_a_begun_run_are_named(tmp_path):
    write_study(tmp_path, seeds=(0,), images=20, failed={"resnet20-seed0": "a reason"})
    run_dir = tmp_path / "runs" / "resnet20-seed0"
    for name in ("config.json", "history.csv", "failure.json"):
        path, original = run_dir / name, (run_dir / name).read_bytes()
        for content in damages(original):
            path.write_bytes(content)
            runs = load_results(tmp_path).runs.set_index("run_id")
            assert dict(runs["status"].value_counts()) == {"done": 2, "failed": 1}, (name, content)
            assert f"{name} is damaged" in runs.loc["resnet20-seed0", "error"], content
        path.write_bytes(original)
    assert load_results(tmp_path).runs.set_index("run_id").loc["resnet20-seed0", "error"] == "a reason"


def test_damaged_study_or_archive_is_named(tmp_path):
    write_study(tmp_path, seeds=(0,), images=20)
    path, archive = tmp_path / "study.json", tmp_path / "study.zip"
    for content in damages(path.read_bytes()):
        path.write_bytes(content)
        archive.write_bytes(content)
        for damaged in (path, archive):
            with pytest.raises(DamagedFile) as error:
                load_results(tmp_path if damaged == path else damaged)
            assert str(error.value).startswith(f"{damaged} is damaged: "), content
            assert "\n" not in str(error.value)


def test_any_flipped_bit_of_an_archive_is_found_or_harmless(tmp_path):
    whole, archive = io.BytesIO(), tmp_path / "a.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.txt", b"content" * 4)
    found = 0
    for bit in range(8 * len(whole.getvalue())):
        content = bytearray(whole.getvalue())
        content[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(content)
        try:
            with files.unpacked(archive):
                pass
        except DamagedFile as error:
            assert str(error).startswith(f"{archive} is damaged: ")
            found += 1
    assert found > bit / 4


def test_inconsistent_study_is_named(tmp_path):
    """Its names lead to folders, columns and pairs of runs, so they must fit together."""
    write_study(tmp_path, seeds=(0,), images=20, comparisons=[("se_resnet20", "resnet20")])
    study = files.read_json(tmp_path / "study.json")
    run, network = study["runs"][0], study["networks"]["resnet20"]
    other = {**study["networks"], "resnet20": network | {"published": {"accuracy": 91.2, "source": "?"}}}
    for changes, named in (
        ({"runs": [run | {"run_id": "../resnet20-seed0"}]}, "'../resnet20-seed0'"),
        ({"runs": [run | {"label": "..\\a", "run_id": "..\\a-seed0"}]}, "no name of a folder"),
        ({"runs": [run, run]}, "a run twice"),
        ({"runs": [run | {"model": "resnet56"}]}, "'resnet20-seed0'"),
        ({"runs": [run | {"seed": True}]}, "runs.0.seed"),
        ({"seeds": [1]}, "'resnet20-seed0'"),
        ({"seeds": None}, "seeds"),
        ({"classes": ["a", "a"]}, "a class twice"),
        ({"classes": [1]}, "classes.0"),
        ({"baseline": "resnet56"}, "'resnet56'"),
        ({"comparisons": [["resnet20", "resnet56"]]}, "'resnet56'"),
        ({"comparisons": [["resnet20"]]}, "comparisons.0"),
        ({"recipe": {}}, "epochs"),
        ({"networks": other}, "networks.resnet20.published.accuracy"),
        ({"networks": {**other, "resnet20": network | {"knobs": {"width": {}}}}}, "networks.resnet20.knobs.width"),
        ({"question": "\ud800"}, "surrogates"),
        ({"fingerprints": {"train": 1}}, "fingerprints.train"),
    ):
        (tmp_path / "study.json").write_text(json.dumps(study | changes))
        with pytest.raises(DamagedFile, match=r"^[^\n]*study\.json is damaged: [^\n]*$") as error:
            load_results(tmp_path)
        assert named in str(error.value), changes


def test_wrong_files_with_right_digests_are_named(tmp_path):
    """As of a run that was copied from elsewhere, or changed with intent."""
    write_study(tmp_path, seeds=(0,), images=20)
    run_dir, other = tmp_path / "runs" / "resnet20-seed0", tmp_path / "runs" / "se_resnet20-seed0"
    summary = files.read_json(run_dir / "summary.json")
    config = files.read_json(run_dir / "config.json")
    label = np.arange(20) % 10

    def failed(named):
        runs = load_results(tmp_path).runs.set_index("run_id")
        assert runs["status"].to_dict() == dict.fromkeys(runs.index, "done") | {"resnet20-seed0": "failed"}, named
        assert named in runs.loc["resnet20-seed0", "error"]

    (run_dir / "summary.json").write_bytes((other / "summary.json").read_bytes())
    failed("summary.json")
    for changes in ({"test_accuracy": None}, {"test_accuracy": 91.2}, {"params": "many"}, {"evaluated_on": "train"}):
        results.write_summary(run_dir, summary | changes)
        failed("summary.json")
    for name, write in (
        ("config.json", lambda: files.write_json(run_dir / "config.json", config | {"model": "resnet56"})),
        ("environment.json", lambda: files.write_json(run_dir / "environment.json", ["cpu"])),
        ("environment.json", lambda: files.write_json(run_dir / "environment.json", {"resumed_under": ["cpu"]})),
        ("environment.json", lambda: (run_dir / "environment.json").unlink()),
        ("predictions.npz", lambda: results.write_predictions(run_dir, label, label + 1, label)),
        ("predictions.npz", lambda: results.write_predictions(run_dir, label[:0], label[:0], label[:0])),
        ("predictions.npz", lambda: files.write_arrays(run_dir / "predictions.npz", {"label": label})),
        ("history.csv", lambda: files.write_text(run_dir / "history.csv", "epoch\n1\n")),
    ):
        content = (run_dir / name).read_bytes()
        write()
        results.write_summary(run_dir, summary)
        failed(name)
        (run_dir / name).write_bytes(content)
    results.write_summary(run_dir, summary)
    assert set(load_results(tmp_path).runs["status"]) == {"done"}


def planned_run(label, seed=0, **recipe):
    knobs = resolve_knobs("resnet20")
    return RunConfig(study="s", label=label, model="resnet20", knobs=knobs, data="digits", seed=seed, recipe=recipe)


def write_run(folder, run, finished=True):
    run_dir = folder / "runs" / run.run_id
    files.write_json(run_dir / "config.json", run.record())
    results.write_history(run_dir, [ROW])
    if finished:
        results.write_summary(run_dir, {"hash": run.hash, "run_id": run.run_id, "test_accuracy": 0.5})
    return run_dir


def test_run_with_damaged_files_is_set_aside(tmp_path, capsys):
    """As at every start of a run: the folder is renamed, never lost, and the damaged file is named."""
    run = planned_run("a")
    for finished in (True, False):
        for name in ("config.json", *(("history.csv", "summary.json") if finished else ())):
            original = (write_run(tmp_path, run, finished) / name).read_bytes()
            for content in damages(original):
                run_dir = write_run(tmp_path, run, finished)
                (run_dir / name).write_bytes(content)
                set_aside_other(run_dir, run)
                (kept,) = (tmp_path / "runs").glob("*")
                assert kept.name.startswith(f".{run.run_id}.damaged-")
                assert (kept / name).read_bytes() == content
                said = capsys.readouterr().out
                assert said.count("\n") == 1
                assert name in said
                assert kept.name in said
                kept.rename(tmp_path / kept.name)
            run_dir = write_run(tmp_path, run, finished)
    set_aside_other(run_dir, run)
    assert run_dir.is_dir(), "an unfinished run continues"
    assert capsys.readouterr().out == ""


def test_damaged_list_of_digests_starts_over(tmp_path):
    state = {"identity": {"seed": 0}, "step": 3}
    for content in damages(b"0" * 64 + b"\n"):
        checkpoint.save(tmp_path, state)
        assert checkpoint.load(tmp_path, state["identity"]) == state
        (tmp_path / checkpoint.DIGESTS).write_bytes(content)
        with pytest.warns(UserWarning, match=r"checkpoint.pt .*checkpoint.sha256 is missing.*checkpoint.pt.damaged"):
            assert checkpoint.load(tmp_path, state["identity"]) is None
        assert (tmp_path / "checkpoint.pt.damaged").is_file()
        (tmp_path / "checkpoint.previous.pt").unlink(missing_ok=True)


def test_relabelled_run_is_kept(tmp_path, capsys):
    """Also if two configurations exchange their labels, or an earlier configuration comes back."""
    a, b = planned_run("a", lr=0.1), planned_run("b", lr=0.2)
    new, swapped = planned_run("new", lr=0.1), [planned_run("a", lr=0.2), planned_run("b", lr=0.1)]
    before = {write_run(tmp_path, run, finished=run is a) for run in (a, b)}
    assert relabelled([a, b], tmp_path) == {}
    for runs in ([new, b], [a, b], swapped, [a, b]):
        for run in runs:
            keep_relabelled(run, runs, tmp_path)
        for run in runs:
            assert files.read_json(tmp_path / "runs" / run.run_id / "config.json")["hash"] == run.hash
        assert relabelled(runs, tmp_path) == {}
        assert results.is_intact(tmp_path / "runs" / next(r.run_id for r in runs if r.hash == a.hash), a.hash)
    assert {path for path in (tmp_path / "runs").iterdir() if path.is_dir()} == before
    assert "new-seed0: a-seed0 is the same run" in capsys.readouterr().out

    (tmp_path / "runs" / "a-seed0" / "history.csv").write_text("changed")
    assert relabelled([new, b], tmp_path) == {}, "a damaged run is not used under any name"


def test_folder_without_study_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"study\.json.*make reproduce STUDY=") as error:
        load_results(tmp_path)
    assert str(tmp_path) in str(error.value)
