"""How processes start and end: with an encoding for all text; once per stop request; with their parent."""

import ctypes
import os
import signal
import sys
import time

SUPERVISED = "SENET_SUPERVISED"  # environment variable of processes that a launcher started; not set in a user's kernel
RUNS_PER_GPU = "SENET_RUNS_PER_GPU"  # environment variable of runs: how many of them use the same GPU at a time


class StopRequest:
    """Merges the signals of one stop request. Ctrl-C, for example, may arrive from the terminal and again from make."""

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
    """Let the operating system kill this process when its parent process ends, however it ends.

    Only on Linux, and only in processes that a launcher started. An orphaned notebook kernel elsewhere notices by
    polling that its parent is gone, and exits.
    """
    if not os.environ.get(SUPERVISED) or not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before prctl took effect
        os._exit(1)


def leave_ascii() -> None:
    """Restart this process, and later its children, in Python's UTF-8 mode if the locale's encoding is ASCII, which has
    neither the characters of every path nor those of every class name."""
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
