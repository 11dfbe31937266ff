"""Execute runs as a Slurm job array.

Everything of a submission is in `<results>/<study>/slurm/<time>/`: the script, the list of its runs and the logs. Slurm
queues, places and repeats the jobs; this process only follows them. It may end at any time: the next one finds the jobs
in the queue by the path of their script.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from senet_lib.errors import UserError
from senet_lib.files import read_record, write_text
from senet_lib.project import project_root
from senet_lib.results import is_intact
from senet_lib.running import slurm_script
from senet_lib.running.executor import STOPPED, Ended, Event, Executor, Line, Started, gpus_of_a_run
from senet_lib.running.slurm_script import ENDED, RUNS, STARTED
from senet_lib.study import RunConfig

FOLDER, SCRIPT = "slurm", "array.sbatch"
REFUSED = "Slurm refuses the job array"
LOOK, ASK = 1.0, 5.0  # seconds between two looks into the logs, and between two questions to Slurm, at least
LOGS_PER_SECOND = 100  # opened at most, whatever the number of running jobs
SHARE = 0.05  # of the time, at most, that Slurm spends on answers
LARGEST_ARRAY = 1000  # jobs, unless Slurm says otherwise: one less than its default MaxArraySize
PENDING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
GONE = ""  # the state of a job that Slurm no longer lists
OVER = (
    *(GONE, "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
)


@dataclass
class Job:
    """A run's place in a job array, as '12_3'. log: what it prints; read: how many bytes of it were read."""

    run: RunConfig
    number: str
    place: Path
    read: int = 0
    attempts: int = 0
    code: int | None = None  # the exit code in the log
    before: Started | None = None  # that it had started before this process followed it
    seen_over: int = 0  # how often in a row Slurm said that it is over

    @property
    def log(self) -> Path:
        return self.place / f"{self.number}.log"


class SlurmExecutor(Executor):
    """A job of an array per run. `jobs` at a time, or as many as find a place."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        super().__init__(options, folder)
        self.given = slurm_script.user_options(options.slurm_options)
        cpus = slurm_script.option_value(self.given, "cpus-per-task") or ""
        self.threads = options.threads or max(1, (int(cpus) if cpus.isdecimal() else 0) // options.devices)
        gpus = gpus_of_a_run(options, available=False)
        if gpus != int(gpus):
            raise UserError(f"GPUS_PER_RUN is {gpus:g}; Slurm gives whole GPUs to a run: 0, 1, 2 and so on")
        self.gpus = int(gpus)
        self.jobs = options.jobs or 1
        self.collected: list[RunConfig] = []  # the runs that `start` was given, until they are submitted
        self.arrays: list[str] = []  # the numbers of the arrays that are followed
        self.followed: dict[str, Job] = {}  # run_id -> job
        self.states: dict[str, str] = {}  # number -> state, as Slurm said last
        self.hosts: dict[str, str] = {}  # number -> node, likewise
        self.scripts: dict[str, str] = {}  # path of a script -> number of its array, as Slurm said last
        self.stops = self.cancelled = 0  # how often the time limit asked to stop; how often that was passed on
        self.next_look = self.next_question = 0.0
        self.has_failed_to_ask = False
        self.largest_array = LARGEST_ARRAY

    def describe(self) -> str:
        jobs = f"{self.options.jobs} at a time" if self.options.jobs else "as many at a time as find a place"
        cpus = self.threads * self.options.devices
        parts = ["1 CPU" if cpus == 1 else f"{cpus} CPUs"]
        parts += [f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"] if self.gpus else []
        parts += [f"the options {' '.join(self.given)}"] if self.given else []
        return f"as one Slurm job array, {jobs}, each with {' and '.join(parts)}"

    def check(self, runs: Sequence[RunConfig]) -> None:
        if not shutil.which("sbatch"):
            raise UserError("EXECUTOR=slurm needs sbatch, which is not on the PATH; start this on a login node")
        for line in _slurm("scontrol", "show", "config").stdout.splitlines():
            if line.startswith("MaxArraySize"):
                self.largest_array = max(1, int(line.split()[-1]) - 1)
        self.jobs = self.options.jobs or len(runs)
        text = self._script(self.folder / FOLDER / "test", runs[: self.largest_array])
        if _slurm("sbatch", "--test-only", text=text).returncode:
            # It also refuses what could run once nodes are back; only a submission tells these apart
            answer = _slurm("sbatch", "--begin=now+1day", "--parsable", text=text)
            if answer.returncode:
                raise UserError(f"{REFUSED}: {_message(answer)}; change SLURM_OPTIONS or what a run needs")
            _slurm("scancel", _array_number(answer))

    def execute(self, runs: Sequence[RunConfig], planned: Sequence[RunConfig] = ()) -> dict[str, str]:
        self.jobs = len(runs)  # all are submitted at once; the array keeps to JOBS
        return super().execute(runs, planned)

    def start(self, run: RunConfig) -> None:
        self.collected.append(run)

    def events(self, seconds: float) -> Iterable[Event]:
        if self.stopped_by is not None:  # the jobs go on
            return [Ended(run, None) for run in self._in_flight()]
        if self.collected:
            runs, self.collected = self.collected, []
            self._follow_earlier(runs)
            self._submit([run for run in runs if run.run_id not in self.followed])
            if self.options.no_wait:
                return [Ended(run, None) for run in runs]
        if self.cancelled < self.stops:
            self.cancelled = self.stops
            return self._cancel()
        time.sleep(min(seconds, max(0.0, self.next_look - time.monotonic())))
        if time.monotonic() < self.next_look:
            return []
        return self._look()

    def stop(self, number: int) -> None:
        if self.stopped_by is None:
            self.stops += 1

    def say_stopped(self) -> None:
        if self.arrays:
            print(f"not followed any more; the Slurm jobs go on: {self._remedy()}", file=sys.stderr)
        else:
            super().say_stopped()

    @property
    def why_left(self) -> str:
        return "submitted" if self.options.no_wait else super().why_left

    def _is_left(self, run_id: str) -> bool:
        return (self.options.no_wait and run_id in self.followed) or super()._is_left(run_id)

    def _in_flight(self) -> list[RunConfig]:
        return [job.run for job in self.followed.values() if job.run.run_id in self.in_flight] + self.collected

    def _remedy(self) -> str:
        return f"the same command follows them again; `scancel {' '.join(self.arrays)}` cancels them"

    def _submit(self, runs: Sequence[RunConfig]) -> None:
        """Submit the runs as one array, or as several if there are more than an array may have. Raises UserError."""
        after = ""
        for start in range(0, len(runs), self.largest_array):
            part = runs[start : start + self.largest_array]
            place = _new_folder(self.folder / FOLDER)
            write_text(place / RUNS, "".join(f"{run.run_id} {run.hash}\n" for run in part))
            write_text(place / SCRIPT, self._script(place, part))
            # Several arrays with JOBS: one after the other, since each keeps to JOBS by itself
            chained = [f"--dependency=afterany:{after}"] if after and self.options.jobs else []
            answer = _slurm("sbatch", "--parsable", *chained, str(place / SCRIPT))
            if answer.returncode:
                shutil.rmtree(place)
                raise UserError(f"{REFUSED}: {_message(answer)}")
            after = _array_number(answer)
            self._follow(after, place, part)
            where = f"script and logs are in {os.path.relpath(place)}"
            self._print(f"Slurm job {after}: {len(part)} runs submitted; {where}")
        if self.options.no_wait and self.arrays:
            self._print(self._remedy())

    def _script(self, place: Path, runs: Sequence[RunConfig]) -> str:
        options = slurm_script.array_options(
            self.folder.name,
            place,
            len(runs),
            self.options.jobs,
            self.threads * self.options.devices,
            self.gpus,
            self.given,
        )
        variables = {name: value for name, value in os.environ.items() if name.startswith("SENET_")}
        first = runs[0]
        of_run = {first.run_id: '"$run"', first.hash: '"$hash"'}
        words = [of_run.get(word) or shlex.quote(word) for word in self.command(first)]
        return slurm_script.script(
            self.folder.name, place, project_root(), options, words, variables | self.variables()
        )

    def _follow(self, array: str, place: Path, runs: Iterable[RunConfig]) -> None:
        self.arrays.append(array)
        for index, run in enumerate(runs):
            self.followed[run.run_id] = Job(run, f"{array}_{index}", place)

    def _follow_earlier(self, runs: Sequence[RunConfig]) -> None:
        """Follow those of the runs that are still queued or running in an earlier submission."""
        folder = self.folder / FOLDER
        if not folder.is_dir() or not self._ask():
            return
        wanted = {f"{run.run_id} {run.hash}": run for run in runs}
        for script, array in self.scripts.items():
            place = Path(script).parent
            if place.parent != folder or not (place / RUNS).is_file():
                continue
            lines = (place / RUNS).read_text(encoding="utf-8").splitlines()
            live = [
                Job(wanted[line], f"{array}_{index}", place)
                for index, line in enumerate(lines)
                if line in wanted and self.states.get(f"{array}_{index}", GONE) not in OVER
            ]
            for job in live:
                self.followed[job.run.run_id] = job
                for event in self._read(job):  # its lines were printed by the earlier process, or are in the log
                    job.before = event if isinstance(event, Started) else job.before
            if live:
                self.arrays.append(array)
                self._print(f"Slurm job {array} of an earlier start has {len(live)} of the runs, queued or running")

    def _ask(self) -> bool:
        """Ask Slurm for the states of the jobs; return whether it answered."""
        asked = time.monotonic()
        answer = _slurm("squeue", "--me", "--array", "--states=all", "--noheader", "--format=%i|%T|%N|%o")
        now = time.monotonic()
        self.next_question = now + max(ASK, (now - asked) / SHARE)
        if answer.returncode:
            if not self.has_failed_to_ask:
                self._print(f"squeue: {_message(answer)}; asked again until Slurm answers")
            self.has_failed_to_ask = True
            return False
        self.has_failed_to_ask = False
        rows = [line.split("|", 3) for line in answer.stdout.splitlines() if line.count("|") >= 3]
        self.states = {number: state for number, state, _, _ in rows}
        self.hosts = {number: host for number, _, host, _ in rows if host}
        self.scripts = {script: number.split("_")[0] for number, state, _, script in rows if state not in OVER}
        return True

    def _look(self) -> Iterator[Event]:
        """What the logs and Slurm say about the jobs."""
        asked = time.monotonic() >= self.next_question and self._ask()
        opened = 0
        for job in self.followed.values():
            if job.run.run_id not in self.in_flight:
                continue
            if job.before:
                yield job.before
                job.before = None
                if self.pace:  # it must not take the rest of the run for a whole one
                    self.pace.line(job.run, "resumed after epoch 0, where this process begins to follow it")
            state = self.states.get(job.number, GONE)
            if state not in PENDING or job.attempts:
                opened += 1
                yield from self._read(job)
            if job.code is not None and (job.code not in STOPPED or self.reached_limit):
                yield Ended(job.run, job.code, self._reason(job))
            elif asked:
                # Twice, since a log may reach this machine later than Slurm's answer
                job.seen_over = job.seen_over + 1 if state in OVER else 0
                if job.seen_over == 2:
                    yield self._ended(job, state or _accounted(job.number))
        self.next_look = time.monotonic() + max(LOOK, opened / LOGS_PER_SECOND)

    def _read(self, job: Job) -> Iterator[Event]:
        """The new complete lines of the job's log."""
        try:
            with open(job.log, "rb") as file:  # opened each time: on NFS, only that shows what other nodes wrote
                file.seek(job.read)
                new = file.read()
        except FileNotFoundError:
            return
        new = new[: new.rfind(b"\n") + 1]
        job.read += len(new)
        for line in new.decode("utf-8", errors="replace").splitlines():
            if (started := STARTED.fullmatch(line)) and started[1] == job.number:
                job.code, job.attempts = None, job.attempts + 1
                yield Started(job.run, started[2])
                if job.attempts > 1:
                    yield Line(job.run, f"started again as job {job.number}")
            elif (ended := ENDED.fullmatch(line)) and ended[1] == job.number:
                job.code = int(ended[2])
            else:
                if not job.attempts:  # printed before the script, or before this process has followed it
                    job.attempts = 1
                    yield Started(job.run)
                yield Line(job.run, line.rstrip())

    def _ended(self, job: Job, state: str) -> Ended:
        """The end of a job that has written no exit code, or that of a stopped run."""
        run_dir = self.folder / "runs" / job.run.run_id
        if is_intact(run_dir, job.run.hash):
            return Ended(job.run, 0)
        failure = run_dir / "failure.json"
        if (record := read_record(failure)) and failure.stat().st_mtime > (job.place / RUNS).stat().st_mtime:
            return Ended(job.run, 1, str(record.get("error")))
        if self.reached_limit:
            return Ended(job.run, STOPPED[0])
        log = os.path.relpath(job.log)
        if job.log.exists():
            return Ended(job.run, job.code, f"its job {job.number} ended ({state or 'no state known'}); log: {log}")
        if state.startswith("CANCELLED"):
            return Ended(job.run, None, f"its job {job.number} was cancelled")
        host = self.hosts.get(job.number, "every node")
        why = f"its job {job.number} ended ({state or 'no state known'}) without the log {log}"
        return Ended(job.run, None, f"{why}; {host} must see this folder and be allowed to write there")

    def _reason(self, job: Job) -> str:
        why = self._why(job.run, job.code)
        return f"{why}; log: {os.path.relpath(job.log)}" if why else ""

    def _cancel(self) -> Iterator[Event]:
        """Stop the jobs as the time limit asks: first those that run save their state; then all are killed."""
        if self.arrays and self.stops == 1:
            _slurm("scancel", "--state=PENDING", *self.arrays)
            _slurm("scancel", "--signal=TERM", "--batch", *self.arrays)
        elif self.arrays:
            _slurm("scancel", *self.arrays)
        for job in self.followed.values():
            if job.run.run_id in self.in_flight and (self.stops > 1 or not job.attempts):
                yield self._ended(job, GONE)


def _slurm(*command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Call one of Slurm's commands, in a session of its own: Ctrl-C is for this process alone. text: its input."""
    source = {"input": text} if text is not None else {"stdin": subprocess.DEVNULL}
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", start_new_session=True, **source
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _message(answer: subprocess.CompletedProcess[str]) -> str:
    """What a failed command said, in one line without its name."""
    lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
    known = ("sbatch: error: ", "sbatch: fatal: ", "sbatch: ", "allocation failure: ", "slurm_load_jobs error: ")
    for start in known:
        lines = [line.removeprefix(start) for line in lines if not line.startswith("Try ")]
    return "; ".join(dict.fromkeys(lines))[:400] or f"exit code {answer.returncode}"


def _array_number(answer: subprocess.CompletedProcess[str]) -> str:
    """The number that `sbatch --parsable` has printed, without the cluster's name."""
    return answer.stdout.strip().split(";")[0]


def _accounted(number: str) -> str:
    """The state of a job in Slurm's accounting; empty where there is none."""
    answer = _slurm("sacct", "--allocations", "--noheader", "--parsable2", "--format=State", f"--jobs={number}")
    return answer.stdout.split("\n")[0].strip() if answer.returncode == 0 else ""


def _new_folder(parent: Path) -> Path:
    """A new folder in `parent`, named after the time."""
    name, number = time.strftime("%Y-%m-%d_%H-%M-%S"), 1
    while True:
        place = parent / (name if number == 1 else f"{name}_{number}")
        try:
            place.mkdir(parents=True)
            return place
        except FileExistsError:
            number += 1
