"""The run directory: written whole or not at all, read as what it is."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from synthetic import THREE, write_study

from senet_lib import files, results
from senet_lib.results import load_results

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


def test_replacing_gives_the_name_only_to_a_complete_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with files.replacing(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert files_in(path.parent) == ["file.txt"]


def test_replacing_leaves_the_earlier_file_after_an_error(tmp_path):
    path = tmp_path / "file.txt"
    files.write_text(path, "earlier")
    with pytest.raises(RuntimeError, match="disk"), files.replacing(path) as file:
        file.write(b"half of the n")
        raise RuntimeError("disk")
    assert path.read_text() == "earlier"
    assert files_in(tmp_path) == ["file.txt"]


def test_a_full_disk_or_a_folder_that_is_none_is_an_error_that_names_the_path(tmp_path):
    path = tmp_path / "file.txt"
    files.write_text(path, "earlier")
    with pytest.raises(OSError, match="No space left on device: .*file.txt'$"), files.replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write says it, without a name
    assert path.read_text() == "earlier"
    assert files_in(tmp_path) == ["file.txt"]
    with pytest.raises(OSError, match="file.txt"):
        files.write_text(path / "below.txt", "")
    with pytest.raises(OSError, match="file.txt"):
        files.check_writable(path)
    files.check_writable(tmp_path / "new")
    assert files_in(tmp_path / "new") == []


def test_only_temporary_files_are_cleared_away(tmp_path):
    for name in (".checkpoint.next.pt.ab12.tmp", "checkpoint.pt", ".hidden", "mine.tmp"):
        (tmp_path / name).touch()
    files.remove_temporary_files(tmp_path)
    assert files_in(tmp_path) == [".hidden", "checkpoint.pt", "mine.tmp"]


def test_json_holds_no_nan_and_says_which_file_is_broken(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="a.json: not a JSON file"):
        files.read_json(tmp_path / "a.json")


def test_history_reads_back_as_the_same_floats(tmp_path):
    results.write_history(tmp_path, [ROW, {**ROW, "epoch": 2}])
    table = results.read_history(tmp_path)
    assert tuple(table.columns) == results.HISTORY_COLUMNS
    assert table.iloc[0].to_dict() == ROW
    assert list(table["epoch"]) == [1, 2]


def test_history_refuses_a_column_that_nobody_reads(tmp_path):
    with pytest.raises(ValueError, match="val_accuracy"):
        results.write_history(tmp_path, [{**ROW, "val_accuracy": 1.0}])
    assert files_in(tmp_path) == []


def test_predictions_read_back_and_give_the_same_bytes_again(tmp_path):
    label, predicted = np.array([0, 9, 3]), np.array([0, 8, 3])
    for name in ("a", "b"):
        results.write_predictions(tmp_path / name, label, predicted, np.array([1.0, 0.5, 0.25]))
    table = results.read_predictions(tmp_path / "a")
    assert table.to_dict("list") == {
        "image": [0, 1, 2],
        "true": [0, 9, 3],
        "predicted": [0, 8, 3],
        "confidence": [1.0, 0.5, 0.25],
    }
    assert table["true"].dtype == np.uint8
    assert (tmp_path / "a/predictions.npz").read_bytes() == (tmp_path / "b/predictions.npz").read_bytes()


def test_a_summary_makes_the_run_done_and_vouches_for_its_files(tmp_path):
    results.write_history(tmp_path, [ROW])
    files.write_json(tmp_path / "failure.json", {"error": "an earlier attempt"})
    assert not results.is_done(tmp_path, "abc")
    results.write_summary(tmp_path, {"hash": "abc"})
    assert results.is_done(tmp_path, "abc")
    assert not results.is_done(tmp_path, "another config")
    assert files_in(tmp_path) == ["history.csv", "summary.json"]
    assert results.altered_files(tmp_path) == []
    results.write_history(tmp_path, [{**ROW, "lr": 0.2}])
    assert results.altered_files(tmp_path) == ["history.csv"]


@pytest.mark.parametrize("content", ['{"hash": "abc", "test_accuracy": 0.9, "files": {}, "digest": ""}', "[]", "{"])
def test_a_summary_vouches_for_itself_too(tmp_path, content):
    results.write_summary(tmp_path, {"hash": "abc", "test_accuracy": 0.8})
    assert results.altered_files(tmp_path) == []
    (tmp_path / "summary.json").write_text(content)
    assert results.altered_files(tmp_path) == ["summary.json"]
    assert not results.is_intact(tmp_path, "abc")


def test_a_summary_from_before_summaries_vouched_for_themselves_still_counts(tmp_path):
    files.write_json(tmp_path / "summary.json", {"hash": "abc", "files": {}})
    assert results.is_intact(tmp_path, "abc")


def test_a_truncated_summary_is_not_done(tmp_path):
    (tmp_path / "summary.json").write_text('{"hash": "abc"')
    assert not results.is_done(tmp_path, "abc")


def test_environment_record_adds_what_only_training_knows():
    record = results.environment_record(device="cpu", threads=2)
    assert record["device"] == "cpu"
    assert record["versions"]["numpy"] == np.__version__
    assert set(record) >= {"python", "system", "processor", "cores", "git_commit", "threads"}
    json.dumps(record, allow_nan=False)


def test_load_study_reads_every_planned_run(tmp_path):
    write_study(
        tmp_path,
        seeds=(3, 5),
        images=50,
        epochs=4,
        failed={"sk_resnet20-seed3": "NonFiniteLoss: nan in epoch 3"},
        missing=["resnet20-seed5"],
    )
    study = load_results(tmp_path)
    assert study.labels == list(THREE)
    status = study.runs.set_index("run_id")["status"]
    assert dict(status.drop(["sk_resnet20-seed3", "resnet20-seed5"]).value_counts()) == {"done": 4}
    assert status["sk_resnet20-seed3"] == "failed"
    assert status["resnet20-seed5"] == "missing"
    assert study.runs.set_index("run_id").loc["sk_resnet20-seed3", "error"] == "NonFiniteLoss: nan in epoch 3"
    # the failed run's two epochs are there to be looked at, but none of its predictions
    assert dict(study.history["run_id"].value_counts()) == {
        **dict.fromkeys(study.done["run_id"], 4),
        "sk_resnet20-seed3": 2,
    }
    assert set(study.predictions["run_id"]) == set(study.environments) == set(study.done["run_id"])
    for run in study.done.itertuples():
        rows = study.predictions[study.predictions["run_id"] == run.run_id]
        assert (rows["true"] == rows["predicted"]).mean() == run.test_accuracy
        assert study.history[study.history["run_id"] == run.run_id]["test_accuracy"].iloc[-1] == run.test_accuracy
        assert run.seconds_per_epoch == pytest.approx(THREE[run.label]["seconds"], rel=0.1)


def test_an_accuracy_with_test_time_augmentation_is_read_beside_the_plain_one(tmp_path):
    networks = {**THREE, "se_resnet20": {**THREE["se_resnet20"], "tta_gain": 0.01}}
    runs = load_results(write_study(tmp_path, networks, seeds=(0,), images=50)).runs.set_index("label")
    assert runs.loc["se_resnet20", "tta_accuracy"] == runs.loc["se_resnet20", "test_accuracy"] + 0.01
    assert runs.loc[["resnet20", "sk_resnet20"], "tta_accuracy"].isna().all()
    plain = load_results(write_study(tmp_path / "plain", seeds=(0,), images=50)).runs.set_index("label")
    assert (runs["test_accuracy"] == plain["test_accuracy"]).all()
    assert plain["tta_accuracy"].isna().all()


def test_load_study_without_any_run_has_the_same_columns(tmp_path):
    full = load_results(write_study(tmp_path / "full", seeds=(0,), images=20))
    none = load_results(write_study(tmp_path / "none", seeds=(0,), missing=[f"{label}-seed0" for label in THREE]))
    assert none.done.empty
    for table in ("runs", "history", "predictions"):
        assert list(getattr(none, table).columns) == list(getattr(full, table).columns)


def test_what_an_earlier_version_of_the_study_left_is_not_this_studys(tmp_path):
    """Before its run is started again, the folder still holds the other config's history and failure."""
    write_study(tmp_path, seeds=(0,), images=20, epochs=5, failed={"resnet20-seed0": "an old failure"})
    study = files.read_json(tmp_path / "study.json")
    for run in study["runs"]:
        run["config_hash"] = "0" * 16
    files.write_json(tmp_path / "study.json", study)
    now = load_results(tmp_path)
    assert set(now.runs["status"]) == {"missing"}
    assert now.runs["error"].isna().all()
    assert now.history.empty


def test_an_accuracy_changed_by_hand_is_noticed(tmp_path):
    write_study(tmp_path, seeds=(0,), images=20)
    path = tmp_path / "runs" / "resnet20-seed0" / "summary.json"
    files.write_json(path, {**files.read_json(path), "test_accuracy": 0.99})
    run = load_results(tmp_path).runs.set_index("run_id").loc["resnet20-seed0"]
    assert run["status"] == "failed"
    assert "summary.json" in run["error"]


@pytest.mark.parametrize("name", ["predictions.npz", "history.csv", "environment.json"])
@pytest.mark.parametrize("damage", ["gone", "other bytes"])
def test_a_finished_run_with_a_damaged_file_is_shown_as_failed(tmp_path, name, damage):
    write_study(tmp_path, seeds=(0,), images=20)
    path = tmp_path / "runs" / "resnet20-seed0" / name
    path.unlink() if damage == "gone" else path.write_bytes(b"\x00" + path.read_bytes()[1:])
    runs = load_results(tmp_path).runs.set_index("run_id")
    assert runs.loc["resnet20-seed0", "status"] == "failed"
    assert name in runs.loc["resnet20-seed0", "error"]
    assert (runs["status"] == "done").sum() == 2


def test_a_published_run_without_its_notebook_is_done(tmp_path):
    """`make publish` leaves the executed notebooks behind; nothing here reads them."""
    write_study(tmp_path, seeds=(0,), images=20)
    run_dir = tmp_path / "runs" / "resnet20-seed0"
    summary = files.read_json(run_dir / "summary.json")
    files.write_text(run_dir / "notebook.ipynb", "{}")
    results.write_summary(run_dir, summary)
    (run_dir / "notebook.ipynb").unlink()
    assert (load_results(tmp_path).runs["status"] == "done").all()


def test_a_folder_without_a_study_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no study.json there; .*`make reproduce"):
        load_results(tmp_path)


def test_the_analysis_side_never_imports_torch():
    modules = ("cli", "study", "results", "analysis.plots", "analysis.sentences", "report.page", "report.build")
    code = f"import sys; {'; '.join(f'import senet_lib.{module}' for module in modules)}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "False\n"
