"""What a stop, a kill, a full or a closed disk and a second process may not do to `make reproduce`."""

import contextlib
import ctypes
import fcntl
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
from project_folder import TINY, Project, history, weights

from senet_lib.files import read_json
from senet_lib.results import load_results


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


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whom", ["the process group of make", "every process"])
def test_a_signal_that_goes_to_many_processes_stops_at_the_step_and_loses_nothing(project, undisturbed, number, whom):
    """Ctrl-C, `timeout`, and what ends a service or a container."""
    run_dir = long_study(project)
    process = project.make("reproduce", "long", start_new_session=True)
    wait_for(lambda: (run_dir / "checkpoint.previous.pt").exists())
    if whom == "every process":
        for each in processes_of(project):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)
    else:
        os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    wait_for(lambda: not processes_of(project), seconds=5)
    assert torch.load(run_dir / "checkpoint.pt", weights_only=True)["step"] > 0, "the state after the step in hand"
    assert not (run_dir / "failure.json").exists()
    assert project.launch("reproduce", "long")[0] == 0
    assert weights(run_dir) == weights(undisturbed[1])


@pytest.mark.parametrize("victim", ["make", "senet_lib.running.run", "ipykernel"])
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
    assert load_results(run_dir.parents[1]).runs["status"].item() == "failed"
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
from senet_lib.running.run import run_lock
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
