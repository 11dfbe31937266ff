"""SIGTERM and SIGINT during training: stop after the current step, with the state saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class TrainingStopped(RuntimeError):
    """Training was stopped by SIGTERM; the state is saved, and the same call resumes from it."""


class StopSignal:
    """Signal handler that records the signal; the training loop checks it after each step."""

    received: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        self.received = number

    def raise_stopped(self, where: str) -> NoReturn:
        """Raise KeyboardInterrupt after SIGINT, TrainingStopped after SIGTERM; `where` completes the message."""
        name = signal.Signals(self.received).name
        message = f"stopped by {name} {where}; the state is saved, and the same command resumes there"
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
