"""Waiting for what another thread or process does: for an event, and never for a time that should be long enough."""

import random
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

LIMIT_S = 240.0
"""ends a test that hangs; on a crowded machine whatever does come takes a tenth of it"""
BELOW_EPHEMERAL = range(20_000, 32_000)
"""ports that no system hands out by itself: Linux begins at 32768, others later"""


def wait_until(happened: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    """Until `happened` says so. process: where it has ended, nothing more can happen."""
    end = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < end, f"nothing happened in {LIMIT_S:g} s"
        if process is not None and process.poll() is not None and not happened():
            raise AssertionError(f"the process ended with {process.returncode}: {process.communicate()}")
        time.sleep(0.01)


def wait_for_words(path: Path) -> set[str]:
    """The words of a file that another process writes, once there are some: a file is there before its text is."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return set(path.read_text().split())


def free_ports(count: int) -> list[int]:
    """Ports that stay free until whoever is told of them takes them, though other programs ask for some meanwhile."""
    draw, found = random.SystemRandom(), []
    with ExitStack() as stack:
        while len(found) < count:
            port = draw.choice(BELOW_EPHEMERAL)
            try:
                stack.enter_context(socket.socket()).bind(("", port))
            except OSError:
                continue
            found.append(port)
    return found
