"""From the command line to the report, in processes of their own, as a user and a scheduler would start them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image

from senet_lib.project import project_root
from senet_lib.results import altered_files, load_study, read_history, read_json

TINY = {
    "question": "Does it run?",
    "seeds": [0],
    "recipe": {"epochs": 1, "batch_size": 16, "lr": 0.02, "crop_padding": 2},
    "networks": {
        "resnet": {"model": "resnet20", "knobs": {"width": 0.5}},
        "se": {"model": "se_resnet20", "knobs": {"width": 0.5, "reduction": 4}},
    },
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image tree: three classes that differ in brightness, one of them named to be trouble in HTML."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 8)):
        for brightness, name in enumerate(("dark", "grey <b>", "bright")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(60 * brightness, 60 * brightness + 120, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


class Project:
    """A project folder of its own: the real notebooks, a study of the test's."""

    def __init__(self, root, images):
        self.root, self.images = root, images
        (root / "studies").mkdir(parents=True)
        (root / "pyproject.toml").touch()
        shutil.copytree(project_root() / "notebooks", root / "notebooks")
        self.write_study("tiny", {**TINY, "data": f"folder:{images}"})

    def write_study(self, name, content):
        (self.root / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    def start(self, *arguments, **options):
        environment = {**os.environ, "SENET_ROOT": str(self.root), "SENET_CACHE": str(self.root / "cache")}
        command = [sys.executable, "-m", "senet_lib.launch", *arguments, "--threads", "1", "--device", "cpu"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, cwd=self.root, **pipes, **options)

    def launch(self, *arguments):
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    def run_dir(self, run_id, study="tiny"):
        return self.root / "results" / study / "runs" / run_id


@pytest.fixture
def project(tmp_path, images):
    return Project(tmp_path / "a project with späces", images)


def weights(run_dir):
    state = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    return {name: tensor.numpy().tobytes() for name, tensor in state["model"].items()}


def history(run_dir):
    return read_history(run_dir).drop(columns=["train_seconds", "images_per_second"])


def test_a_study_from_its_file_to_its_report_and_a_second_time_nothing_is_done(project):
    code, output = project.launch("reproduce", "tiny")
    assert code == 0, output
    results = load_study(project.root / "results" / "tiny")
    assert list(results.runs["status"]) == ["done", "done"]
    assert len(results.predictions) == 2 * 24
    for run_id in ("resnet-seed0", "se-seed0"):
        run_dir = project.run_dir(run_id)
        assert altered_files(run_dir) == []
        assert {path.name for path in run_dir.iterdir()} >= {
            *("config.json", "history.csv", "predictions.npz", "summary.json", "environment.json", "notebook.ipynb"),
            "checkpoint.pt",
        }
        assert not list(run_dir.glob("*.tmp")) + list(run_dir.glob("*partial*"))
        config = read_json(run_dir / "config.json")
        assert config["hash"] == read_json(run_dir / "summary.json")["hash"]
        assert config["recipe"]["momentum"] == 0.9, "every default is written out"
        executed = json.loads((run_dir / "notebook.ipynb").read_text(encoding="utf-8"))
        outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
        assert any("image/png" in output.get("data", {}) for output in outputs), "it has its figures"
    report = (project.root / "results" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "Does it run?" in report
    assert "grey <b>" not in report
    assert "<script" not in report

    before = {path: path.stat().st_mtime_ns for path in (project.root / "results").rglob("*") if path.is_file()}
    code, output = project.launch("reproduce", "tiny")
    assert code == 0, output
    assert "2 runs, 2 done before" in output
    after = {path: path.stat().st_mtime_ns for path in (project.root / "results").rglob("*") if path.is_file()}
    assert after == before

    project.write_study("tiny", {**TINY, "data": f"folder:{project.images}", "question": "And now?"})
    code, output = project.launch("reproduce", "tiny")
    assert code == 0, output
    assert "2 runs, 2 done before" in output
    assert "And now?" in (project.root / "results" / "tiny" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["reproduce", "tinny"], ["'tinny'", "'tiny'"]),
        (["reproduce", "bad_network"], ["'resnet21'", "resnet20"]),
        (["reproduce", "bad_key"], ["bad_key.yaml", "'recipe.epoch'", "'epochs'"]),
        (["reproduce", "bad_knob"], ["bad_knob", "reduction"]),
        (["reproduce", "no_data"], ["nowhere"]),
        (["reproduce", "tiny", "--data", "cifr10"], ["cifr10", "'cifar10'"]),
        (["reproduce", "tiny", "--limit-epochs", "0"], ["LIMIT_EPOCHS"]),
        (["reproduce", "tiny", "--jobs", "0"], ["JOBS"]),
        (["report", "tiny"], ["no results"]),
        (["publish", "tiny"], ["not finished"]),
    ],
)
def test_bad_input_is_one_line_code_2_and_nothing_written(project, arguments, named):
    study = {**TINY, "data": f"folder:{project.images}"}
    project.write_study("bad_network", {**study, "networks": {"resnet21": None}})
    project.write_study("bad_key", {**study, "recipe": {"epoch": 1}})
    knobs = {"model": "se_resnet20", "knobs": {"reduction": 1000}}
    project.write_study("bad_knob", {**study, "networks": {"resnet20": None, "se": knobs}})
    project.write_study("no_data", {**study, "data": "folder:nowhere"})
    code, output = project.launch(*arguments)
    assert code == 2, output
    lines = [line for line in output.splitlines() if line]
    assert len(lines) == 1, output
    assert all(part in lines[0] for part in ("error: ", *named))
    assert not (project.root / "results").exists()


def test_a_failed_run_is_shown_as_failed_after_the_others_were_done(project):
    study = {**TINY, "data": f"folder:{project.images}", "recipe": {**TINY["recipe"], "lr": 1e30, "clip_norm": None}}
    networks = {"diverges": TINY["networks"]["resnet"], "too": TINY["networks"]["se"]}
    project.write_study("broken", {**study, "networks": networks})
    code, output = project.launch("reproduce", "broken", "--jobs", "2")
    assert code == 1, output
    results = load_study(project.root / "results" / "broken")
    assert list(results.runs["status"]) == ["failed", "failed"], "the second was tried although the first had failed"
    assert results.runs["error"].str.contains("NonFiniteLoss.*epoch 1, step").all()
    report = (project.root / "results" / "broken" / "report.html").read_text(encoding="utf-8")
    assert "failed" in report
    assert "NonFiniteLoss" in report


def processes_of(project):
    """Every process that works below the project's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SENET_ROOT") == str(project.root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, images):
    """A longer run, left alone: its weights and history."""
    project = Project(tmp_path_factory.mktemp("undisturbed") / "project", images)
    return project, long_study(project, start=True)


def long_study(project, start=False):
    recipe = {**TINY["recipe"], "epochs": 12}
    networks = {"resnet": TINY["networks"]["resnet"]}
    project.write_study("long", {**TINY, "data": f"folder:{project.images}", "recipe": recipe, "networks": networks})
    if start:
        code, output = project.launch("reproduce", "long")
        assert code == 0, output
    return project.run_dir("resnet-seed0", "long")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_in_mid_epoch_it_goes_on_to_the_same_weights_and_history(project, undisturbed, number):
    run_dir = long_study(project)
    process = project.start("reproduce", "long")
    wait_for(lambda: (run_dir / "checkpoint.previous.pt").exists())  # at least two epochs are done
    time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), output
    wait_for(lambda: not processes_of(project), seconds=5)
    assert not (run_dir / "summary.json").exists()
    assert not (run_dir / "failure.json").exists()

    code, output = project.launch("reproduce", "long")
    assert code == 0, output
    assert "resumed after epoch" in output
    assert weights(run_dir) == weights(undisturbed[1])
    assert history(run_dir).equals(history(undisturbed[1]))


@pytest.mark.parametrize("victim", ["senet_lib.run", "ipykernel"])
def test_a_killed_run_or_kernel_leaves_no_process_and_nothing_that_looks_finished(project, undisturbed, victim):
    run_dir = long_study(project)
    process = project.start("reproduce", "long")
    wait_for(lambda: (run_dir / "checkpoint.previous.pt").exists())
    for candidate in processes_of(project):
        with contextlib.suppress(psutil.NoSuchProcess):  # a killed run takes its kernel with it
            if any(victim in part for part in candidate.cmdline()):
                candidate.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    wait_for(lambda: not processes_of(project), seconds=5)
    assert not (run_dir / "summary.json").exists()
    code, output = project.launch("reproduce", "long")
    assert code == 0, output
    assert weights(run_dir) == weights(undisturbed[1])
    assert not (run_dir / "failure.json").exists()


def test_two_at_once_execute_each_run_once(project):
    first, second = project.start("reproduce", "tiny"), project.start("reproduce", "tiny")
    outputs = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), "\n".join(outputs)
    for run_id in ("resnet-seed0", "se-seed0"):
        trained = sum(f"[{run_id}] epoch 1/1" in output for output in outputs)
        assert trained == 1, "\n".join(outputs)


def test_a_changed_recipe_is_another_run_said_aloud_and_the_earlier_one_is_kept(project):
    networks = {"resnet": TINY["networks"]["resnet"]}
    study = {**TINY, "data": f"folder:{project.images}", "networks": networks}
    project.write_study("tiny", study)
    assert project.launch("reproduce", "tiny")[0] == 0
    first = read_json(project.run_dir("resnet-seed0") / "summary.json")
    project.write_study("tiny", {**study, "recipe": {**TINY["recipe"], "lr": 0.03}})
    code, output = project.launch("reproduce", "tiny")
    assert code == 0, output
    assert "recipe changed" in output
    assert read_json(project.run_dir("resnet-seed0") / "summary.json")["hash"] != first["hash"]
    kept = list(project.run_dir("resnet-seed0").parent.glob(".resnet-seed0.superseded-*/summary.json"))
    assert [read_json(path) for path in kept] == [first]


def test_an_altered_file_is_named_and_only_that_run_is_done_again(project):
    assert project.launch("reproduce", "tiny")[0] == 0
    assert project.launch("verify", "tiny") == (0, "2 finished runs, 0 damaged files\n")
    before = {run_id: read_json(project.run_dir(run_id) / "summary.json") for run_id in ("resnet-seed0", "se-seed0")}
    other = (project.run_dir("resnet-seed0") / "summary.json").stat().st_mtime_ns

    history = project.run_dir("se-seed0") / "history.csv"
    history.write_text(history.read_text(encoding="utf-8").replace("0.", "0.9", 1), encoding="utf-8")
    (project.run_dir("se-seed0") / "predictions.npz").unlink()
    code, output = project.launch("verify", "tiny")
    assert code == 1
    assert "results/tiny/runs/se-seed0/history.csv: not what the run recorded" in output
    assert "results/tiny/runs/se-seed0/predictions.npz: missing" in output

    code, output = project.launch("reproduce", "tiny")
    assert code == 0
    assert "2 runs, 1 done before" in output
    assert "se-seed0: history.csv, predictions.npz missing or not as recorded" in output
    assert (project.run_dir("resnet-seed0") / "summary.json").stat().st_mtime_ns == other
    after = read_json(project.run_dir("se-seed0") / "summary.json")
    for name in ("predictions.npz", "weights.safetensors"):
        assert after["files"][name] == before["se-seed0"]["files"][name]
    assert project.launch("verify", "tiny")[0] == 0


def test_a_dry_run_and_a_plan(project):
    project.write_study("tiny", {**TINY, "data": f"folder:{project.images}", "recipe": {"epochs": 50}})
    code, output = project.launch("plan", "tiny")
    assert code == 0, output
    assert "resnet-seed0" in output
    assert "to do" in output
    assert not (project.root / "results").exists()
    code, output = project.launch("reproduce", "tiny", "--limit-epochs", "1")
    assert code == 0, output
    assert len(read_history(project.run_dir("se-seed0", "tiny+1epoch"))) == 1


def test_published_results_hold_the_numbers_and_no_weights(project):
    assert project.launch("reproduce", "tiny")[0] == 0
    code, output = project.launch("publish", "tiny")
    assert code == 0, output
    published = project.root / "results" / "published" / "tiny"
    assert load_study(published).runs.equals(load_study(project.root / "results" / "tiny").runs)
    names = {path.name for path in published.rglob("*") if path.is_file()}
    assert "report.html" in names
    assert not [name for name in names if name.endswith((".pt", ".safetensors", ".ipynb"))]

    code, output = project.launch("reproduce", "tiny")
    assert code == 0, output
    assert "yours against published" in output
    lines = [line for line in output.splitlines() if "0.00 points apart (n = 1: no interval)" in line]
    assert [line.split()[0] for line in lines] == ["resnet", "se"]
