"""How the processes of a run end: on request, once, and never later than the one above them; and their memory."""

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


def keep_freed_memory() -> None:
    """Have glibc keep what this process frees for its next allocation.

    It hands every tensor above 32 MiB back to the operating system, which then clears a new one page by page: a tenth
    to a third of a training step on a CPU. The process's peak grows by up to a seventh. Nothing where the C library has
    no mallopt.
    """
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    trim_threshold, mmap_max = -1, -4  # malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)  # never
