"""The local executor: whatever a run prints or its reader does, every run is waited for and reported, unless the
time limit has left it for the next start."""

import itertools
import os
import signal
import sys
import time
from argparse import Namespace
from types import SimpleNamespace

import pytest
from PIL import Image

from senet_lib import cli
from senet_lib.data import load_dataset
from senet_lib.errors import UserError
from senet_lib.files import write_json
from senet_lib.running import estimate, pace, plan, run, time_limit
from senet_lib.running.executor import checkpoint_seconds
from senet_lib.running.inputs import outline
from senet_lib.running.local import LocalExecutor, gpus_of_slot, threads_of_a_job
from senet_lib.running.time_limit import TimeLimit
from senet_lib.study import Recipe, RunConfig


@pytest.fixture
def executor(tmp_path):
    return LocalExecutor(options(), tmp_path)


def options(**changes):
    given = {"jobs": 1, "threads": 1, "study": "s", "device": "cpu", "data": "", "limit_epochs": None}
    return Namespace(**given | {"gpus_per_run": None, "devices": 1} | changes)


def execute(executor, monkeypatch, **codes):
    """The failed runs, run_id -> reason, where each run is a Python process with the given code."""
    monkeypatch.setattr(executor, "command", lambda run: [sys.executable, "-c", codes[run.run_id]])
    monkeypatch.setattr("senet_lib.running.executor.signal.signal", lambda *_: None)
    return executor.execute([SimpleNamespace(run_id=run_id) for run_id in codes])


def test_any_bytes_may_be_printed(executor, monkeypatch, capsys):
    rubbish = "import os; os.write(2, bytes(range(256)) * 400 + b'\\n'); os.write(1, b'last line')"
    assert execute(executor, monkeypatch, first=rubbish, second="print('well')") == {}
    output = capsys.readouterr().out
    assert "[1/2 first] " in output
    assert "last line" in output
    assert "[2/2 second] well" in output


def test_reader_may_leave(executor, monkeypatch):
    """As in `make reproduce | head -1`: the runs continue, and more output than a pipe holds blocks none of them."""

    def closed(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    much = "print('x' * 200_000)"
    failing = "import sys; print('third: failed: a reason'); sys.exit(1)"
    assert execute(executor, monkeypatch, first=much, second=much, third=failing) == {"third": "a reason"}


def test_failures_have_a_reason(executor, monkeypatch):
    silent, killed = "import sys; sys.exit(3)", "import os; os.kill(os.getpid(), 9)"
    refused = "import sys; print('error: the study was changed'); sys.exit(2)"
    failed = execute(executor, monkeypatch, silent=silent, killed=killed, refused=refused, well="")
    assert failed == {
        "silent": "the process exited without an error message",
        "killed": "killed by signal 9, as for too much memory",
        "refused": "the study was changed",
    }


UNTIL_STOPPED = "import time; time.sleep(60)"
AT_THE_SECOND_SIGNAL = """
import signal, sys, time
received = []
def handle(number, frame):
    received.append(number)
    if len(received) == 2:
        sys.exit(143)
signal.signal(signal.SIGTERM, handle)
print("ready", flush=True)
time.sleep(60)
"""


class Known:
    """Knows how long runs take: 0 s until they train, and 100 s in all."""

    start = 0.0

    def __init__(self):
        self.finished = {}

    def rest(self, run, run_dir):
        return 100.0

    def started(self, run):
        pass

    def line(self, run, text):
        return ""

    def ended(self, run, finished):
        self.finished[run.run_id] = finished


def test_time_limit_leaves_runs(executor, monkeypatch):
    """At the limit the runs are stopped, and at its end killed; neither they nor those that follow have failed."""
    monkeypatch.setattr(time_limit, "STOP", 1.0)
    monkeypatch.setattr(time_limit, "USEFUL", 0.2)

    class LimitOnceReady(Known):
        """The limit is 2 s once the slow run awaits its signals, however long the processes take to start."""

        def line(self, run, text):
            if text == "ready":
                executor.limit = TimeLimit(2.0, time.monotonic())
            return ""

    executor.pace, executor.limit = LimitOnceReady(), TimeLimit(600.0, time.monotonic())
    codes = {"well": "", "wrong": "import sys; sys.exit(1)", "slow": AT_THE_SECOND_SIGNAL, "late": UNTIL_STOPPED}
    failed = execute(executor, monkeypatch, **codes)
    assert list(failed) == ["wrong"]
    assert executor.left == ["slow", "late"]
    assert executor.pace.finished == {"well": True, "wrong": False, "slow": False}, "the last one was not started"


def test_runs_start_only_with_time_for_something_useful(monkeypatch):
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    for seconds, start, whole, expected in (
        (600, 10, 5000, True),  # cannot finish, but train for a while
        (90, 10, None, True),
        (60, 10, 5000, True),  # half of it is left, the 30 s that are needed
        (59, 10, 5000, False),
        (59, 10, 29, True),  # it finishes
        (195, 40, 5000, True),  # 195 - (15 + 3 * 40)
        (100, 40, 5000, False),
    ):
        assert TimeLimit(seconds, 1000.0).leaves_time_for(start, whole) == expected, (seconds, start, whole)
    for seconds, whole, expected in (
        (600, 5000, False),  # unfinished, it would be lost
        (600, 530, True),  # 1.1 * 530 <= 600 - 15: no report follows
        (600, 535, False),
        (600, None, True),
        (20, None, True),
    ):
        limit = TimeLimit(seconds, 1000.0, whole_runs=True)
        assert limit.leaves_time_for(40, whole) == expected, (seconds, whole)


def test_a_run_that_does_not_fit_waits_for_the_next_time(executor, monkeypatch):
    """If unfinished runs are lost, a later and shorter run takes the place of one that cannot finish."""
    expected = {"long": 500.0, "short": 2.0, "longer": 600.0, "shorter": 1.0}
    pace = Known()
    pace.rest = lambda run, run_dir: expected[run.run_id]
    executor.pace, executor.limit = pace, TimeLimit(60.0, time.monotonic(), whole_runs=True)
    assert execute(executor, monkeypatch, **dict.fromkeys(expected, "")) == {}
    assert executor.pace.finished == {"short": True, "shorter": True}
    assert executor.left == ["long", "longer"]


def test_a_signal_while_a_run_is_started_reaches_it(executor, monkeypatch):
    """Between the last look at the signals and the entry of the new process in the list of those to be stopped."""

    def variables():
        executor._interrupted(signal.SIGTERM, None)
        return {}

    monkeypatch.setattr(executor, "variables", variables)
    with pytest.raises(SystemExit) as stopped:
        execute(executor, monkeypatch, slow=UNTIL_STOPPED)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert executor.codes == {"slow": -signal.SIGTERM}


def test_a_run_gets_at_least_a_gpu_per_device(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    for gpus in (1, 0.5):
        with pytest.raises(UserError, match=f"DEVICES is 2, but GPUS_PER_RUN is {gpus}"):
            LocalExecutor(options(devices=2, gpus_per_run=gpus), tmp_path)
    assert LocalExecutor(options(devices=2, gpus_per_run=0), tmp_path).hides_gpus
    assert LocalExecutor(options(devices=2, gpus_per_run=3), tmp_path).gpus_per_run == 3


def test_threads_are_those_that_may_be_used(monkeypatch):
    """As under `taskset -c 1`, whatever the number of the machine's cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for usable, jobs, threads in ((1, 1, 1), (6, 2, 3), (6, 4, 1), (2, 4, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, usable=usable: set(range(usable)), raising=False)
        assert threads_of_a_job(None, jobs) == threads
    assert threads_of_a_job(5, 1) == 5


def test_runs_that_share_a_gpu_know_how_many_they_are(tmp_path, monkeypatch):
    """Without GPUs, or beside unused ones, each run has cores of its own."""
    for gpus, changes, expected in (
        ("", {"jobs": 1}, 1),
        ("", {"jobs": 3}, 1),
        ("0", {"jobs": 1, "device": "auto"}, 1),
        ("0", {"jobs": 3, "device": "auto"}, 3),
        ("0,1", {"jobs": 2, "device": "auto"}, 1),
        ("0,1", {"jobs": 3, "device": "auto"}, 2),
        ("0,1", {"jobs": 4, "device": "auto", "gpus_per_run": 0.5}, 2),
        ("0,1", {"jobs": 2, "device": "auto", "gpus_per_run": 2.0}, 2),
        ("0,1", {"jobs": 2, "device": "cpu"}, 1),
        ("-1", {"jobs": 2, "device": "auto"}, 1),  # none
        ("0,-1,1", {"jobs": 2, "device": "auto"}, 2),  # the first one alone
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        executor = LocalExecutor(options(**changes), tmp_path)
        assert executor.variables()["SENET_RUNS_PER_GPU"] == str(expected), (gpus, changes)


def test_runs_without_the_machines_gpus_are_expected_on_its_cpu(tmp_path, monkeypatch):
    for gpus, changes, expected in (
        ("0,1", {"gpus_per_run": 0}, "cpu"),
        ("0,1", {"gpus_per_run": 0, "device": "cuda"}, "cuda"),  # they will say that there is none
        ("0,1", {"gpus_per_run": 0.5}, "auto"),
        ("0,1", {}, "auto"),
        ("", {"gpus_per_run": 0}, "auto"),  # as on a Mac
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        assert LocalExecutor(options(**{"device": "auto"} | changes), tmp_path).device == expected, (gpus, changes)
    # make plan and the time left while the runs train
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    executor = LocalExecutor(options(device="auto", gpus_per_run=0, time_limit=None), tmp_path)
    seen = []

    def conditions(device, *_):
        seen.append(device)
        return SimpleNamespace(recorded=lambda *_: [])

    def costs(networks, data, recorded, device, threads):
        seen.append(device)
        return {run.label: estimate.cost(run, data, 1.0) for run in networks}

    for module in (plan, pace):
        monkeypatch.setattr(module, "Conditions", conditions)
    monkeypatch.setattr(plan, "estimates", costs)
    monkeypatch.setattr(executor, "execute", lambda *_: {})
    config = RunConfig(study="s", label="a", model="resnet20", knobs={}, seed=0, data="cifar10", recipe=Recipe())
    plan.print_estimates(executor, [config], [config], outline("cifar10"))
    cli.execute(executor, [config], [config], outline("cifar10"))
    assert seen == ["cpu"] * 3


def test_many_runs_write_fewer_checkpoints(executor, monkeypatch):
    assert [checkpoint_seconds(jobs) for jobs in (1, 120, 500, 10_000)] == [60, 60, 250, 600]
    monkeypatch.delenv("SENET_CHECKPOINT_SECONDS", raising=False)
    executor.jobs = executor.options.jobs = 500
    assert executor.variables()["SENET_CHECKPOINT_SECONDS"] == "250"
    monkeypatch.setenv("SENET_CHECKPOINT_SECONDS", "5")
    assert executor.variables()["SENET_CHECKPOINT_SECONDS"] == "5"


def test_run_that_cannot_start_is_reported(executor, monkeypatch):
    real = executor.start

    def start(run):
        if run.run_id == "first":
            raise OSError(12, "Cannot allocate memory")
        real(run)

    monkeypatch.setattr(executor, "start", start)
    failed = execute(executor, monkeypatch, first="", second="")
    assert list(failed) == ["first"]
    assert "Cannot allocate memory" in failed["first"]


def test_gpus_are_dealt_to_the_runs(tmp_path, monkeypatch, capsys):
    for per_run, gpus, expected in (
        (1, "4,5,6", ["4", "5", "6", "4"]),  # more runs than GPUs share them
        (1, "4", ["4", "4", "4", "4"]),
        (2, "4,5,6,7", ["4,5", "6,7", "4,5", "6,7"]),
        (0.5, "4,5", ["4", "4", "5", "5"]),
        (0.4, "4,5", ["4", "4", "5", "5"]),  # as many on each as have room
        (0.33, "4,5", ["4", "4", "4", "5", "5", "5"]),
        (0, "4,5", ["", "", "", ""]),
    ):
        dealt = [",".join(gpus_of_slot(slot, gpus.split(","), per_run)) for slot in range(len(expected))]
        assert dealt == expected, (per_run, gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    show = "import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'])"
    assert execute(LocalExecutor(options(jobs=2, device="auto"), tmp_path), monkeypatch, first=show, second=show) == {}
    assert {"[1/2 first] sees 4", "[2/2 second] sees 5"} <= set(capsys.readouterr().out.splitlines())
    for changes in ({"gpus_per_run": 3}, {"devices": 3, "device": "auto"}):  # a GPU per device
        with pytest.raises(UserError, match="GPUS_PER_RUN is 3; GPUs of this machine: 2"):
            LocalExecutor(options(**changes), tmp_path)


def test_runs_use_the_images_that_were_checked(tmp_path, monkeypatch):
    """As with DATA=other and a study of `folder:mine`, which the project has, too."""
    for place, brightness in ((tmp_path, 0), (tmp_path / "other", 100)):
        for split, name in itertools.product(("train", "test"), "ab"):
            (place / "mine" / split / name).mkdir(parents=True)
            for i in range(2):
                image = Image.new("RGB", (8, 8), (brightness, ord(name), 10 * i))
                image.save(place / "mine" / split / name / f"{i}.png")
    for name, value in (("SENET_ROOT", tmp_path), ("SENET_CACHE", tmp_path / "cache"), ("SENET_DATA", "")):
        monkeypatch.setenv(name, str(value))
    used = []
    monkeypatch.setattr(run.notebook, "execute", lambda _, __, given, **___: used.append(load_dataset(given["data"])))
    config = RunConfig(study="s", label="a", model="resnet20", knobs={}, seed=0, data="folder:mine", recipe=Recipe())
    for root in (None, str(tmp_path / "other")):
        run.execute(config, tmp_path / "run", "cpu", 1, 1, root)
        assert used[-1].fingerprints == load_dataset("folder:mine", root).fingerprints, root
    assert used[0].fingerprints != used[1].fingerprints


def test_checkpoints_go_once_the_run_is_done(tmp_path, monkeypatch):
    """A kill before the summary keeps them; one after it leaves files that the next start of the run removes."""
    config, kept = SimpleNamespace(hash="0" * 16, run_id="run"), {"weights.safetensors", "checkpoint.pt.damaged"}
    checkpoints = {"checkpoint.pt", "checkpoint.previous.pt", "checkpoint.sha256"}
    for name in (*kept, *checkpoints, run.PARTIAL):
        (tmp_path / name).touch()
    write_json(tmp_path / "outcome.json", {})

    def killed(*_):
        raise KeyboardInterrupt

    for function in ("write_summary", "tidy"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(run, function, killed)
            run.finish(config, tmp_path)
        assert checkpoints | {"outcome.json"} <= {path.name for path in tmp_path.iterdir()}, function
        (tmp_path / "notebook.ipynb").rename(tmp_path / run.PARTIAL)  # as the next attempt writes it
    run.finish(config, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept | {"summary.json", "notebook.ipynb"}
