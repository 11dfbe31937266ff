"""No orphans: a process of a run must not outlive the one that supervises it."""

import ctypes
import os
import signal
import sys

ONE_REQUEST = 2.0  # seconds in which a signal that comes again is the same one: a process group's and make's, say
SUPERVISED = "SENET_SUPERVISED"  # set for the processes below a launcher; a person's own kernel is left alone


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
