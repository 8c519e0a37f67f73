"""A process that does not outlive the one that started it."""

import ctypes
import os
import signal
import sys

PARENT = "SCALING_PARENT"  # tells the process its parent, which may be gone before it can ask
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def as_child(**environment: str) -> dict[str, str]:
    """The environment of a process that this one starts and that calls `end_with_parent`."""
    return {**os.environ, **environment, PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """When the process that started this one dies, for any reason, this one is told to save and stop (Linux)."""
    if sys.platform == "linux":
        parent = int(os.environ.get(PARENT, os.getppid()))
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)
