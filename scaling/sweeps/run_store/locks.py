"""Locks that a killed process lets go of."""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from scaling.result import naming


class Busy(Exception):
    """Another process holds a lock; the message says which."""


@contextmanager
def lock(path: Path, wait_s: float = 0.5) -> Iterator[None]:
    """Hold `path` as a lock; a killed process lets go of it. Raises Busy after `wait_s` seconds of waiting.

    The short default outlasts `is_held` in another process, which takes the lock for a moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise Busy(file.read().strip() or "another process") from None
                time.sleep(0.05)
        file.truncate(0)
        with naming(path):
            file.write(f"process {os.getpid()} on {platform.node()}, since {now()}\n")
            file.flush()
        yield


def is_held(path: Path) -> bool:
    """Does a living process hold the lock `path`?"""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def now() -> str:
    """The time, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
