"""TIME_LIMIT=...: which runs of a study are still started, and when all must stop, so that their checkpoints and the
report are written in time."""

import time
from dataclasses import dataclass

STOP = 15.0  # seconds to finish a step and write the checkpoint
REPORT = 3.0  # the report takes up to this many times as long as the start of a run
LARGEST_SHARE = 1 / 2  # of a short limit that is reserved for both
USEFUL = 20.0  # seconds of training that make it worth starting a run that cannot finish
SLACK = 1.1  # a run may take so many times as long as expected


@dataclass(frozen=True)
class TimeLimit:
    """A limit of `seconds` from `started`, a reading of time.monotonic(). start: the seconds until a run trains.

    whole_runs: unfinished runs are lost and no report follows, so only runs are started that are expected to finish.
    """

    seconds: float
    started: float
    whole_runs: bool = False

    @property
    def end(self) -> float:
        return self.started + self.seconds

    def stop_at(self, start: float) -> float:
        """When the runs are told to stop, so that checkpoints and report are written in time."""
        report = 0 if self.whole_runs else REPORT * start
        return self.end - min(STOP + report, LARGEST_SHARE * self.seconds)

    def leaves_time_for(self, start: float, rest: float | None) -> bool:
        """Whether to start a run now: if it can finish or, unless only whole runs count, train for a while and leave a
        checkpoint.

        rest: the seconds until it is expected to finish; None if unknown.
        """
        if self.whole_runs:
            return time.monotonic() + SLACK * (rest or 0) <= self.stop_at(start)
        needed = start + USEFUL
        return time.monotonic() + min(needed, rest or needed) <= self.stop_at(start)
