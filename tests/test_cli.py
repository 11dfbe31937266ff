"""The commands behind make, from the study's file to its report and its published results."""

import json
import re
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
import torch
from project_folder import TINY, Project, completed

from senet_lib import cli
from senet_lib.files import read_json, write_json
from senet_lib.report.publish import archive as archive_runs
from senet_lib.report.publish import committed
from senet_lib.results import altered_files, load_results, read_history, write_summary
from senet_lib.study import load_study


@pytest.fixture(scope="module")
def finished_project(tmp_path_factory, images):
    """A project whose study `tiny` is done: two runs, started through the Makefile."""
    project = Project(tmp_path_factory.mktemp("finished") / "project", images)
    code, output = completed(project.make("reproduce", "tiny"))
    assert code == 0, output
    return project


@pytest.fixture
def finished(finished_project, project):
    """A copy of the finished project, to be changed by a test."""
    shutil.copytree(finished_project.root / "results", project.root / "results")
    return project


def add_seed(project, study, seed):
    """Add finished runs of another seed, copied from the first seed's, as if `reproduce` had trained them."""
    planned = load_study(study, project.root / "studies")
    path = project.root / "results" / study / "study.json"
    known = read_json(path)
    write_json(path, planned.record(known["classes"], known["fingerprints"]))
    for run in planned.runs():
        if run.seed == seed:
            run_dir = project.run_dir(run.run_id)
            shutil.copytree(project.run_dir(f"{run.label}-seed0"), run_dir)
            write_json(run_dir / "config.json", run.record())
            rewrite_summary(run_dir, hash=run.hash, run_id=run.run_id)


def rewrite_summary(run_dir, **changes):
    summary = read_json(run_dir / "summary.json")
    for key in ("files", "digest"):
        del summary[key]
    write_summary(run_dir, {**summary, **changes})


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_reproduce_writes_runs_and_report(finished_project):
    project = finished_project
    results = load_results(project.root / "results" / "tiny")
    assert list(results.runs["status"]) == ["done", "done"]
    assert len(results.predictions) == 2 * 24
    for run_id in ("resnet-seed0", "se-seed0"):
        run_dir = project.run_dir(run_id)
        assert altered_files(run_dir) == []
        names = {path.name for path in run_dir.iterdir()}
        assert names >= {
            *("config.json", "history.csv", "predictions.npz", "summary.json", "environment.json", "notebook.ipynb"),
            "weights.safetensors",
        }
        assert not [name for name in names if name.startswith("checkpoint")], "a finished run needs none"
        assert not list(run_dir.glob("*.tmp")) + list(run_dir.glob("*partial*"))
        config = read_json(run_dir / "config.json")
        assert config["hash"] == read_json(run_dir / "summary.json")["hash"]
        assert config["recipe"]["momentum"] == 0.9, "every default is written out"
        executed = json.loads((run_dir / "notebook.ipynb").read_text(encoding="utf-8"))
        assert any(cell.get("outputs") for cell in executed["cells"])
    report = (project.root / "results" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "Does it run?" in report
    assert "data:image/" in report
    assert "grey <b>" not in report
    assert "<script" not in report


def test_second_reproduce_does_nothing(finished):
    before = times(finished.root / "results")
    code, output = finished.call("reproduce", "tiny")
    assert code == 0, output
    assert "2 runs, 2 already done" in output
    assert times(finished.root / "results") == before

    finished.write_study("tiny", {"question": "And now?"})
    code, output = finished.call("reproduce", "tiny")
    assert code == 0, output
    assert "2 runs, 2 already done" in output
    assert "And now?" in (finished.root / "results" / "tiny" / "report.html").read_text(encoding="utf-8")


def test_run_of_a_study_that_was_changed_is_refused(project):
    """As when the file is edited while the launcher trains another run of it."""
    code, output = project.run("se-seed0", "tiny", "--hash", "0123")
    assert code == 2 and not project.run_dir("se-seed0").exists()
    assert output == "error: study 'tiny' was changed after se-seed0 was planned; start the command again\n"


def test_bad_input_is_one_line(project):
    """Exit code 2, one line that names what is wrong, and nothing written."""
    project.write_study("bad_network", {"networks": {"resnet21": None}})
    project.write_study("bad_key", {"recipe": {"epoch": 1}})
    knobs = {"model": "se_resnet20", "knobs": {"reduction": 1000}}
    project.write_study("bad_knob", {"networks": {"resnet20": None, "se": knobs}})
    project.write_study("no_data", {"data": "folder:nowhere"})
    project.write_study("long_label", {"networks": {"a" * 244: TINY["networks"]["se"]}})
    for key, value in (("holdout", 95), ("holdout", 96), ("crop_size", 29), ("first_size", 32), ("cutout", 29)):
        project.write_study(f"{key}{value}", {"recipe": {**TINY["recipe"], key: value}})
    project.write_study("own", {"networks": {"a": {"recipe": {"crop_size": 29}, **TINY["networks"]["se"]}}})
    huge = {"networks": {"a": {**TINY["networks"]["se"], "knobs": {"width": 1e300}}}}
    project.write_study("wide", huge)
    project.write_study("padded", {"recipe": {**TINY["recipe"], "crop_padding": 10**20}})
    project.write_study("fixed", {"networks": {"source_d_senet18": {"knobs": {"width": 0.25}}}})
    for arguments, named in (
        (["reproduce", "tinny"], ["'tinny'", "'tiny'"]),
        (["reproduce", "bad_network"], ["'resnet21'", "resnet20"]),
        (["reproduce", "bad_key"], ["bad_key.yaml", "'recipe.epoch'", "'epochs'"]),
        (["reproduce", "bad_knob"], ["bad_knob", "reduction"]),
        (["reproduce", "no_data"], ["nowhere"]),
        (["plan", "wide"], ["wide", "networks.a"]),
        (["plan", "padded"], ["padded", "networks."]),
        (["reproduce", "tiny", "--data", "cifr10"], ["cifr10", "'cifar10'"]),
        (["reproduce", "tiny", "--limit-epochs", "0"], ["LIMIT_EPOCHS"]),
        *((["reproduce", "tiny", "--limit-epochs", epochs], ["LIMIT_EPOCHS", epochs]) for epochs in ("abc", "1.5")),
        *(
            (["reproduce", "tiny", "--jobs", jobs], [f"JOBS is {jobs}; allowed: 1"])
            for jobs in ("0", "abc", "-1", "1.5")
        ),
        (["reproduce", "tiny", "--jobs"], ["JOBS is empty; allowed: 1"]),
        (["plan", "tiny", "--jobs", "abc"], ["JOBS is abc; allowed: 1"]),
        (["plan", "tiny", "--threads", "many"], ["THREADS is many"]),
        (["plan", "tiny", "--threads", "1000000"], ["THREADS is 1000000; allowed: 1 to 4096"]),
        (["plan", "tiny", "--jobs", str(10**12)], ["JOBS is 1000000000000; allowed: 1 to"]),
        (["reproduce", "tiny", "--executor", "slrum"], ["EXECUTOR is slrum; did you mean 'slurm'?", "local, ray"]),
        (["plan", "tiny", "--gpus-per-run", "1.5"], ["GPUS_PER_RUN is 1.5", "0.5"]),
        (["reproduce", "tiny", "--storage", "cpoy"], ["STORAGE is cpoy; did you mean 'copy'?"]),
        (["reproduce", "tiny", "--no-wait"], ["NO_WAIT needs EXECUTOR=slurm; EXECUTOR is local"]),
        (["reproduce", "tiny", "--gpus-per-run", "99"], ["GPUS_PER_RUN is 99; GPUs of this machine:"]),
        *(
            (["reproduce", "tiny", "--time-limit", limit], [f"TIME_LIMIT is {limit or 'empty'}; allowed: ", "1h30m"])
            for limit in ("", "10", "0m", "1.5h", "30m1h", "soon", "٣m")
        ),
        (["reproduce", "long_label"], ["long_label.yaml", "aaa", "1 to 100"]),
        *(
            ([command, study], [study, *named])
            for command in ("reproduce", "plan")
            for study, *named in (
                ("holdout95", "networks.resnet", "holdout=95"),
                ("holdout96", "holdout=96", "1 to 95"),
                ("crop_size29", "crop_size=29", "28"),
                ("first_size32", "first_size=32", "28"),
                ("cutout29", "cutout=29", "28"),
                ("own", "networks.a", "crop_size=29"),
                ("fixed", "networks.source_d_senet18", "28x28"),
            )
        ),
        (["report", "tiny"], ["no results", "make reproduce STUDY=tiny"]),
        (["publish", "tiny"], ["resnet-seed0", "se-seed0"]),
        (["archive", "tiny"], ["no results", "make reproduce STUDY=tiny"]),
        (["restore", "tiny"], ["tiny"]),
        (["verify", "tiny"], ["tiny"]),
    ):
        code, output = project.call(*arguments)
        assert (code, output.count("\n")) == (2, 1), (arguments, output)
        assert all(part in output for part in ("error: ", *named)), (arguments, output)
        assert not (project.root / "results").exists(), arguments
    project.variables = {"SENET_PRECISION": "half"}
    for command in ("reproduce", "plan"):
        assert project.call(command, "tiny") == (2, "error: SENET_PRECISION is half; allowed: fp32, bf16\n")
    assert not (project.root / "results").exists()


def test_options_of_the_parser_are_one_line(capsys):
    for arguments in (
        ["reproduce"],
        ["plan", "tiny", "--device", "tpu"],
        ["reproduce", "tiny", "--job", "2", "--x"],
        [],
    ):
        with pytest.raises(SystemExit, match="2"):
            cli.main(arguments)
        said = capsys.readouterr()
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert said.out == ""


def test_ascii_locale_shows_every_path(project):
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "senet_lib.cli", "reproduce", "tiny", "--results", "ergebnisse-ü", "--data", "ü"]
    done = subprocess.run(command, env=project.environment() | ascii_only, cwd=project.root, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.decode("utf-8").startswith("error: DATA=ü is neither")


def test_stopped_command_says_so_in_one_line(monkeypatch, capsys):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in handlers:

        def plan(options, number=number):
            signal.raise_signal(number)

        monkeypatch.setattr(cli, "plan", plan)
        try:
            with pytest.raises(SystemExit) as stopped:
                cli.main(["plan", "tiny"])
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)
        assert (stopped.value.code, capsys.readouterr().err) == (128 + number, "stopped\n")


def test_whole_runs_writes_no_report(finished):
    """Where only finished runs are brought back, a report would be lost."""
    report = finished.root / "results" / "tiny" / "report.html"
    report.unlink(missing_ok=True)
    code, output = finished.call("reproduce", "tiny", "--whole-runs", "--time-limit=60s")
    assert code == 0 and "2 already done" in output, output
    assert not report.exists() and "report:" not in output
    assert finished.call("reproduce", "tiny")[0] == 0 and report.is_file()


def test_nothing_left_to_train_needs_no_data(finished, monkeypatch):
    """Even if study.json is damaged or lost while the study is archived, or its configurations are relabelled."""
    assert finished.call("archive", "tiny")[0] == 0
    folder = finished.root / "results" / "tiny"
    recorded = read_json(folder / "study.json")
    shutil.move(finished.images, finished.root / "elsewhere")
    monkeypatch.setattr(cli, "build_report", lambda folder: folder / "report.html")
    before = times(folder / "runs")
    try:
        for content in (None, b"", b'{"name": "ti', b"[]"):
            (folder / "study.json").unlink() if content is None else (folder / "study.json").write_bytes(content)
            (folder / "examples.npz").write_bytes(content or b"")
            code, output = finished.call("report", "tiny")
            assert (code, output.count("\n")) == (2, 1), output
            assert "make reproduce" in output
            assert content is None or finished.call("publish", "tiny")[0] == 2
            code, output = finished.call("plan", "tiny")
            assert code == 0, output
            assert output.count("done") >= 2
            code, output = finished.call("reproduce", "tiny")
            assert code == 0, output
            assert read_json(folder / "study.json") == recorded
            assert content is None or "study.json is damaged" in output
            assert content is None or (folder / "study.json.damaged").read_bytes() == content
            assert "examples.npz is damaged" in output
            assert (folder / "examples.npz.damaged").read_bytes() == (content or b"")
        assert times(folder / "runs") == before
        labels = {"se": "new", "resnet": "se"}  # the label of one is the earlier label of the other
        finished.write_study("tiny", {"networks": {labels[label]: n for label, n in TINY["networks"].items()}})
        code, output = finished.call("reproduce", "tiny")
    finally:
        shutil.move(finished.root / "elsewhere", finished.images)
    assert code == 0, output
    assert "2 runs, 2 already done" in output
    runs = load_results(folder).runs
    assert dict(zip(runs["label"], runs["params"], strict=True)).keys() == {"se", "new"}
    assert list(runs["status"]) == ["done", "done"]


def test_failed_runs_are_reported(project):
    # A weight decay of 1000 makes the weights grow step by step; the loss overflows in the second epoch
    late = {**TINY["networks"]["resnet"], "recipe": {"weight_decay": 1e3, "schedule": "constant"}}
    at_once = {**TINY["networks"]["se"], "recipe": {"lr": 1e30}}
    changes = {"recipe": {**TINY["recipe"], "epochs": 3}, "networks": {"diverges": late, "too": at_once}}
    project.write_study("broken", changes)
    project.variables = {"SENET_CHECKPOINT_SECONDS": "0"}
    code, output = project.call("reproduce", "broken", "--jobs", "2")
    assert code == 1, output
    results = load_results(project.root / "results" / "broken")
    assert list(results.runs["status"]) == ["failed", "failed"], "the second was tried although the first had failed"
    for error, epoch in zip(results.runs["error"], (2, 1), strict=True):
        assert re.search(f"NonFiniteLoss: the loss is nan in epoch {epoch}, step . of 6, learning rate ", error)
    kept = torch.load(project.run_dir("diverges-seed0", "broken") / "checkpoint.pt", weights_only=True)
    assert len(kept["history"]) == 1, "the last good checkpoint"
    assert list(results.history["epoch"]) == [1], "finished epochs are shown"
    table = pd.read_csv(project.root / "results" / "broken" / "tables" / "runs.csv")
    assert list(table["status"]) == ["failed", "failed"]
    assert "NonFiniteLoss" in (project.root / "results" / "broken" / "report.html").read_text(encoding="utf-8")


def test_changed_recipe_is_another_run(finished):
    first = read_json(finished.run_dir("se-seed0") / "summary.json")
    other = {**TINY["networks"]["se"], "recipe": {"lr": 0.03}}
    finished.write_study("tiny", {"networks": {**TINY["networks"], "se": other}})
    code, output = finished.call("reproduce", "tiny")
    assert code == 0, output
    assert "2 runs, 1 already done" in output
    assert "se-seed0: recipe changed" in output
    assert read_json(finished.run_dir("se-seed0") / "summary.json")["hash"] != first["hash"]
    kept = list(finished.run_dir("se-seed0").parent.glob(".se-seed0.superseded-*/summary.json"))
    assert [read_json(path) for path in kept] == [first], "the earlier run is kept"


def test_altered_run_is_trained_again(finished):
    assert finished.call("verify", "tiny") == (0, "2 finished runs, 0 damaged files\n")
    run_ids = ("resnet-seed0", "se-seed0")
    before = {run_id: read_json(finished.run_dir(run_id) / "summary.json")["files"] for run_id in run_ids}
    other = times(finished.run_dir("resnet-seed0"))

    history = finished.run_dir("se-seed0") / "history.csv"
    history.write_text(history.read_text(encoding="utf-8").replace("0.", "0.9", 1), encoding="utf-8")
    (finished.run_dir("se-seed0") / "predictions.npz").unlink()
    code, output = finished.call("verify", "tiny")
    assert code == 1
    folder = "results/tiny/runs/se-seed0"
    assert {line.partition(":")[0] for line in output.splitlines()[:-1]} == {
        f"{folder}/history.csv",
        f"{folder}/predictions.npz",
    }

    code, output = finished.call("reproduce", "tiny")
    assert code == 0
    assert "2 runs, 1 already done" in output
    assert "se-seed0: history.csv, predictions.npz: " in output
    assert times(finished.run_dir("resnet-seed0")) == other
    after = read_json(finished.run_dir("se-seed0") / "summary.json")["files"]
    for name in ("predictions.npz", "weights.safetensors"):
        assert after[name] == before["se-seed0"][name]
    assert finished.call("verify", "tiny")[0] == 0
    (finished.run_dir("se-seed0") / "weights.safetensors").unlink()  # as of a run that came back from another machine
    assert finished.call("verify", "tiny") == (0, "2 finished runs, 0 damaged files\n")


def test_plan_and_dry_run(project):
    project.write_study("tiny", {"recipe": {"epochs": 50}, "networks": {"se": TINY["networks"]["se"]}})
    code, output = project.call("plan", "tiny")
    assert code == 0, output
    assert output.count("to do") == 1
    assert "measuring 1 of 1: se ..." in output
    assert "The run would be executed on this machine, one run at a time, each with 1 CPU thread" in output
    assert "Power" not in output, "one network, so no comparison"
    assert "one device" not in output
    assert "It is that of one device per run." in project.call("plan", "tiny", "--devices", "2")[1]
    assert not (project.root / "results").exists()
    code, output = project.run("se-seed0", "tiny", "--limit-epochs", "1")
    assert code == 0, output
    assert len(read_history(project.run_dir("se-seed0", "tiny+1epoch"))) == 1


def test_plan_states_the_power(finished):
    """With two seeds of two networks, which differ by 2 pp within one network: a standard deviation of 1 pp."""
    finished.write_study("tiny", {"seeds": [0, 1]})
    add_seed(finished, "tiny", 1)
    for label in ("resnet", "se"):
        rewrite_summary(finished.run_dir(f"{label}-seed0"), test_accuracy=0.5)
    rewrite_summary(finished.run_dir("resnet-seed1"), test_accuracy=0.52)
    rewrite_summary(finished.run_dir("se-seed1"), test_accuracy=0.5)
    code, output = finished.call("plan", "tiny")
    assert code == 0, output
    for fact in ("1 planned comparison", "1.00 pp", "4 runs of 2 networks", "2 seeds per network"):
        assert fact in output, output


def test_publish_copies_numbers_and_small_weights(finished):
    finished.write_study("tiny", {"seeds": [0, 3]})
    add_seed(finished, "tiny", 3)
    large = finished.run_dir("resnet-seed0")
    (large / "weights.safetensors").write_bytes(bytes(3 * 2**20))
    rewrite_summary(large)
    (finished.root / "results" / "tiny" / "examples.npz").unlink(
        missing_ok=True
    )  # as if the runs came from another machine
    code, output = finished.call("publish", "tiny")
    assert code == 0, output
    published = finished.root / "results" / "published" / "tiny"
    assert len(load_results(published).done) == 4
    assert (published / "examples.npz").is_file(), "pictures are stored where the data set is"
    kinds = {path.suffix for path in published.rglob("*") if path.is_file()}
    assert kinds == {".json", ".csv", ".npz", ".svg", ".md", ".safetensors"}, "figures in one format, no report"
    weights = {path.parent.name for path in published.rglob("*.safetensors")}
    assert weights == {"se-seed0"}, "neither large weights nor a second seed's"

    assert finished.call("verify", "tiny") == (0, "8 finished runs, 0 damaged files\n")
    damaged = published / "runs" / "se-seed0" / "weights.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, output = finished.call("verify", "tiny")
    assert code == 1
    assert "se-seed0/weights.safetensors: " in output


def test_restore_trains_only_missing_runs(finished):
    assert finished.call("publish", "tiny")[0] == 0
    before = load_results(finished.root / "results" / "tiny").runs
    shutil.rmtree(finished.root / "results" / "tiny")

    third = {"plain": {"model": "resnet20", "knobs": {"width": 0.25}}}
    finished.write_study("tiny", {"networks": {**TINY["networks"], **third}})
    assert finished.call("restore", "tiny") == (0, "restored: 2 of 3 runs\n")
    assert finished.call("restore", "tiny")[1].startswith("restored: 0 of 3")
    assert finished.call("verify", "tiny") == (0, "4 finished runs, 0 damaged files\n")
    code, output = finished.call("reproduce", "tiny")
    assert code == 0, output
    assert "3 runs, 2 already done" in output
    lines = [line for line in output.splitlines() if "0.00 pp" in line]
    assert [line.split()[0] for line in lines] == ["resnet", "se"], "beside the published numbers"
    after = load_results(finished.root / "results" / "tiny").runs
    assert after[after["label"] != "plain"].reset_index(drop=True).equals(before)


def test_published_study_keeps_the_runs_of_incomplete_seeds_in_its_archive(finished, monkeypatch):
    finished.write_study("tiny", {"seeds": [0, 1]})
    add_seed(finished, "tiny", 1)
    shutil.rmtree(finished.run_dir("se-seed1"))
    archive = finished.root / "results" / "archive" / "tiny.zip"
    for command in ("archive", "publish"):
        assert finished.call(command, "tiny")[0] == 0
    assert load_results(archive).done["run_id"].tolist() == ["resnet-seed1"], "no run is stored twice"
    shutil.rmtree(finished.root / "results" / "tiny")
    assert [results.done["seed"].tolist() for results in committed(finished.root)] == [[0, 0]], "only the published one"
    assert finished.call("restore", "tiny") == (0, "restored: 3 of 4 runs\n")
    archive.unlink()
    shutil.rmtree(finished.run_dir("resnet-seed1"))
    assert finished.call("restore", "tiny")[1] == "restored: 0 of 4 runs\n", "the published ones are there"

    add_seed(finished, "tiny", 1)
    for command in ("archive", "publish"):
        assert finished.call(command, "tiny")[0] == 0
    assert not archive.exists(), "every run is published"
    assert [len(results.done) for results in committed(finished.root)] == [4]

    other = shutil.copytree(finished.root / "results" / "tiny", finished.root / "other")
    finished.write_study("tiny", {"seeds": [0, 1], "recipe": {**TINY["recipe"], "lr": 0.01}})
    study = load_study("tiny", finished.root / "studies")
    for run in study.runs():
        run_dir = other / "runs" / run.run_id
        write_json(run_dir / "config.json", run.record())
        rewrite_summary(run_dir, hash=run.hash)
    monkeypatch.setenv("SENET_ROOT", str(finished.root))
    archive_runs(study, study.runs(), other)
    finished.write_study("tiny", {"seeds": [0, 1]})
    assert finished.call("publish", "tiny")[0] == 0
    assert archive.exists(), "runs of the same names, but trained with another recipe"


def test_archive_keeps_every_finished_run(finished):
    finished.write_study("tiny", {"seeds": [0, 1]})
    add_seed(finished, "tiny", 1)
    shutil.rmtree(finished.run_dir("se-seed1"))
    shutil.copytree(finished.run_dir("resnet-seed0"), aside := finished.root / "aside")
    code, output = finished.call("publish", "tiny")
    assert code == 0, output
    published = finished.root / "results" / "published" / "tiny"
    assert {path.name for path in (published / "runs").iterdir()} == {"resnet-seed0", "se-seed0"}, "complete seeds"
    assert list(pd.read_csv(published / "tables" / "networks.csv")["n"]) == [1, 1]
    predictions = load_results(published).predictions

    assert finished.call("archive", "tiny") == (0, "archived: results/archive/tiny.zip\n")
    archive = finished.root / "results" / "archive" / "tiny.zip"
    first = archive.read_bytes()
    packed = load_results(archive)
    assert set(packed.done["run_id"]) == {"resnet-seed0", "se-seed0", "resnet-seed1"}
    of_seed = packed.predictions["seed"] == 0
    assert packed.predictions[of_seed].reset_index(drop=True).equals(predictions)
    shutil.rmtree(published)
    shutil.rmtree(finished.root / "results" / "tiny")
    assert finished.call("verify", "tiny") == (0, "3 finished runs, 0 damaged files\n")
    assert finished.call("restore", "tiny") == (0, "restored: 3 of 4 runs\n")
    for name in ("config.json", "history.csv", "predictions.npz", "summary.json", "environment.json"):
        assert (finished.run_dir("resnet-seed0") / name).read_bytes() == (aside / name).read_bytes()
    finished.write_study("tiny", {"seeds": [0, 1], "notes": "A later note."})
    code, output = finished.call("report", "tiny")
    assert code == 0, output
    page = (finished.root / "results" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "Does it run?" in page and "A later note." in page
    assert output.count("\n") == 1
    finished.write_study("tiny", {"seeds": [0, 1], "recipe": {**TINY["recipe"], "momentum": 0.8}})
    code, output = finished.call("report", "tiny")
    assert code == 0 and "report:" in output, output
    assert "tiny: its file has changed since these runs were planned, and the report is of them" in output
    finished.write_study("tiny", {"seeds": [0, 1]})
    assert finished.call("archive", "tiny")[0] == 0
    assert archive.read_bytes() == first, "the same runs give the same bytes"
