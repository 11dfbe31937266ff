"""SIGTERM and SIGINT during training: stop after the current step, with the state saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingStopped(RuntimeError):
    """Training was stopped by SIGTERM; the state is saved, and the same call resumes from it."""


class Stop:
    """Signal handler that records the signal; the training loop checks it after each step."""

    signal: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        self.signal = number

    def leave(self, where: str) -> None:
        name = signal.Signals(self.signal).name
        message = f"stopped by {name} {where}; the state is saved, and the same command resumes there"
        raise KeyboardInterrupt(message) if self.signal == signal.SIGINT else TrainingStopped(message)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Record SIGTERM and SIGINT inside the block instead of acting on them, so that no step is interrupted midway."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
