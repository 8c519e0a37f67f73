"""Workers forked from a process that has done their imports and has computed nothing yet.

Imports take a worker 1.7 s of a core; a copy (fork) starts at once. It is a process like any other, with its own
memory, cores, log and exit, independent of the others. The process that is forked has one thread and holds no device:
it imports, forks on request, and reports how each copy ended. It runs this module.
"""

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.parent import PARENT, as_child, end_with_parent

POLL_S = 0.05
STDIN, STDOUT, STDERR = 0, 1, 2
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT


def can_fork(command: Sequence[str]) -> bool:
    """Whether a command is a module of this interpreter (`python -m MODULE …`) on a system where copies are safe."""
    return sys.platform == "linux" and tuple(command[:2]) == (sys.executable, "-m")


class Fork:
    """A running copy, with the methods of a `subprocess.Popen` that stop it and report its end."""

    def __init__(self, original: "Original", ticket: int) -> None:
        self._original, self._ticket = original, ticket

    def poll(self) -> int | None:
        """Exit code once it has ended. If the original was killed, its copies were told to save and stop: the outcome
        of each is in its folder, and the code here is that of the original."""
        return self._original.code(self._ticket)

    def terminate(self) -> None:
        self._original.send(signal=signal.SIGTERM, ticket=self._ticket)

    def kill(self) -> None:
        self._original.send(signal=signal.SIGKILL, ticket=self._ticket)


class Original:
    """The process that is forked, seen from the launch."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """environment: the complete environment, also for the copies."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        os.set_blocking(self._reports.fileno(), False)
        self._tickets = 0
        self._codes: dict[int, int] = {}
        self._rest = b""

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, command: Sequence[str], log: Path, cores: Sequence[int]) -> Fork:
        """A copy that runs `python -m MODULE …`, with its output appended to `log`."""
        self._tickets += 1
        self.send(ticket=self._tickets, arguments=list(command[2:]), log=str(log.absolute()), cores=list(cores))
        return Fork(self, self._tickets)

    def send(self, **request: Any) -> None:
        """Send a request; no effect where the process is gone, which `code` reports."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]

    def code(self, ticket: int) -> int | None:
        """Exit code of a copy that has ended; the original's own where it ended without reporting it."""
        gone = self._process.poll()  # before reading its reports, so that none is missed
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._reports.fileno(), 1 << 16):
                *lines, self._rest = (self._rest + data).split(b"\n")
                self._codes |= dict(json.loads(line) for line in lines)
        return self._codes.get(ticket, gone)

    def close(self) -> None:
        """End it; its end stops the remaining copies."""
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        self._reports.close()

    @property
    def _reports(self) -> Any:
        return self._process.stdout


class Forks:
    """Originals, one for each requested environment; one that was killed is replaced."""

    def __init__(self) -> None:
        self._originals: dict[Any, Original] = {}

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str], cores: Sequence[int]) -> Fork:
        """A copy that runs a command that `can_fork`. environment: in addition to this process's own."""
        whole = as_child(**environment)
        key = (os.getcwd(), frozenset(whole.items()))
        original = self._originals.get(key)
        if original is None or not original.alive:
            original = self._originals[key] = Original(whole)
        log.parent.mkdir(parents=True, exist_ok=True)
        return original.fork(command, log, cores)

    def close(self) -> None:
        while self._originals:
            self._originals.popitem()[1].close()


def serve() -> dict[str, Any]:
    """Fork on each request from standard input; in each copy, returns the request. Ends with its input."""
    end_with_parent()
    os.environ[PARENT] = str(os.getpid())
    with contextlib.suppress(Exception):  # a copy hits the same error, and reports it in its log
        import scaling.training  # noqa: F401
    gc.collect()
    gc.freeze()  # imported objects stay: copies need not scan them, which took 0.4 s
    copies: dict[int, int] = {}
    rest = b""
    while True:
        if select.select([STDIN], [], [], POLL_S if copies else None)[0]:
            data = os.read(STDIN, 1 << 16)
            if not data:
                sys.exit()
            *lines, rest = (rest + data).split(b"\n")
            for request in map(json.loads, lines):
                if "signal" in request:
                    _signal(copies, **request)
                    continue
                pid = os.fork()
                if not pid:
                    return dict(request)
                copies[pid] = request["ticket"]
        for pid in list(copies):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                report = (copies.pop(pid), os.waitstatus_to_exitcode(status))
                os.write(STDOUT, json.dumps(report).encode() + b"\n")


def _signal(copies: Mapping[int, int], ticket: int, signal: int) -> None:
    """Send a signal to the copy of a ticket, unless it has ended."""
    for pid, other in copies.items():
        if other == ticket:
            os.kill(pid, signal)


def become(ticket: int, arguments: Sequence[str], log: str, cores: Sequence[int]) -> None:
    """Turn this copy into `python -m` with these arguments: in its own session, on its cores, printing to its log."""
    os.setsid()
    if cores:
        os.sched_setaffinity(0, cores)
    for path, mode, numbers in ((os.devnull, os.O_RDONLY, [STDIN]), (log, APPEND, [STDOUT, STDERR])):
        opened = os.open(path, mode, 0o666)
        for number in numbers:
            os.dup2(opened, number)
        os.close(opened)
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    become(**serve())
