"""Progress: a bar when interactive, otherwise one log line per epoch."""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from senet_lib.durations import to_the_second
from senet_lib.process import SUPERVISED

EPOCH_LINE = re.compile(r"epoch +(\d+)/\d+ .*?  ([\d.]+) s  ")  # a line below: the epoch, its seconds of training
RESUMED_LINE = re.compile(r"resumed after epoch (\d+),")
BAR_WIDTH = 88  # characters: the width of a JupyterLab output cell beside the file browser on a small laptop


class Reporter:
    """Shows a progress bar, or one line per epoch, or nothing."""

    def __init__(self, work: list[float], split: str, first_epoch: float, bar: Any = None, lines: bool = False) -> None:
        self.work, self.split, self.bar, self.lines = work, split, bar, lines
        whole = int(first_epoch)  # a resumed training may start within an epoch
        self.work_before = sum(work[:whole]) + (first_epoch - whole) * sum(work[whole : whole + 1])
        self.started = time.perf_counter()

    def step(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def epoch(self, row: dict[str, float]) -> None:
        done, left = sum(self.work[: row["epoch"]]) - self.work_before, sum(self.work[row["epoch"] :])
        # Resumed after an epoch's last step, it did nothing yet from which the rest could be estimated
        seconds_left = (time.perf_counter() - self.started) / done * left if done > 0 else None
        epochs, rest = len(self.work), "" if seconds_left is None else f"  {to_the_second(seconds_left)} left"
        text = (
            f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  "
            f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
            f"{self.split} loss {row['test_loss']:.4f} accuracy {row['test_accuracy']:.2%}  "
            f"{row['train_seconds']:.1f} s  {row['images_per_second']:.0f} images/s{rest}"
        )
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.split} accuracy {row['test_accuracy']:.2%}")
        if self.lines:
            print(text, flush=True)


@contextmanager
def reporter(
    progress: str, work: list[float], split: str, steps: int, first_epoch: int, first_step: int
) -> Iterator[Reporter]:
    """Yield a Reporter. work: the cost of each epoch, in any unit. split: the display name of the evaluated split."""
    if progress == "auto":
        headless = bool(os.environ.get(SUPERVISED)) or not ("ipykernel" in sys.modules or sys.stdout.isatty())
        progress = "lines" if headless else "bar"
    if progress != "bar":
        yield Reporter(work, split, first_epoch + first_step / steps, lines=progress == "lines")
        return
    # As text, not as a widget: it wraps nowhere, and it is still there when a saved notebook is opened again
    with tqdm(
        total=len(work) * steps,
        initial=first_epoch * steps + first_step,
        unit="step",
        file=sys.stdout,
        ncols=min(BAR_WIDTH, shutil.get_terminal_size((BAR_WIDTH, 0)).columns - 1),
        mininterval=0.5,
    ) as bar:
        yield Reporter(work, split, first_epoch + first_step / steps, bar)
