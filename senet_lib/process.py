"""Process termination: handle each stop request once, and end with the parent process."""

import ctypes
import os
import signal
import sys
import time

SUPERVISED = "SENET_SUPERVISED"  # set in processes started by a launcher, not in a user's own kernel


class StopRequest:
    """Merges signals that belong to one stop request, such as one from the process group and one from make."""

    SECONDS = 2.0  # a signal within this time of the previous request belongs to it

    def __init__(self) -> None:
        self.last = -float("inf")

    def is_new(self) -> bool:
        """Whether the signal just received starts a new request. Call once per signal."""
        now = time.monotonic()
        if now - self.last < self.SECONDS:
            return False
        self.last = now
        return True


def die_with_parent() -> None:
    """Have the operating system kill this process when its parent dies for any reason.

    Takes effect only below a launcher and on Linux. Elsewhere an orphaned notebook kernel exits by its own polling.
    """
    if not os.environ.get(SUPERVISED) or not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call above took effect
        os._exit(1)
