"""How long the runs of a study take, learned from its finished runs and from the progress of the running ones."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from senet_lib.data import Dataset
from senet_lib.durations import about
from senet_lib.errors import DamagedFile
from senet_lib.files import read_record
from senet_lib.results import CHECKPOINT_FILES, SUMMARY, environment_record, part_records, read_history
from senet_lib.running.estimate import count, image_steps
from senet_lib.study import RunConfig
from senet_lib.training.progress import EPOCH_LINE, RESUMED_LINE
from senet_lib.training.resizing import pixel_shares
from senet_lib.training.runtime import device_kind, resolve_precision

START = 10.0  # seconds until a run trains (interpreter, imports, kernel, data), until one was observed


class Conditions:
    """What must be equal for a finished run's time to tell how long another one takes here.

    device: 'auto' or its kind. threads: the CPU threads of a process. devices: how many train a network together.
    runs_per_gpu: how many runs share a GPU.
    """

    def __init__(self, device: str, threads: int, devices: int = 1, runs_per_gpu: int = 1) -> None:
        here = environment_record()
        self.kind = device_kind(device)
        self.record: dict[str, Any] = {key: here[key] for key in ("processor", "cores")}
        self.record["device"] = torch.cuda.get_device_name() if self.kind == "cuda" else self.kind
        self.record["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        self.record |= {"devices": devices, "runs_per_gpu": runs_per_gpu if self.kind == "cuda" else 1}
        if self.kind == "cpu":
            self.record["threads"] = threads

    def recorded(self, folder: Path, runs: Sequence[RunConfig], data: Dataset) -> Iterator[tuple[RunConfig, float]]:
        """Those of the finished `runs` in a results folder that had these conditions, and what `recorded_seconds` says
        of them."""
        for run in runs:
            if seconds := self.recorded_seconds(folder / "runs" / run.run_id, run, data):
                yield run, seconds

    def recorded_seconds(self, run_dir: Path, run: RunConfig, data: Dataset) -> float | None:
        """The seconds of a finished run's epochs with their evaluations; None if its conditions were others, even for
        a part of it."""
        parts = part_records(read_record(run_dir / "environment.json") or {})
        summary = read_record(run_dir / SUMMARY) or {}
        wanted = self.record | {"precision": resolve_precision(run.recipe.precision, self.kind)}
        train_seconds = summary.get("train_seconds")
        if (
            any(part.get(key) != value for part in parts for key, value in wanted.items())
            or not isinstance(train_seconds, int | float)
            or not train_seconds
        ):
            return None
        training, evaluation = image_steps(run, data)
        return train_seconds * (1 + evaluation / training)


@dataclass
class _Progress:
    """A running run: when it started, the epochs that it already had, when it finished which epoch, and how long all of
    its epochs take."""

    started: float
    resumed: int | None = None
    marks: list[tuple[int, float]] = field(default_factory=list)
    epochs_seconds: float = 0.0


class Pace:
    """Estimates how long a run takes, and when all runs will be done. Times are readings of time.monotonic()."""

    def __init__(self, runs: Sequence[RunConfig], data: Dataset, jobs: int) -> None:
        self.data, self.jobs = data, jobs
        self.waiting = {run.run_id: run for run in runs}
        self.running: dict[str, tuple[RunConfig, _Progress]] = {}
        self.seconds: dict[str, list[float]] = {}  # label -> seconds of its whole runs
        self.configurations: dict[str, RunConfig] = {}  # those of `seconds`
        self.starts: list[float] = []

    @property
    def start(self) -> float:
        """The seconds until a run trains."""
        return fmean(self.starts) if self.starts else START

    def learn(self, run: RunConfig, seconds: float) -> None:
        """Learn that a whole run took `seconds`."""
        self.configurations[run.label] = run
        self.seconds.setdefault(run.label, []).append(seconds)

    def started(self, run: RunConfig) -> None:
        self.running[run.run_id] = self.waiting.pop(run.run_id, run), _Progress(time.monotonic())

    def line(self, run: RunConfig, text: str) -> str:
        """Learn from a line of the run's output; after an epoch return the time left for all runs, as text."""
        progress = self.running[run.run_id][1]
        if resumed := RESUMED_LINE.match(text):
            progress.resumed = int(resumed[1])
        if not (epoch := EPOCH_LINE.match(text)):
            return ""
        self._mark(run, progress, int(epoch[1]), float(epoch[2]))
        left = self.left() if self.waiting or len(self.running) > 1 else None
        return f"; {about(left)} left in all" if left is not None else ""

    def ended(self, run: RunConfig, finished: bool) -> None:
        """Learn from a whole run. It may have ended without having started."""
        self.waiting.pop(run.run_id, None)
        _, progress = self.running.pop(run.run_id, (run, _Progress(time.monotonic())))
        if not finished or not progress.marks or progress.resumed is not None:
            return
        self.learn(run, time.monotonic() - progress.started)

    def whole(self, run: RunConfig) -> float | None:
        """The expected seconds of a whole run; None as long as nothing is known."""
        if run.label in self.seconds:
            return fmean(self.seconds[run.label])
        known = {label: fmean(seconds) for label, seconds in self.seconds.items()}
        others = dict(self.configurations)
        for other, progress in self.running.values():
            if progress.marks and other.label not in known:
                known[other.label] = self.start + progress.epochs_seconds
                others[other.label] = other
        if run.label in known:
            return known[run.label]
        rates = [max(0.0, s - self.start) / self._size(others[label]) for label, s in known.items()]
        return self.start + fmean(rates) * self._size(run) if rates else None

    def rest(self, run: RunConfig, run_dir: Path) -> float | None:
        """The expected seconds of a run that continues from its checkpoint in `run_dir`, or of a whole run if there is
        none; None as long as nothing is known."""
        whole = self.whole(run)
        if whole is None or (read_record(run_dir / "config.json") or {}).get("hash") != run.hash:
            return whole
        if not any((run_dir / name).is_file() for name in CHECKPOINT_FILES):
            return whole
        done = 0
        with contextlib.suppress(OSError, DamagedFile):
            done = len(read_history(run_dir))
        return self.start + max(0.0, whole - self.start) * sum(_shares(run, self.data)[done:])

    def left(self) -> float | None:
        """The expected seconds until all runs are done; None as long as nothing is known."""
        running = [self._left_of(run, progress) for run, progress in self.running.values()]
        waiting = [self.whole(run) for run in self.waiting.values()]
        if None in running or None in waiting:
            return None
        return max([*running, (sum(running) + sum(waiting)) / self.jobs])

    def _left_of(self, run: RunConfig, progress: _Progress) -> float | None:
        now, shares = time.monotonic(), _shares(run, self.data)
        if progress.marks:
            epoch, at = progress.marks[-1]
            return max(0.0, progress.epochs_seconds * sum(shares[epoch:]) - (now - at))
        if (whole := self.whole(run)) is None:
            return None
        return max(0.0, whole * sum(shares[progress.resumed or 0 :]) - (now - progress.started))

    def _mark(self, run: RunConfig, progress: _Progress, epoch: int, train_seconds: float) -> None:
        """Note that the run has finished an epoch."""
        now, shares = time.monotonic(), _shares(run, self.data)
        progress.marks.append((epoch, now))
        if len(progress.marks) == 1:
            training, evaluation = image_steps(run, self.data)
            seconds = train_seconds * (1 + evaluation / training)
            progress.epochs_seconds = seconds / shares[epoch - 1]
            if progress.resumed is None:  # otherwise `seconds` include those of an earlier process
                self.starts.append(max(0.0, now - progress.started - seconds))
        else:
            first, since = progress.marks[0]
            progress.epochs_seconds = (now - since) / sum(shares[first:epoch])

    def _size(self, run: RunConfig) -> float:
        """The run's multiply-adds."""
        macs = count(run, self.data)[1]
        return macs * run.recipe.epochs * sum(image_steps(run, self.data))


def _shares(run: RunConfig, data: Dataset) -> list[float]:
    """Each epoch's share of the run's time: it grows with the pixels of its images."""
    pixels = pixel_shares(run.recipe, data.image_shape[1])
    return [share / sum(pixels) for share in pixels]
