"""TIME_LIMIT=...: when the runs of a study must stop, so that their checkpoints and the report are written in time."""

import time
from dataclasses import dataclass

STOP = 15.0  # seconds to finish a step and write the checkpoint
REPORT = 3.0  # the report takes up to this many times as long as the start of a run
LARGEST_SHARE = 1 / 2  # of a short limit that is reserved for both
USEFUL = 20.0  # seconds of training that make it worth starting a run that cannot finish


@dataclass(frozen=True)
class TimeLimit:
    """A limit of `seconds` from `started`, a reading of time.monotonic(). start: the seconds until a run trains."""

    seconds: float
    started: float

    @property
    def end(self) -> float:
        return self.started + self.seconds

    def stop_at(self, start: float) -> float:
        """When the runs are told to stop, so that checkpoints and report are written in time."""
        return self.end - min(STOP + REPORT * start, LARGEST_SHARE * self.seconds)

    def leaves_time_for(self, start: float, whole: float | None) -> bool:
        """Whether to start a run now: if it can finish, or train for a while and leave a checkpoint.

        whole: the run's expected seconds; None if unknown.
        """
        needed = start + USEFUL
        return time.monotonic() + min(needed, whole or needed) <= self.stop_at(start)
