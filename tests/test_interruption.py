"""What stops, time limits, kills, full disks, closed folders and second processes must not do to a run."""

import contextlib
import ctypes
import fcntl
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from project_folder import TINY, Project, completed, history, weights

from senet_lib.data import load_dataset
from senet_lib.models import create_model
from senet_lib.running.time_limit import TimeLimit
from senet_lib.study import load_study
from senet_lib.training import fit

EPOCHS = 12
EVERY_STEP = {"SENET_CHECKPOINT_SECONDS": "0"}  # for checkpoints; the default is longer than these runs take


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


@pytest.fixture
def long_run(project):
    """The run directory of a study with one run of many epochs; nothing is trained yet."""
    changes = {"recipe": {**TINY["recipe"], "epochs": EPOCHS}, "networks": {"resnet": TINY["networks"]["resnet"]}}
    project.write_study("long", changes)
    return project.run_dir("resnet-seed0", "long")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, images):
    """The directory of the same training, by the library alone: its weights and history."""
    project = Project(tmp_path_factory.mktemp("uninterrupted") / "project", images)
    changes = {"recipe": {**TINY["recipe"], "epochs": EPOCHS}, "networks": {"resnet": TINY["networks"]["resnet"]}}
    project.write_study("long", changes)
    (run,) = load_study("long", project.root / "studies").runs()
    data = load_dataset(run.data)
    torch.manual_seed(run.seed)
    model = create_model(run.model, num_classes=len(data.classes), **run.knobs)
    run_dir = project.run_dir(run.run_id, "long")
    run_dir.mkdir(parents=True)
    fit(model, data, run.recipe, run_dir=run_dir, config_hash=run.hash, device="cpu", threads=1, progress="none")
    return run_dir


def check_resumed(project, run_dir, uninterrupted):
    code, output = project.run("resnet-seed0", "long")
    assert code == 0, output
    assert "resumed after epoch" in output
    assert weights(run_dir) == weights(uninterrupted)
    assert history(run_dir).equals(history(uninterrupted))
    assert not (run_dir / "failure.json").exists()


def two_epochs_done(run_dir):
    def done():
        path = run_dir / "history.csv"
        return path.exists() and path.read_text(encoding="utf-8").count("\n") > 2

    return done


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_stopped_launcher_resumes(project, long_run, uninterrupted, number):
    if number == signal.SIGKILL:
        project.variables = EVERY_STEP
    process = project.start("reproduce", "long")
    wait_for(two_epochs_done(long_run))
    time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), output
    wait_for(lambda: not processes_of(project), seconds=5)
    assert not (long_run / "summary.json").exists()
    assert not (long_run / "failure.json").exists()
    check_resumed(project, long_run, uninterrupted)


@pytest.mark.slow
def test_time_limit_leaves_a_checkpoint(project, long_run, uninterrupted, monkeypatch):
    """Reached after two epochs: no failure, a report, and the same command continues."""
    done = two_epochs_done(long_run)
    monkeypatch.setattr(TimeLimit, "stop_at", lambda limit, start: -math.inf if done() else math.inf)
    code, output = project.call("reproduce", "long", "--time-limit", "1h")
    assert code == 0, output
    assert output.splitlines()[-1] == "stopped at the time limit: 0 of 1 runs finished; the same command continues"
    assert (project.root / "results" / "long" / "report.html").exists()
    assert (long_run / "checkpoint.pt").exists()
    assert not (long_run / "failure.json").exists()
    check_resumed(project, long_run, uninterrupted)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(
    ("number", "whom"),
    [
        pytest.param(signal.SIGINT, "process group of make", marks=pytest.mark.slow),  # Ctrl-C
        pytest.param(signal.SIGTERM, "process group of make", marks=pytest.mark.slow),  # `timeout`
        pytest.param(signal.SIGINT, "every process", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "every process", marks=pytest.mark.slow),  # the end of a service or a container
    ],
)
def test_signal_to_many_processes_loses_no_step(project, long_run, uninterrupted, number, whom):
    process = project.make("reproduce", "long", start_new_session=True)
    wait_for(two_epochs_done(long_run))
    if whom == "every process":
        for each in processes_of(project):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)
    else:
        os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    wait_for(lambda: not processes_of(project), seconds=5)
    assert (long_run / "checkpoint.pt").exists(), "saved because of the signal"
    assert not (long_run / "failure.json").exists()
    check_resumed(project, long_run, uninterrupted)


@pytest.mark.parametrize(
    "victim",
    [
        "ipykernel",
        pytest.param("senet_lib.running.run", marks=pytest.mark.slow),
        pytest.param("make", marks=pytest.mark.slow),
    ],
)
def test_killed_process_takes_the_others_along(project, long_run, uninterrupted, victim):
    """Killed: the kernel, papermill's process, or make. No process remains, and nothing looks finished."""
    if victim == "make" and not shutil.which("make"):
        pytest.skip("make is not installed")
    project.variables = EVERY_STEP
    start = {"make": project.make, "senet_lib.running.run": project.start, "ipykernel": project.start_run}[victim]
    process = start("resnet-seed0" if victim == "ipykernel" else "reproduce", "long")
    wait_for(two_epochs_done(long_run))
    assert len(processes_of(project)) >= {"make": 4, "senet_lib.running.run": 3, "ipykernel": 2}[victim]
    for candidate in [process] if victim == "make" else processes_of(project):
        with contextlib.suppress(psutil.NoSuchProcess):  # a killed run takes its kernel along
            if victim == "make" or any(victim in part for part in candidate.cmdline()):
                candidate.kill()
    if victim != "make":  # its parent reports the failed run
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output
    wait_for(lambda: not processes_of(project), seconds=5)
    process.communicate(timeout=5)
    assert not (long_run / "summary.json").exists()
    check_resumed(project, long_run, uninterrupted)


def test_resume_with_other_threads_is_refused(project, long_run, uninterrupted):
    long_run.mkdir(parents=True)
    for name in ("checkpoint.pt", "checkpoint.sha256"):
        shutil.copy(uninterrupted / name, long_run)
    newest = (long_run / "checkpoint.pt").read_bytes()
    code, output = project.run("resnet-seed0", "long", "--threads", "2")
    assert code == 1, output
    place = "results/long/runs/resnet-seed0/checkpoint.pt"
    last = output.splitlines()[-1]
    assert last.startswith(f"resnet-seed0: failed: CheckpointMismatch: {place}: ")
    assert "threads was 1, is 2" in last
    assert (long_run / "failure.json").exists()
    assert (long_run / "checkpoint.pt").read_bytes() == newest


def test_full_disk_fails_the_run(project, long_run, uninterrupted):
    """The operating system refuses to let a file grow to the size of a checkpoint."""
    most = 400_000  # bytes: less than a checkpoint, more than any other file
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))}
    code, output = project.run("resnet-seed0", "long", **limited)
    assert code == 1, output
    place = "results/long/runs/resnet-seed0/checkpoint.next.pt"
    assert output.splitlines()[-1] == f"resnet-seed0: failed: OSError: [Errno 27] File too large: '{place}'"
    assert not list(long_run.glob("*.tmp")) + list(long_run.glob("checkpoint*.pt"))


def without_override():
    """Called in a child before it starts: file permissions then apply to the superuser too."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for capability in (1, 2):  # linux/capability.h: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        prctl(24, capability, 0, 0, 0)  # linux/prctl.h: PR_CAPBSET_DROP


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere permissions do not bind the superuser")
def test_unwritable_results_stop_before_training(project):
    results = project.root / "results"
    results.write_text("a file in the folder's place", encoding="utf-8")
    code, output = project.call("reproduce", "tiny")
    assert (code, output.count("\n")) == (1, 1), output
    assert output.startswith("error: ")
    assert str(results) in output

    results.unlink()
    for closed in (results / "tiny", results / "tiny" / "runs" / "se-seed0"):  # as left by another user's run
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
from senet_lib.running.run import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_killed_holder_frees_the_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout.readline() == "held\n"
        with open(tmp_path / ".run.lock", "w") as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.kill()
            held.wait()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if it is not free


def test_parallel_starts_train_once(project):
    both = [project.start_run("se-seed0", "tiny") for _ in range(2)]
    codes, outputs = zip(*(completed(process) for process in both), strict=True)
    assert codes == (0, 0), "\n".join(outputs)
    assert sum("epoch 1/1" in output for output in outputs) == 1, "\n".join(outputs)
    assert sum("already done" in output for output in outputs) == 1, "\n".join(outputs)
