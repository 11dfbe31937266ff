"""How the processes of a run end: on request, once, and never later than the process that started them."""

import ctypes
import os
import signal
import sys
import time

SUPERVISED = "SENET_SUPERVISED"  # set for the processes below a launcher; a person's own kernel is left alone


class StopRequest:
    """A request to stop may come as several signals at once: a process group's and make's, say."""

    SECONDS = 2.0  # within which a signal that comes again is the same request

    def __init__(self) -> None:
        self.last = -float("inf")

    def is_new(self) -> bool:
        """Whether the signal that just came is a request of its own; to be asked once a signal."""
        now = time.monotonic()
        if now - self.last < self.SECONDS:
            return False
        self.last = now
        return True


def die_with_parent() -> None:
    """Have the kernel of the operating system kill this process when its parent dies, however the parent dies.

    Only below a launcher, and only on Linux: elsewhere an orphaned notebook kernel ends by its own polling.
    """
    if not os.environ.get(SUPERVISED) or not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1  # linux/prctl.h
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call above took hold
        os._exit(1)
