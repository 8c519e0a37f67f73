"""A worker's process, which every executor stops in the same way."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from scaling.parent import as_child

POLL_S = 0.05
GRACE_S = 60.0  # from SIGTERM to SIGKILL: time to save a checkpoint


def start(command: Sequence[str], log: Path, environment: Mapping[str, str], **options: Any) -> "Process":
    """Start a command, with its output appended to `log`.

    environment: in addition to this process's own. options: further options of `subprocess.Popen`. Raises OSError.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        handle = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=as_child(**environment), **options
        )
    return Process(handle)


class Handle(Protocol):
    """Stops a process and reports its end, as a `subprocess.Popen` does."""

    def poll(self) -> int | None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Process:
    """A running worker."""

    def __init__(self, handle: Handle) -> None:
        """handle: of the process just started."""
        self._began = time.monotonic()
        self._deadline: float | None = None  # set once it is told to stop
        self._process = handle

    def stop(self, grace_s: float | None = None) -> None:
        """Send SIGTERM, once; a `poll` kills the process after `grace_s` (GRACE_S where None)."""
        deadline = time.monotonic() + (GRACE_S if grace_s is None else grace_s)
        if self._deadline is None:
            self._process.terminate()
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)

    def poll(self) -> tuple[int, float] | None:
        """Exit code and seconds once it has ended. A process that did not stop when told, and was killed here, counts
        as ended by SIGTERM."""
        code, late = self._process.poll(), self._deadline is not None and time.monotonic() > self._deadline
        if code is not None:
            return -signal.SIGTERM if late and code == -signal.SIGKILL else code, time.monotonic() - self._began
        if late:
            self._process.kill()
        return None

    def wait(self, stop_requested: Callable[[], object], grace_s: float | None = None) -> tuple[int, float]:
        """Wait for its end, as `poll` reports it; it is stopped as soon as `stop_requested` returns true."""
        while (ended := self.poll()) is None:
            if stop_requested():
                self.stop(grace_s)
            time.sleep(POLL_S)
        return ended
