"""Execute runs as subprocesses on this machine, as many at a time as there are jobs.

Every run is a separate process with the command `python -m senet_lib.running.run STUDY RUN_ID`. This module decides
when it starts, and on which GPU.
"""

import argparse
import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from senet_lib.process import SUPERVISED, StopRequest
from senet_lib.running.run import FAILED
from senet_lib.running.time_limit import TimeLimit
from senet_lib.study import RunConfig

if TYPE_CHECKING:
    from senet_lib.running.pace import Pace

STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)  # exit codes of a run that SIGTERM stopped: with, without its handler


def threads_of_a_job(options: argparse.Namespace) -> int:
    """The CPU threads per job: as requested, otherwise an equal share of the CPUs that this process may use, which
    `taskset`, a scheduler or a container may limit."""
    import joblib  # imported here: a command with nothing to do should not spend the time

    return options.threads or max(1, joblib.cpu_count() // options.jobs)


class Pool:
    """Executes runs as subprocesses, `jobs` at a time; each gets a share of the cores and, if there are any, a GPU.

    pace: learns how long the runs take, to print the time left. limit, which needs `pace`: when to stop the runs.
    """

    def __init__(
        self, options: argparse.Namespace, folder: Path, pace: "Pace | None" = None, limit: TimeLimit | None = None
    ) -> None:
        self.options, self.folder, self.pace, self.limit = options, folder, pace, limit
        self.slots: queue.Queue[int] = queue.Queue()
        self.threads = threads_of_a_job(options)
        self.running: dict[str, subprocess.Popen] = {}
        self.names: dict[str, str] = {}  # run_id -> '2/6 resnet20-seed0'
        self.reasons: dict[str, str] = {}  # run_id -> the failure message that the run printed
        self.left: list[str] = []  # the runs that were stopped or not started because of the time limit
        self.stopped_by: int | None = None
        self.reached_limit = self.killed = False
        self.request = StopRequest()

    def execute(self, runs: Sequence[RunConfig], planned: Sequence[RunConfig] = ()) -> dict[str, str]:
        """Execute `runs`, of all that are `planned`; return run_id -> reason for those that failed. `left` are then
        those that the time limit has left. SIGTERM and SIGINT stop all runs, which can be resumed, and exit this
        process."""
        planned = planned or runs
        self.names = {run.run_id: f"{number}/{len(planned)} {run.run_id}" for number, run in enumerate(planned, 1)}
        handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        codes: dict[str, int] = {}
        workers = []
        for slot in range(min(self.options.jobs, len(runs))):
            self.slots.put(slot)
        for run in runs:
            slot = self._free_slot()
            if slot is None or not self._worth_starting(run):
                break
            try:
                process = self._start(run, slot)
            except OSError as error:  # for example no memory for a process
                self.reasons[run.run_id] = f"the run could not be started: {error}"
                self.slots.put(slot)
                continue
            worker = threading.Thread(target=self._follow, args=(run, slot, process, codes))
            worker.start()
            workers.append(worker)
        for worker in workers:
            while worker.is_alive():
                self._watch_limit()
                worker.join(timeout=0.2)
        if self.stopped_by is not None:
            print("stopped; the same command resumes the runs", file=sys.stderr)
            sys.exit(128 + self.stopped_by)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        self.left = [run.run_id for run in runs if self._is_left(run.run_id, codes.get(run.run_id))]
        silent = "the process exited without an error message"
        return {
            run.run_id: self.reasons.get(run.run_id, silent)
            for run in runs
            if codes.get(run.run_id) != 0 and run.run_id not in self.left
        }

    def _free_slot(self) -> int | None:
        """Wait for a free slot; None once the runs are to stop."""
        while self.stopped_by is None and not self.reached_limit:
            self._watch_limit()
            with contextlib.suppress(queue.Empty):
                return self.slots.get(timeout=0.2)  # with a timeout, to notice a signal
        return None

    def _worth_starting(self, run: RunConfig) -> bool:
        if self.limit is None:
            return True
        return self.limit.leaves_time_for(self.pace.start, self.pace.whole(run))

    def _watch_limit(self) -> None:
        """At the time limit stop the runs, which save their state; those that have not ended in time are killed."""
        if self.limit is None or self.stopped_by is not None:
            return
        now = time.monotonic()
        if now >= self.limit.stop_at(self.pace.start) and not self.reached_limit:
            self.reached_limit = True
            self._signal_runs(signal.SIGTERM)
        elif now >= self.limit.end and not self.killed:
            self.killed = True
            self._signal_runs(signal.SIGTERM)  # a second request kills

    def _is_left(self, run_id: str, code: int | None) -> bool:
        """Whether the time limit has left the run. code: its exit code; None if it was not started."""
        if code is None:
            return self.limit is not None and run_id not in self.reasons
        return self.reached_limit and code in STOPPED

    def _command(self, run: RunConfig) -> list[str]:
        options = self.options
        command = [sys.executable, "-m", "senet_lib.running.run", options.study, run.run_id]
        command += ["--results", str(self.folder.parent), "--device", options.device, "--threads", str(self.threads)]
        command += ["--data", options.data] if options.data else []
        return command + (["--limit-epochs", str(options.limit_epochs)] if options.limit_epochs else [])

    def _start(self, run: RunConfig, slot: int) -> subprocess.Popen:
        environment = {**os.environ, SUPERVISED: "1", "OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        environment["PYTHONIOENCODING"] = "utf-8:backslashreplace"  # in which the output is read below
        if gpus := _visible_gpus():
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        # In a new session: Ctrl-C reaches only this process, which then asks each run to stop
        process = subprocess.Popen(
            self._command(run),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",  # a run may print anything
            start_new_session=True,
        )
        self.running[run.run_id] = process
        if self.pace:
            self.pace.started(run)
        return process

    def _follow(self, run: RunConfig, slot: int, process: subprocess.Popen, codes: dict[str, int]) -> None:
        """Print the run's output until it ends. Nothing that it prints may keep its slot from being freed."""
        try:
            for line in process.stdout:
                time_left = self.pace.line(run, line) if self.pace else ""
                # The reader may have gone (as in `| head`) or lack a character; the run continues and must be read
                with contextlib.suppress(OSError, ValueError):
                    print(f"[{self.names[run.run_id]}] {line.rstrip()}{time_left}")
                if line.startswith(failed := f"{run.run_id}{FAILED}"):
                    self.reasons.setdefault(run.run_id, line.removeprefix(failed).rstrip())
        except Exception as error:
            self.reasons.setdefault(run.run_id, f"its output could not be read: {type(error).__name__}: {error}")
        finally:
            process.stdout.close()
            codes[run.run_id] = process.wait()
            del self.running[run.run_id]
            if self.pace:
                self.pace.ended(run, finished=codes[run.run_id] == 0)
            self.slots.put(slot)

    def _stop(self, number: int, frame: object) -> None:
        if not self.request.is_new():
            return
        self.stopped_by = number
        self._signal_runs(number)

    def _signal_runs(self, number: int) -> None:
        for process in list(self.running.values()):
            process.send_signal(number)


def _visible_gpus() -> list[str]:
    """The GPUs to distribute jobs over, found without initialising CUDA in this process."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listing = subprocess.run(command, capture_output=True, text=True)
    return listing.stdout.split() if listing.returncode == 0 else []
