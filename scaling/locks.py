"""Locks between processes of one machine or one shared file system; a killed process releases them."""

import fcntl
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from scaling.result import naming


class Busy(Exception):
    """Another process holds a lock; the message says which."""


@contextmanager
def lock(path: Path, wait_s: float = 0.5) -> Iterator[None]:
    """Hold `path` as a lock for the duration of the block.

    The file is not deleted: that would let a third process in besides one that waits.

    wait_s: seconds to wait for another process that holds it, infinity to wait for as long as it takes, with a
    message. `is_held` in another process, which shares the lock for a moment, is waited for in any case: on a busy
    machine the moment may be long.
    Raises Busy after that time, with the holder's name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:  # unbuffered: closing writes nothing to a full disk
        deadline = time.monotonic() + wait_s
        while not _taken(file):
            if math.isinf(wait_s):
                print(f"waiting for another process that holds {path}", file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
                break
            if time.monotonic() > deadline and not _only_looked_at(file):
                file.seek(0)
                raise Busy(file.read().decode(errors="replace").strip() or "another process")
            time.sleep(0.05)
        file.truncate(0)
        with naming(path):
            file.write(f"process {os.getpid()} on {platform.node()}, since {now()}\n".encode())
        yield


def _taken(file: IO[bytes], how: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _only_looked_at(file: IO[bytes]) -> bool:
    """Whether nobody holds the lock, although it could not be taken before."""
    if not _taken(file, fcntl.LOCK_SH):
        return False
    fcntl.flock(file, fcntl.LOCK_UN)  # at once: another process that wants to hold it may ask the same
    return True


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock `path`."""
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
