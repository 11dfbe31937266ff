"""The Slurm executor with stand-ins for Slurm: the script that it writes, and what it makes of logs and job states."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from senet_lib.errors import UserError
from senet_lib.running import slurm, slurm_script, time_limit
from senet_lib.running.slurm import SlurmExecutor
from senet_lib.running.time_limit import TimeLimit
from senet_lib.training.checkpoint import INTERVAL_VARIABLE

STUDY = "tiny"


def options(**changes):
    given = {"jobs": None, "threads": None, "study": STUDY, "device": "cpu", "data": "", "limit_epochs": None}
    return Namespace(**given | {"gpus_per_run": None, "devices": 1, "slurm_options": "", "no_wait": False} | changes)


def runs_named(*names):
    return [SimpleNamespace(run_id=name, hash=f"hash of {name}", label=name) for name in names]


def executable(path, text):
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder of stand-ins for Slurm's commands, the only ones on the PATH besides the system's; each writes its
    arguments to `calls` and does nothing else."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct"):
        executable(folder / name, f'#!/bin/sh\necho "{name} $*" >> {shlex.quote(str(tmp_path))}/calls\n')
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm, "LOOK", 0.0)
    monkeypatch.setattr(slurm, "ASK", 0.0)
    monkeypatch.setattr("senet_lib.running.executor.signal.signal", lambda *_: None)
    return folder


def test_options_of_the_array(tmp_path):
    for text, expected in (
        ("--partition=gpu -t 4:00:00", ["--partition=gpu", "-t 4:00:00"]),
        ("--comment='two words' --exclusive", ["--comment='two words'", "--exclusive"]),
        ("-A lab --time 30", ["-A lab", "--time 30"]),
    ):
        assert slurm_script.user_options(text) == expected
    for text in ("gpu", "-p gpu fast", "--comment='open", "--array=0-3", "-o log", "--comment='a\nb'", "--wrap=true"):
        with pytest.raises(UserError, match="SLURM_OPTIONS") as error:
            slurm_script.user_options(text)
        assert "\n" not in str(error.value), text
    for time_option, lead in (
        ("--time=4:00:00", 120),
        ("-t1", 15),
        ("-t 2:30", 37),
        ("--time 1-0", 120),
        ("--time=0", 120),
        ("--time=UNLIMITED", 120),
        ("", 120),
    ):
        given = slurm_script.user_options(time_option)
        lines = slurm_script.array_options("s", tmp_path, 5, 2, 1, 1, given)
        assert f"--signal=B:USR1@{lead}" in lines, time_option
        assert {"--array=0-4%2", "--gres=gpu:1", "--requeue"} <= set(lines)
    for changes, threads, cpus in (
        ({}, 1, 1),
        ({"slurm_options": "-c 4"}, 4, 4),
        ({"slurm_options": "-c4", "threads": 2}, 2, 2),
        ({"slurm_options": "--cpus-per-task=8", "devices": 2}, 4, 8),
        ({"slurm_options": "-c1", "devices": 2}, 1, 2),
    ):
        executor = SlurmExecutor(options(**changes), tmp_path)
        assert executor.threads == threads, changes
        assert f"each with {cpus} CPU" in executor.describe(), changes


def test_checkpoints_follow_the_runs_at_a_time(tmp_path, monkeypatch):
    """All runs are submitted at once, but only JOBS of them write."""
    monkeypatch.delenv(INTERVAL_VARIABLE, raising=False)
    for jobs, seconds in ((4, "60"), (None, "600")):
        executor = SlurmExecutor(options(jobs=jobs), tmp_path)
        executor.jobs = 2000
        assert executor.variables()[INTERVAL_VARIABLE] == seconds


def test_bad_input_is_one_line(tmp_path, commands):
    with pytest.raises(UserError, match="GPUS_PER_RUN is 0.5"):
        SlurmExecutor(options(gpus_per_run=0.5), tmp_path)
    executor = SlurmExecutor(options(), tmp_path)
    executor.check(runs_named("a"))
    executable(commands / "sbatch", "#!/bin/sh\necho 'sbatch: error: invalid partition: x' >&2; exit 1\n")
    with pytest.raises(UserError, match="invalid partition: x") as error:
        executor.check(runs_named("a"))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("slurm*")), "nothing is written"
    (commands / "sbatch").unlink()
    os.environ["PATH"] = str(commands)
    with pytest.raises(UserError, match="sbatch"):
        executor.check(runs_named("a"))


def script_of(tmp_path, command, run_ids):
    """A submission's script whose runs execute a shell command in which $RUN is the run's id, $HASH its hash."""
    place = tmp_path / "results of s" / "slurm" / "now"
    place.mkdir(parents=True)
    (place / "runs.txt").write_text("".join(f"{run_id} {number:04x}\n" for number, run_id in enumerate(run_ids)))
    words = ["/bin/bash", "-c", shlex.quote(f'RUN="$0"; HASH="$1"; {command}'), '"$run"', '"$hash"']
    given = slurm_script.array_options("s", place, len(run_ids), None, 1, 0, ["--comment='two words'"])
    text = slurm_script.script("s", place, tmp_path, given, words, {"SENET_X": "a b"})
    return executable(place / "array.sbatch", text)


def start_job(script, index, commands):
    variables = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(index), "SLURMD_NODENAME": "node9"}
    return subprocess.Popen([script], env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True)


def test_script_runs_its_line(tmp_path, commands):
    script = script_of(tmp_path, 'echo "$RUN $HASH: $SENET_X in $PWD"; exit 3', ["first-seed0", "second-seed1"])
    assert subprocess.run(["/bin/bash", "-n", script]).returncode == 0
    job = start_job(script, 1, commands)
    output, _ = job.communicate(timeout=20)
    assert output.splitlines() == ["job 7_1 on node9", f"second-seed1 0001: a b in {tmp_path}", "job 7_1: exit code 3"]
    assert job.returncode == 3


SAVES = """
trap 'echo saved > runs/"$RUN"/checkpoint.pt; exit 143' TERM
mkdir -p runs/"$RUN"; cd -P .; echo ready; while :; do sleep 0.05; done
"""

FUTILE = SAVES.replace("echo saved >", "true")  # writes no checkpoint
SAVED, TOO_LATE = "close to the time limit", "the time limit came before a new checkpoint"


def after(*attempts):
    """The command that makes the job's log one of a job with these earlier attempts."""
    return f"printf '%s\\n' {' '.join(map(repr, attempts))} > slurm/now/7_0.log; "


def test_warned_job_saves_and_requeues(tmp_path, commands):
    """Only after the warning before the time limit, and not if the run had no time to train for the third time
    in a row."""
    calls = tmp_path / "calls"
    for number, command, requeued, last in (
        (signal.SIGUSR1, SAVES, True, f"{SAVED}: the job is requeued"),
        (signal.SIGTERM, SAVES, False, "job 7_0: exit code 143"),
        (signal.SIGUSR1, FUTILE, True, f"{TOO_LATE}: the job is requeued"),
        (signal.SIGUSR1, after(TOO_LATE, TOO_LATE) + FUTILE, False, "job 7_0: exit code 1"),
        (signal.SIGUSR1, after(TOO_LATE, SAVED, TOO_LATE) + FUTILE, True, f"{TOO_LATE}: the job is requeued"),
        (signal.SIGUSR1, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done", False, "job 7_0: exit code 0"),
    ):
        calls.write_text("")
        shutil.rmtree(tmp_path / "results of s", ignore_errors=True)
        script = script_of(tmp_path, f"cd 'results of s'; {command}", ["a"])
        job = start_job(script, 0, commands)
        while job.stdout.readline() != "ready\n":
            assert job.poll() is None
        job.send_signal(number)
        output, _ = job.communicate(timeout=20)
        assert output.splitlines()[-1] == last, (number, command)
        assert (calls.read_text() == "scontrol requeue 7_0\n") == requeued, (number, command)


class Cluster:
    """Stands for Slurm's commands: job 7, 8 and so on; `steps` are what happens between two questions to squeue, each
    with the states that the answer then has. Answers of squeue have the script of every submission."""

    def __init__(self, monkeypatch, folder, *steps):
        self.folder, self.steps, self.calls, self.arrays, self.states = folder, list(steps), [], {}, {}
        monkeypatch.setattr(slurm, "_slurm", self)
        monkeypatch.setattr(slurm, "LOOK", 0.0)
        monkeypatch.setattr(slurm, "ASK", 0.0)
        monkeypatch.setattr("senet_lib.running.executor.signal.signal", lambda *_: None)

    def __call__(self, *command, text=None):
        self.calls.append(" ".join(command[:2]))
        output = ""
        if command[0] == "sbatch":
            output = str(7 + len(self.arrays))
            self.arrays[output] = Path(command[-1])
        elif command[0] == "squeue":
            self.states |= self.steps.pop(0)() if self.steps else {}
            rows = [f"{job}|{state}|node1|{self.arrays[job.split('_')[0]]}" for job, state in self.states.items()]
            output = "\n".join(rows)
        return subprocess.CompletedProcess(command, 0, output, "")

    def log(self, job, *lines):
        with open(self.arrays[job.split("_")[0]].parent / f"{job}.log", "a") as file:
            file.writelines(f"{line}\n" for line in lines)


def test_jobs_are_followed_to_their_end(tmp_path, monkeypatch, capsys):
    def some_run():
        cluster.log("7_0", "job 7_0 on node1", "epoch 1", "job 7_0: exit code 0")
        cluster.log("7_1", "job 7_1 on node2", "b: failed: no data", "job 7_1: exit code 1")
        cluster.log("7_2", "job 7_2 on node1", "epoch 1")  # then the node is lost
        cluster.log("7_5", "job 7_5 on node1", "job 7_5: exit code 143")
        cluster.log("7_6", "job 7_6 on node1", "epo")
        cluster.log("7_7", "job 7_7 on node1", "job 7_7: exit code 137")
        return {f"7_{index}": "RUNNING" for index in range(8)}

    def some_end():
        cluster.log("7_2", "job 7_2 on node2", "epoch 2", "job 7_2: exit code 0")
        return {"7_3": "FAILED", "7_4": "CANCELLED", "7_5": "CANCELLED", "7_6": "TIMEOUT"}

    cluster = Cluster(monkeypatch, tmp_path, some_run, some_end)
    failed = SlurmExecutor(options(), tmp_path).execute(runs_named(*"abcdefgh"))
    assert set(failed) == set("bdefgh")
    assert failed["b"] == "no data"
    for run_id, words in (
        ("d", ("7_3", "FAILED", "7_3.log", "node1 must see")),
        ("e", ("7_4", "cancelled")),
        ("f", ("7_5", "CANCELLED", "7_5.log")),
        ("g", ("7_6", "TIMEOUT", "7_6.log")),
        ("h", ("signal 9", "7_7.log")),
    ):
        assert all(word in failed[run_id] for word in words), failed[run_id]
    printed = capsys.readouterr().out.splitlines()
    assert {"[1/8 a node1] epoch 1", "[3/8 c node1] epoch 1", "[3/8 c node2] epoch 2"} <= set(printed)
    assert cluster.calls.count("sbatch --parsable") == 1


def test_submitted_jobs_are_collected(tmp_path, monkeypatch, capsys):
    """NO_WAIT leaves at once; the next start follows what is queued or running, and submits only the rest."""
    cluster = Cluster(monkeypatch, tmp_path)
    executor = SlurmExecutor(options(no_wait=True), tmp_path)
    assert executor.execute(runs_named(*"abc")) == {}
    assert executor.left == list("abc")
    assert executor.why_left == "submitted"
    assert "scancel 7" in capsys.readouterr().out
    cluster.log("7_0", "job 7_0 on node1", "epoch 1")

    def finish():
        cluster.log("7_0", "epoch 2", "job 7_0: exit code 0")
        cluster.log("7_1", "job 7_1 on node1", "job 7_1: exit code 0")
        cluster.log("8_0", "job 8_0 on node2", "job 8_0: exit code 0")
        return {"7_0": "COMPLETED", "7_1": "COMPLETED", "8_0": "COMPLETED"}

    cluster.steps = [lambda: {"7_0": "RUNNING", "7_1": "PENDING", "7_2": "NODE_FAIL"}, finish]
    assert SlurmExecutor(options(), tmp_path).execute(runs_named(*"abc")) == {}
    printed = capsys.readouterr().out
    assert (cluster.arrays["8"].parent / "runs.txt").read_text() == "c hash of c\n"
    assert "[1/3 a node1] epoch 2" in printed
    assert "epoch 1" not in printed


def test_changed_run_is_submitted_again(tmp_path, monkeypatch):
    """A run of another recipe has the same id but another hash; its job is not that of this run."""
    cluster = Cluster(monkeypatch, tmp_path)
    SlurmExecutor(options(no_wait=True), tmp_path).execute(runs_named("a"))
    cluster.steps = [lambda: {"7_0": "RUNNING"}]
    changed = [SimpleNamespace(run_id="a", hash="other", label="a")]
    SlurmExecutor(options(no_wait=True), tmp_path).execute(changed)
    assert set(cluster.arrays) == {"7", "8"}


def test_stop_leaves_the_jobs(tmp_path, monkeypatch, capsys):
    def interrupt():
        executor._interrupted(signal.SIGINT, None)
        return {"7_0": "RUNNING"}

    cluster = Cluster(monkeypatch, tmp_path, lambda: {"7_0": "PENDING"}, interrupt)
    executor = SlurmExecutor(options(), tmp_path)
    with pytest.raises(SystemExit) as stopped:
        executor.execute(runs_named("a"))
    assert stopped.value.code == 130
    assert "scancel 7" in capsys.readouterr().err
    assert not [call for call in cluster.calls if call.startswith("scancel")]


class NothingKnown:
    start = 0.0

    def rest(self, run, run_dir):
        return None

    def line(self, run, text):
        return ""

    def started(self, run):
        pass

    def ended(self, run, finished):
        pass


def test_time_limit_stops_the_jobs(tmp_path, monkeypatch):
    """Queued jobs are cancelled; running ones save their state and end, without a requeue."""
    monkeypatch.setattr(time_limit, "USEFUL", 0.0)

    def reach():
        executor.limit = TimeLimit(60.0, time.monotonic() - 59)
        return {}

    def end():
        cluster.log("7_0", "saved", "job 7_0: exit code 143")
        return {"7_0": "COMPLETED"}

    def begin():
        cluster.log("7_0", "job 7_0 on node1", "epoch 1")
        return {"7_0": "RUNNING", "7_1": "PENDING"}

    cluster = Cluster(monkeypatch, tmp_path, begin, reach, end)
    executor = SlurmExecutor(options(), tmp_path)
    executor.pace, executor.limit = NothingKnown(), TimeLimit(600.0, time.monotonic())
    assert executor.execute(runs_named("a", "b")) == {}
    assert executor.left == ["a", "b"]
    assert [call for call in cluster.calls if "scancel" in call] == ["scancel --state=PENDING", "scancel --signal=TERM"]


def test_large_studies_are_several_arrays(tmp_path, monkeypatch):
    cluster = Cluster(monkeypatch, tmp_path)
    executor = SlurmExecutor(options(no_wait=True, jobs=2), tmp_path)
    executor.largest_array = 2
    executor.execute(runs_named(*"abcde"))
    assert [script.read_text().count("--array=0-1%2") for script in cluster.arrays.values()] == [1, 1, 0]
    assert cluster.calls.count("sbatch --parsable") == 3
