"""The Slurm executor on a real Slurm of two nodes on this machine: equal results, lost nodes, time limits, jobs that
outlive the command."""

import contextlib
import functools
import importlib.util
import math
import signal
import subprocess
import time

import nbformat
import pytest
import torch
from project_folder import TINY, Project, history, weights

from senet_lib.data import load_dataset
from senet_lib.models import create_model
from senet_lib.project import project_root
from senet_lib.running.time_limit import TimeLimit
from senet_lib.study import load_study
from senet_lib.training import fit

LONG = {
    "recipe": {**TINY["recipe"], "epochs": 12},
    "networks": {"resnet": TINY["networks"]["resnet"]},
    "seeds": [0, 1],
}


def tool():
    spec = importlib.util.spec_from_file_location("slurm_cluster", project_root() / "tools" / "slurm_cluster.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The folder of a real Slurm with two nodes of two CPUs."""
    slurm_cluster = tool()
    if missing := [name for name in slurm_cluster.PROGRAMS if not slurm_cluster.find(name)]:
        pytest.skip(f"Slurm is not installed (Debian's slurmctld, slurmd, slurm-client); missing: {missing}")
    folder = tmp_path_factory.mktemp("cluster")
    slurm_cluster.up(folder, nodes=2, cpus=2)
    yield folder
    slurm_cluster.down(folder)


@pytest.fixture
def slurm_project(project, cluster):
    """A project whose commands use the cluster; `long` has two runs that train long enough to disturb them."""
    project.variables = {"SLURM_CONF": str(cluster / "slurm.conf"), "SENET_CHECKPOINT_SECONDS": "0"}
    project.write_study("long", LONG)
    yield project
    ask(project, "scancel", "--name=long,tiny", "--full")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, images):
    """The directories of the same two trainings, by the library alone."""
    project = Project(tmp_path_factory.mktemp("uninterrupted") / "project", images)
    project.write_study("long", LONG)
    for run in load_study("long", project.root / "studies").runs():
        data = load_dataset(run.data)
        torch.manual_seed(run.seed)
        model = create_model(run.model, num_classes=len(data.classes), **run.knobs)
        run_dir = project.run_dir(run.run_id, "long")
        run_dir.mkdir(parents=True)
        same = {"device": "cpu", "threads": 1, "progress": "none"}
        fit(model, data, run.recipe, run_dir=run_dir, config_hash=run.hash, seed=run.seed, **same)
    return project


def check_equal(project, uninterrupted, runs=("resnet-seed0", "resnet-seed1")):
    for run_id in runs:
        ours, theirs = project.run_dir(run_id, "long"), uninterrupted.run_dir(run_id, "long")
        assert weights(ours) == weights(theirs), run_id
        assert history(ours).equals(history(theirs)), run_id
        assert not (ours / "failure.json").exists()


ON_SLURM = ("--executor", "slurm", "--slurm-options=--cpus-per-task=2")  # a whole node per run


def ask(project, *command):
    return subprocess.run(command, env=project.environment(), capture_output=True, text=True, check=True).stdout


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return found


def is_training(project, run_id, epochs=2):
    """Whether the run of `long` has finished so many epochs."""
    path = project.run_dir(run_id, "long") / "history.csv"
    return path.exists() and path.read_text(encoding="utf-8").count("\n") > epochs


def jobs_of(project):
    """run_id -> (number, state, node) of the jobs of `long`."""
    rows = ask(project, "squeue", "--array", "--noheader", "--name=long", "--format=%i|%T|%N").splitlines()
    jobs = sorted(tuple(row.split("|")) for row in rows)
    return {f"resnet-seed{job[0].split('_')[1]}": job for job in jobs}


def start_requeued_now(project, run_id):
    """Slurm starts a requeued job two minutes later. A node refuses one that ended there in the same second."""
    number, *_ = until(lambda: (job := jobs_of(project)[run_id])[1] == "PENDING" and job)
    ask(project, "scontrol", "update", f"JobId={number}", "StartTime=now+3")


@pytest.mark.slow
def test_array_over_two_nodes_equals_local(slurm_project):
    code, output = slurm_project.call("reproduce", "tiny", *ON_SLURM)
    assert code == 0, output
    assert " node1] " in output, output
    assert " node2] " in output, output
    code, local = slurm_project.call("reproduce", "tiny", "--results", str(slurm_project.root / "local"))
    assert code == 0, local
    for run_id in ("resnet-seed0", "se-seed0"):
        ours, theirs = slurm_project.run_dir(run_id), slurm_project.root / "local" / "tiny" / "runs" / run_id
        assert weights(ours) == weights(theirs), run_id
        assert history(ours).equals(history(theirs))
    code, output = slurm_project.call("reproduce", "tiny")
    assert (code, "2 already done" in output) == (0, True), output


@pytest.mark.slow
def test_lost_node_and_time_limit(slurm_project, uninterrupted, cluster):
    """One run's node dies, the other is warned of its time limit, as Slurm does; both are requeued and finish."""
    process = slurm_project.start("reproduce", "long", *ON_SLURM)
    until(lambda: all(is_training(slurm_project, run_id) for run_id in ("resnet-seed0", "resnet-seed1")))
    jobs = jobs_of(slurm_project)
    ask(slurm_project, "scancel", "--signal=USR1", "--batch", jobs["resnet-seed1"][0])
    tool().kill_node(cluster, jobs["resnet-seed0"][2])
    for run_id in ("resnet-seed1", "resnet-seed0"):
        start_requeued_now(slurm_project, run_id)
    output, _ = process.communicate(timeout=120)
    tool().start_node(cluster, jobs["resnet-seed0"][2])
    assert process.returncode == 0, output
    assert output.count("started again") == 2, output
    assert output.count("resumed after epoch") == 2, output
    check_equal(slurm_project, uninterrupted)


SLOW_STEPS = """
import time
from senet_lib.data import Augmenter

def slowly(self, original=Augmenter.epoch, **options):
    for batch in original(self, **options):
        time.sleep(0.7)
        yield batch

Augmenter.epoch = slowly
"""


@pytest.mark.slow
def test_run_longer_than_the_time_limit(slurm_project, uninterrupted):
    """Slurm's own limit of a minute, for a run that needs longer: it waits 50 s in all, without using the CPU."""
    slurm_project.write_study("long", LONG | {"seeds": [0]})
    path = slurm_project.root / "notebooks" / "05_train.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(4, nbformat.v4.new_code_cell(SLOW_STEPS))
    nbformat.write(notebook, path)
    process = slurm_project.start("reproduce", "long", *ON_SLURM[:-1], f"{ON_SLURM[-1]} --time=1")
    waiting = set()
    while process.poll() is None:
        pending = {number for number, state, _ in jobs_of(slurm_project).values() if state == "PENDING"}
        for number in pending - waiting:
            # Slurm itself would start it two minutes after the requeue. It looks at the limits every 30 s, and a job
            # that starts just after a requeue is warned after 20 s, a later one after 40 s
            with contextlib.suppress(subprocess.CalledProcessError):  # it has just started
                ask(slurm_project, "scontrol", "update", f"JobId={number}", "StartTime=now+15")
        waiting = pending
        time.sleep(2)
    output = process.stdout.read()
    assert process.returncode == 0, output
    assert output.count("started again") == output.count("the job is requeued"), output
    assert "resumed after epoch" in output, output
    check_equal(slurm_project, uninterrupted, ["resnet-seed0"])


@pytest.mark.slow
def test_jobs_outlive_the_command(slurm_project, uninterrupted, monkeypatch):
    """Submitted without waiting, followed, left by Ctrl-C, stopped by a time limit, collected by the next command. The
    jobs are held or suspended until the command follows them, or they could be over by then."""
    held = (*ON_SLURM[:-1], f"{ON_SLURM[-1]} --hold")
    code, output = slurm_project.call("reproduce", "long", *held, "--no-wait")
    assert code == 0, output
    assert output.splitlines()[-1] == "submitted: 0 of 2 runs finished; the same command continues"
    first = jobs_of(slurm_project)
    array = first["resnet-seed0"][0].split("_")[0]
    follower = slurm_project.start("reproduce", "long", *ON_SLURM)
    until(lambda: "earlier start" in follower.stdout.readline())
    ask(slurm_project, "scontrol", "release", array)
    until(lambda: is_training(slurm_project, "resnet-seed0") and is_training(slurm_project, "resnet-seed1"))
    ask(slurm_project, "scontrol", "suspend", array)
    follower.send_signal(signal.SIGINT)
    output, _ = follower.communicate(timeout=30)
    assert follower.returncode == 130, output
    assert f"scancel {array}" in output
    resumed = functools.cache(lambda: ask(slurm_project, "scontrol", "resume", array))

    def stop_at(limit, start):
        resumed()
        return -math.inf if is_training(slurm_project, "resnet-seed0", 6) else math.inf

    with monkeypatch.context() as patch:
        patch.setattr(TimeLimit, "stop_at", stop_at)
        code, output = slurm_project.call("reproduce", "long", *ON_SLURM, "--time-limit", "1h")
    assert code == 0, output
    assert output.splitlines()[-1].startswith("stopped at the time limit: 0 of 2"), output
    until(lambda: not jobs_of(slurm_project))
    code, output = slurm_project.call("reproduce", "long", *ON_SLURM)
    assert code == 0, output
    check_equal(slurm_project, uninterrupted)


@pytest.mark.slow
def test_cancelled_jobs_are_reported(slurm_project):
    process = slurm_project.start("reproduce", "long", *ON_SLURM, "--jobs", "1")
    until(lambda: is_training(slurm_project, "resnet-seed0"))
    ask(slurm_project, "scancel", "--name=long")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "failed: resnet-seed1: its job" in output
    assert "was cancelled" in output
    assert (slurm_project.run_dir("resnet-seed0", "long") / "checkpoint.pt").exists()
    assert not jobs_of(slurm_project), "nothing is requeued"
    assert not (slurm_project.run_dir("resnet-seed1", "long")).exists()


@pytest.mark.slow
def test_what_no_node_has_is_refused(slurm_project):
    for arguments, words in (
        (("--slurm-options=--partition=nowhere",), "partition"),
        (("--gpus-per-run", "1"), ""),
        (("--threads", "3"), ""),
    ):
        code, output = slurm_project.call("reproduce", "tiny", "--executor", "slurm", *arguments)
        assert (code, output.count("\n")) == (2, 1), output
        assert words in output
    assert not list((slurm_project.root / "results").rglob("*.sbatch"))
