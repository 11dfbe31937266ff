"""SIGTERM and SIGINT during a training: it stops after the current step, with its state saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingStopped(RuntimeError):
    """SIGTERM came: the state was saved, and the same call resumes there."""


class Stop:
    """Remembers the signal that asked training to stop."""

    signal: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        self.signal = number

    def leave(self, where: str) -> None:
        name = signal.Signals(self.signal).name
        message = f"stopped by {name} {where}; the state is saved, and the same command resumes there"
        raise KeyboardInterrupt(message) if self.signal == signal.SIGINT else TrainingStopped(message)


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """SIGTERM and SIGINT are noted, not obeyed at once, so that a step is never cut in two."""
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
