"""From the command line to the report, in processes of their own, as a user and a scheduler would start them."""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import resource
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
ONE_THREAD = ("--threads", "1", "--device", "cpu")


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

    def start(self, command, *arguments, **options):
        return self._start([sys.executable, "-m", "senet_lib.launch", command, *ONE_THREAD, *arguments], **options)

    def make(self, command, study):
        """As a user does it, through the Makefile; with this interpreter, set up or not."""
        makefile = ["make", "--no-print-directory", "-f", str(project_root() / "Makefile"), "VENV="]
        return self._start([*makefile, command, f"OPTIONS={study} {' '.join(ONE_THREAD)}"])

    def _start(self, command, **options):
        environment = {**os.environ, "SENET_ROOT": str(self.root), "SENET_CACHE": str(self.root / "cache")}
        environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, cwd=self.root, **pipes, **options)

    def launch(self, *arguments, **options):
        process = self.start(*arguments, **options)
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
    # Decay of a thousand makes the weights grow step by step, and the loss overflows in the second epoch
    late = {**TINY["networks"]["resnet"], "recipe": {"weight_decay": 1e3, "schedule": "constant"}}
    at_once = {**TINY["networks"]["se"], "recipe": {"lr": 1e30}}
    study = {**TINY, "data": f"folder:{project.images}", "recipe": {**TINY["recipe"], "epochs": 3}}
    project.write_study("broken", {**study, "networks": {"diverges": late, "too": at_once}})
    code, output = project.launch("reproduce", "broken", "--jobs", "2")
    assert code == 1, output
    results = load_study(project.root / "results" / "broken")
    assert list(results.runs["status"]) == ["failed", "failed"], "the second was tried although the first had failed"
    for error, epoch in zip(results.runs["error"], (2, 1), strict=True):
        assert re.search(f"NonFiniteLoss: the loss is nan in epoch {epoch}, step . of 6, learning rate ", error)
    kept = torch.load(project.run_dir("diverges-seed0", "broken") / "checkpoint.pt", weights_only=True)
    assert len(kept["history"]) == 1, "the last good one"
    assert list(results.history["epoch"]) == [1], "what was trained is shown"
    table = (project.root / "results" / "broken" / "tables" / "runs.csv").read_text(encoding="utf-8")
    assert table.count(",failed,") == 2
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


@pytest.mark.parametrize("victim", ["make", "senet_lib.run", "ipykernel"])
def test_a_killed_supervisor_leaves_no_process_and_nothing_that_looks_finished(project, undisturbed, victim):
    """`make` itself, papermill's process, the kernel."""
    if victim == "make" and not shutil.which("make"):
        pytest.skip("there is no make here")
    run_dir = long_study(project)
    process = project.make("reproduce", "long") if victim == "make" else project.start("reproduce", "long")
    wait_for(lambda: (run_dir / "checkpoint.previous.pt").exists())
    assert len(processes_of(project)) >= (4 if victim == "make" else 3)
    for candidate in [process] if victim == "make" else processes_of(project):
        with contextlib.suppress(psutil.NoSuchProcess):  # a killed run takes its kernel with it
            if victim == "make" or any(victim in part for part in candidate.cmdline()):
                candidate.kill()
    if victim != "make":  # who is told so by the supervisor
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output
    wait_for(lambda: not processes_of(project), seconds=5)
    process.communicate(timeout=5)
    assert not (run_dir / "summary.json").exists()
    code, output = project.launch("reproduce", "long")
    assert code == 0, output
    assert weights(run_dir) == weights(undisturbed[1])
    assert history(run_dir).equals(history(undisturbed[1]))
    assert not (run_dir / "failure.json").exists()


def test_a_run_goes_on_with_other_threads_only_on_demand_and_the_report_says_so(project, undisturbed):
    run_dir = long_study(project)
    run_dir.mkdir(parents=True)
    for source, name in (("checkpoint.previous.pt", "checkpoint.pt"), ("checkpoint.sha256", "checkpoint.sha256")):
        shutil.copy(undisturbed[1] / source, run_dir / name)  # as if stopped before its last epoch
    newest = (run_dir / "checkpoint.pt").read_bytes()

    code, output = project.launch("reproduce", "long", "--threads", "2")
    assert code == 1, output
    assert "failed: resnet-seed0: CheckpointMismatch: " in output.splitlines()[-1]
    assert " results/long/runs/resnet-seed0/checkpoint.pt: cannot resume: threads was 1, is 2. " in output
    assert load_study(run_dir.parents[1]).runs["status"].item() == "failed"
    assert (run_dir / "checkpoint.pt").read_bytes() == newest

    code, output = project.launch("reproduce", "long", "--threads", "2", "--resume-anyway")
    assert code == 0, output
    (deviation,) = read_json(run_dir / "environment.json")["resumed_anyway"]
    assert deviation == "after epoch 11, step 0: threads was 1, is 2"
    report = (run_dir.parents[1] / "report.html").read_text(encoding="utf-8")
    assert "resnet-seed0 was resumed anyway" in report
    assert "done, resumed anyway" in report


def test_a_disk_that_takes_no_more_is_a_failed_run_with_the_path_and_afterwards_it_ends_equal(project, undisturbed):
    """The operating system refuses to let a file grow as far as a checkpoint does."""
    run_dir = long_study(project)
    most = 400_000  # bytes: less than a checkpoint, more than any other file
    code, output = project.launch(
        "reproduce", "long", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    )
    assert code == 1, output
    place = "results/long/runs/resnet-seed0/checkpoint.next.pt"
    assert output.splitlines()[-1] == f"failed: resnet-seed0: OSError: [Errno 27] File too large: '{place}'"
    assert not list(run_dir.glob("*.tmp")) + list(run_dir.glob("checkpoint*.pt"))
    code, output = project.launch("reproduce", "long")
    assert code == 0, output
    assert weights(run_dir) == weights(undisturbed[1])
    assert history(run_dir).equals(history(undisturbed[1]))


def without_override():
    """In a child before it starts: permissions count, for the superuser too."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for capability in (1, 2):  # linux/capability.h: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        prctl(24, capability, 0, 0, 0)  # linux/prctl.h: PR_CAPBSET_DROP


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere permissions do not bind the superuser")
def test_results_that_cannot_be_written_are_an_error_before_anything_is_trained(project):
    results = project.root / "results"
    results.write_text("a file in the folder's place", encoding="utf-8")
    code, output = project.launch("reproduce", "tiny")
    assert (code, output.count("\n")) == (1, 1), output
    assert output.startswith("error: ")
    assert str(results) in output

    results.unlink()
    for closed in (results / "tiny", results / "tiny" / "runs" / "se-seed0"):  # as a run of another user leaves it
        closed.mkdir(parents=True)
        closed.chmod(0o555)
        code, output = project.launch("reproduce", "tiny", preexec_fn=without_override)
        closed.chmod(0o755)
        assert (code, output.count("\n")) == (1, 1), output
        assert output.startswith("error: [Errno 13] Permission denied: ")
        assert str(closed) in output
        assert not list(results.rglob("checkpoint*"))


HOLDER = """
import sys, time
from pathlib import Path
from senet_lib.run import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_holders_lock_is_free_at_once(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout.readline() == "held\n"
        with open(tmp_path / ".run.lock", "w") as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.kill()
            held.wait()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if it is not free


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


def test_published_results_hold_the_numbers_and_the_small_weights_of_the_first_seed(project):
    networks = {"se": TINY["networks"]["se"], "large": {"model": "resnet20", "knobs": {"width": 2}}}  # of 3.4 MB
    study = {**TINY, "data": f"folder:{project.images}", "networks": networks, "seeds": [3, 0]}
    project.write_study("tiny", study)
    assert project.launch("reproduce", "tiny")[0] == 0
    code, output = project.launch("publish", "tiny")
    assert code == 0, output
    published = project.root / "results" / "published" / "tiny"
    assert load_study(published).runs.equals(load_study(project.root / "results" / "tiny").runs)
    names = {path.name for path in published.rglob("*") if path.is_file()}
    assert "report.html" in names
    assert not [name for name in names if name.endswith((".pt", ".ipynb"))]
    weights = {path.parent.name for path in published.rglob("*.safetensors")}
    assert weights == {"se-seed3"}, "neither the large network's nor the second seed's"

    assert project.launch("verify", "tiny") == (0, "8 finished runs, 0 damaged files\n")
    damaged = published / "runs" / "se-seed3" / "weights.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code, output = project.launch("verify", "tiny")
    assert code == 1
    assert "se-seed3/weights.safetensors: not what the run recorded" in output


def test_a_published_study_is_extended_by_training_only_what_is_missing(project):
    code, output = project.launch("restore", "tiny")
    assert (code, output) == (2, "error: results/published/tiny has no finished run of tiny as it is asked now\n")
    assert project.launch("reproduce", "tiny")[0] == project.launch("publish", "tiny")[0] == 0
    before = load_study(project.root / "results" / "tiny").runs
    shutil.rmtree(project.root / "results" / "tiny")

    third = {"plain": {"model": "resnet20", "knobs": {"width": 0.25}}}
    asked = {**TINY, "data": f"folder:{project.images}", "networks": {**TINY["networks"], **third}}
    project.write_study("tiny", asked)
    assert project.launch("restore", "tiny") == (0, "restored: 2 of 3 runs, from results/published/tiny\n")
    assert project.launch("restore", "tiny")[1].startswith("restored: 0 of 3")
    code, output = project.launch("reproduce", "tiny")
    assert code == 0
    assert "3 runs, 2 done before" in output
    assert "yours against published" in output
    lines = [line for line in output.splitlines() if "0.00 points apart (n = 1: no interval)" in line]
    assert [line.split()[0] for line in lines] == ["resnet", "se"]
    after = load_study(project.root / "results" / "tiny").runs
    assert after[after["label"] != "plain"].reset_index(drop=True).equals(before)
    assert project.launch("publish", "tiny")[0] == 0
