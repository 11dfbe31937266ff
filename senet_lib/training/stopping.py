"""SIGTERM and SIGINT during training: stop after the current step, with the state saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class TrainingStopped(RuntimeError):
    """Training was stopped by SIGTERM. With a run directory the state is saved, and the same call resumes from it."""


class EvaluationStopped(Exception):
    """An evaluation was given up half-way because of a signal."""


class StopSignal:
    """Signal handler that records the signal; the training loop checks it after each step and each evaluated batch."""

    received: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        self.received = number

    def raise_stopped(self, where: str, saved: bool) -> NoReturn:
        """Raise KeyboardInterrupt after SIGINT, TrainingStopped after SIGTERM; `where` completes the message."""
        message = f"stopped by {signal.Signals(self.received).name} {where}"
        message += "; the state is saved, and the same command resumes there" if saved else "; nothing is saved"
        raise KeyboardInterrupt(message) if self.received == signal.SIGINT else TrainingStopped(message)


@contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Record SIGTERM and SIGINT inside the block instead of acting on them, so that no step is interrupted midway."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
