"""Execute runs as subprocesses on this machine, as many at a time as there are jobs."""

import argparse
import os
import queue
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from senet_lib.errors import UserError
from senet_lib.running.executor import Ended, Event, Executor, Line, Started, gpus_of_a_run, in_words
from senet_lib.study import RunConfig


def threads_of_a_job(threads: int | None, jobs: int) -> int:
    """The CPU threads of each process that trains: as requested, otherwise an equal share of the CPUs that this process
    may use, which `taskset`, a scheduler or a container may limit. jobs: how many such processes there are."""
    import joblib  # imported here: a command with nothing to do should not spend the time

    return threads or max(1, joblib.cpu_count() // jobs)


class LocalExecutor(Executor):
    """A subprocess per run; each gets a share of the cores and, if there are any, of the GPUs.

    Raises UserError if a run is to have more GPUs than there are.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        super().__init__(options, folder)
        self.jobs = options.jobs or 1
        self.threads = threads_of_a_job(options.threads, self.jobs * options.devices)
        self.gpus = visible_gpus()
        self.gpus_per_run = gpus_of_a_run(options, bool(self.gpus))
        if self.gpus_per_run > len(self.gpus):
            raise UserError(f"GPUS_PER_RUN is {self.gpus_per_run:g}; GPUs of this machine: {len(self.gpus)}")
        self.hides_gpus = bool(self.gpus) and not self.gpus_per_run
        self.slots = list(range(self.jobs))  # the free ones
        users = Counter(gpu for slot in self.slots for gpu in gpus_of_slot(slot, self.gpus, self.gpus_per_run))
        self.runs_per_gpu = max(users.values(), default=1)
        self.processes: dict[str, subprocess.Popen] = {}
        self.queue: queue.Queue[Event] = queue.Queue(maxsize=1000)  # a run that prints more waits

    def describe(self) -> str:
        return f"on this machine, {in_words(self.jobs, self.threads, self.gpus_per_run)}"

    def start(self, run: RunConfig) -> None:
        slot = self.slots.pop(0)
        environment = {**os.environ, **self.variables()}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus_of_slot(slot, self.gpus, self.gpus_per_run))
        try:
            # In a new session: Ctrl-C reaches only this process, which then asks each run to stop
            process = subprocess.Popen(
                self.command(run),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",  # a run may print anything
                start_new_session=True,
            )
        except OSError:
            self.slots.append(slot)
            raise
        self.processes[run.run_id] = process
        if self.stopped_by is not None:  # the signal came before this process was known to `stop`
            process.send_signal(self.stopped_by)
        threading.Thread(target=self._follow, args=(run, slot, process), daemon=True).start()

    def events(self, seconds: float) -> Iterable[Event]:
        try:
            yield self.queue.get(timeout=seconds)  # with a timeout, to notice a signal
            while True:
                yield self.queue.get_nowait()
        except queue.Empty:
            pass

    def stop(self, number: int) -> None:
        for process in list(self.processes.values()):
            process.send_signal(number)  # a run that receives it twice kills its kernel

    def _follow(self, run: RunConfig, slot: int, process: subprocess.Popen) -> None:
        """Pass on the run's output until it ends. Nothing that it prints may keep its slot from being freed."""
        reason = ""
        self.queue.put(Started(run))
        try:
            for line in process.stdout:
                self.queue.put(Line(run, line.rstrip()))
        except Exception as error:
            reason = f"its output could not be read: {type(error).__name__}: {error}"
        finally:
            process.stdout.close()
            code = process.wait()
            del self.processes[run.run_id]
            self.slots.append(slot)
            self.queue.put(Ended(run, code, reason))


def gpus_of_slot(slot: int, gpus: Sequence[str], per_run: float) -> list[str]:
    """The GPUs of the run in a slot: its own as long as there are enough; more runs than that share them. per_run: how
    many GPUs, or which share of one."""
    if 0 < per_run < 1:
        return [gpus[slot // int(1 / per_run) % len(gpus)]]
    return [gpus[(slot * int(per_run) + i) % len(gpus)] for i in range(int(per_run))]


def visible_gpus() -> list[str]:
    """The GPUs to distribute jobs over, found without initialising CUDA in this process."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        listed = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        return [gpu for gpu in takewhile(lambda gpu: not gpu.strip().startswith("-"), listed) if gpu]  # CUDA ends at -1
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listing = subprocess.run(command, capture_output=True, text=True)
    return listing.stdout.split() if listing.returncode == 0 else []
