"""What every executor shares: it starts runs, prints their lines, reports their failures, and stops them in time.

An executor decides where the command of a run, `python -m senet_lib.running.run STUDY RUN_ID`, is executed: as a
subprocess here (local.py), as a Ray task (ray.py), or as part of a Slurm job array (slurm.py). It may start a run twice
or lose it; the run's lock and its checkpoint make that safe.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from senet_lib.errors import UserError
from senet_lib.process import RUNS_PER_GPU, SUPERVISED, StopRequest
from senet_lib.running.arguments import data_root_in
from senet_lib.running.run import FAILED
from senet_lib.running.time_limit import TimeLimit
from senet_lib.study import RunConfig

if TYPE_CHECKING:
    from senet_lib.running.pace import Pace

CHECKPOINTS_PER_SECOND = 2  # of all runs: a shared file system takes no more from a thousand large networks
LONGEST_INTERVAL = 600.0  # seconds between two checkpoints, which is what a kill loses
STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)  # exit codes of a run that SIGTERM stopped: with, without its handler


@dataclass(frozen=True)
class Started:
    """A run's process has started. node: the machine's name, empty if it is this one."""

    run: RunConfig
    node: str = ""


@dataclass(frozen=True)
class Line:
    """A line that a run has printed."""

    run: RunConfig
    text: str


@dataclass(frozen=True)
class Ended:
    """A run is over. code: its exit code; reason: why there is none, or why its output could not be read."""

    run: RunConfig
    code: int | None
    reason: str = ""


Event = Started | Line | Ended


class Executor(ABC):
    """Executes runs somewhere. Use as a context manager: `with create_executor(options, folder) as executor`.

    jobs: how many runs are executed at the same time, at most. threads: the CPU threads of each, or of each of its
    devices. runs_per_gpu: how many runs use the same GPU at a time, at most; 1 without GPUs. hides_gpus: whether the
    runs see none of the GPUs that there are, as with GPUS_PER_RUN=0.
    """

    jobs: int
    threads: int
    runs_per_gpu: int = 1
    hides_gpus: bool = False
    why_left = "stopped at the time limit"  # how the last line of the output begins if there are runs `left`

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.pace: Pace | None = None  # learns how long the runs take, to print the time left
        self.limit: TimeLimit | None = None  # when to stop the runs; needs `pace`
        self.names: dict[str, str] = {}  # run_id -> '2/6 resnet20-seed0'
        self.nodes: dict[str, str] = {}  # run_id -> ' node3', or empty on this machine
        self.reasons: dict[str, str] = {}  # run_id -> the failure message that the run printed
        self.errors: dict[str, str] = {}  # run_id -> the last error that its command printed
        self.codes: dict[str, int | None] = {}  # run_id -> exit code of a run that has ended
        self.in_flight: set[str] = set()  # the runs that were started and have not ended
        self.left: list[str] = []  # the runs that were stopped or not started because of the time limit
        self.stopped_by: int | None = None
        self.reached_limit = self.killed = False
        self.request = StopRequest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 (most executors hold nothing)
        """Free what the executor holds."""

    @property
    def device(self) -> str:
        """Where the runs train: as asked, but not on GPUs that they do not see."""
        return "cpu" if self.hides_gpus and self.options.device == "auto" else self.options.device

    @abstractmethod
    def describe(self) -> str:
        """Where the runs would be executed, and with what: a sentence for `make plan`."""

    def check(self, runs: Sequence[RunConfig]) -> None:  # noqa: B027 (not every executor has something to check)
        """Raise UserError if the runs cannot be executed as the options ask; before anything is trained."""

    @abstractmethod
    def start(self, run: RunConfig) -> None:
        """Start a run, or queue it where it will be started. Raises OSError if that is impossible."""

    @abstractmethod
    def events(self, seconds: float) -> Iterable[Event]:
        """What has happened to the runs; wait for it at most so long."""

    @abstractmethod
    def stop(self, number: int) -> None:
        """Ask every started run to save its state and end, as the signal does; the second time, kill the runs."""

    def execute(self, runs: Sequence[RunConfig], planned: Sequence[RunConfig] = ()) -> dict[str, str]:
        """Execute `runs`, of all that are `planned`; return run_id -> reason for those that failed. `left` are then
        those that the time limit has left. SIGTERM and SIGINT stop all runs, which can be resumed, and exit this
        process."""
        planned = planned or runs
        self.names = {run.run_id: f"{number}/{len(planned)} {run.run_id}" for number, run in enumerate(planned, 1)}
        handlers = {number: signal.signal(number, self._interrupted) for number in (signal.SIGTERM, signal.SIGINT)}
        waiting = list(runs)
        while self._is_open(waiting) or self.in_flight:
            self._watch_limit()
            while self._is_open(waiting) and len(self.in_flight) < self.jobs:
                run = next(filter(self._is_worth_starting, waiting), None)
                if run is None:
                    waiting.clear()
                    break
                waiting.remove(run)
                self._start(run)
            for event in self.events(0.2):
                self._handle(event)
                self._watch_limit()
        if self.stopped_by is not None:
            self.say_stopped()
            sys.exit(128 + self.stopped_by)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        self.left = [run.run_id for run in runs if self._is_left(run.run_id)]
        silent = "the process exited without an error message"
        return {
            run.run_id: self.reasons.get(run.run_id, silent)
            for run in runs
            if self.codes.get(run.run_id) != 0 and run.run_id not in self.left
        }

    def say_stopped(self) -> None:
        print("stopped; the same command resumes the runs", file=sys.stderr)

    def command(self, run: RunConfig, python: str = sys.executable, results: Path | None = None) -> list[str]:
        """The command that executes a run. results: the results folder there; default: this one."""
        options = self.options
        study = options.study
        if study.endswith((".yaml", ".yml")):  # a file, whose path may be relative to this process's folder
            study = str(Path(study).resolve())
        command = [python, "-m", "senet_lib.running.run", study, run.run_id, "--hash", run.hash]
        command += ["--results", str(results or self.folder.parent)]
        command += ["--device", options.device, "--threads", str(self.threads)]
        command += ["--devices", str(options.devices)] if options.devices != 1 else []
        command += ["--data", data_root_in(options.data) or options.data] if options.data else []
        return command + (["--limit-epochs", str(options.limit_epochs)] if options.limit_epochs else [])

    def variables(self) -> dict[str, str]:
        """The environment variables that every run gets."""
        from senet_lib.training.checkpoint import INTERVAL_VARIABLE  # with torch, only if there is something to train

        given = os.environ.get(INTERVAL_VARIABLE)
        writing = min(self.jobs, self.options.jobs or self.jobs)  # Slurm's `jobs` are all that are submitted
        return {
            INTERVAL_VARIABLE: given or f"{checkpoint_seconds(writing):g}",
            SUPERVISED: "1",
            RUNS_PER_GPU: str(self.runs_per_gpu),
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8:backslashreplace",  # in which the output is read
        }

    def _is_open(self, waiting: Sequence[RunConfig]) -> bool:
        """Whether a run is still to be started."""
        return bool(waiting) and self.stopped_by is None and not self.reached_limit

    def _is_worth_starting(self, run: RunConfig) -> bool:
        if self.limit is None:
            return True
        return self.limit.leaves_time_for(self.pace.start, self.pace.rest(run, self.folder / "runs" / run.run_id))

    def _start(self, run: RunConfig) -> None:
        self.in_flight.add(run.run_id)
        try:
            self.start(run)
        except OSError as error:  # for example no memory for a process
            self._handle(Ended(run, None, f"the run could not be started: {error}"))

    def _handle(self, event: Event) -> None:
        run = event.run
        match event:
            case Started():
                self.nodes[run.run_id] = f" {event.node}" if event.node else ""
                if self.pace:
                    self.pace.started(run)
            case Line():
                time_left = self.pace.line(run, event.text) if self.pace else ""
                self._print(f"[{self.names[run.run_id]}{self.nodes.get(run.run_id, '')}] {event.text}{time_left}")
                if event.text.startswith(failed := f"{run.run_id}{FAILED}"):
                    self.reasons.setdefault(run.run_id, event.text.removeprefix(failed))
                elif event.text.startswith("error: "):
                    self.errors[run.run_id] = event.text.removeprefix("error: ")
            case Ended():
                self.in_flight.discard(run.run_id)
                self.codes[run.run_id] = event.code
                if reason := event.reason or self._why(run, event.code):
                    self.reasons.setdefault(run.run_id, reason)
                if self.pace:
                    self.pace.ended(run, finished=event.code == 0)

    def _why(self, run: RunConfig, code: int | None) -> str:
        """The reason for an exit code for which the run itself does not print that it failed; empty if unknown."""
        if code == 2:
            return self.errors.get(run.run_id, "")
        if code is None or code in STOPPED or 0 <= code <= 128:
            return ""
        number = -code if code < 0 else code - 128  # without a shell in between, with one
        return f"killed by signal {number}, as for too much memory"

    def _print(self, text: str) -> None:
        # The reader may have gone (as in `| head`) or lack a character; the runs continue and must be followed
        with contextlib.suppress(OSError, ValueError):
            print(text)

    def _watch_limit(self) -> None:
        """At the time limit stop the runs, which save their state; those that have not ended in time are killed."""
        if self.limit is None or self.stopped_by is not None:
            return
        now = time.monotonic()
        if now >= self.limit.stop_at(self.pace.start) and not self.reached_limit:
            self.reached_limit = True
            self.stop(signal.SIGTERM)
        elif now >= self.limit.end and not self.killed:
            self.killed = True
            self.stop(signal.SIGTERM)

    def _is_left(self, run_id: str) -> bool:
        """Whether the time limit has left the run."""
        if run_id not in self.codes:
            return self.limit is not None
        return self.reached_limit and self.codes[run_id] in STOPPED

    def _interrupted(self, number: int, frame: object) -> None:
        if not self.request.is_new():
            return
        self.stopped_by = number
        self.stop(number)


def checkpoint_seconds(jobs: int) -> float:
    """The seconds between two checkpoints of a run, of which all together write at most CHECKPOINTS_PER_SECOND."""
    from senet_lib.training.checkpoint import INTERVAL

    return min(LONGEST_INTERVAL, max(INTERVAL, jobs / CHECKPOINTS_PER_SECOND))


def gpus_of_a_run(options: argparse.Namespace, available: bool) -> float:
    """How many GPUs a run gets, or which part of one: GPUS_PER_RUN, otherwise one per device if there are any.

    Raises UserError if they are fewer than its devices.
    """
    if (given := options.gpus_per_run) is not None:
        if given and options.devices > max(1, given):
            raise UserError(f"DEVICES is {options.devices}, but GPUS_PER_RUN is {given:g}: a run needs as many GPUs")
        return given
    return options.devices if available and options.device != "cpu" else 0


def in_words(jobs: int, threads: int, gpus: float) -> str:
    """What each run gets, for `describe`."""
    runs = "one run" if jobs == 1 else f"{jobs} runs"
    parts = ["1 CPU thread" if threads == 1 else f"{threads} CPU threads"]
    if gpus:
        parts.append("1 GPU" if gpus == 1 else f"{gpus:g} {'GPUs' if gpus > 1 else 'of a GPU'}")
    return f"{runs} at a time, each with {' and '.join(parts)}"
