"""Updates from a sweep's records while it is trained: `runs.parquet` and the live page."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from scaling.errors import one_line
from scaling.sweeps.executors.environment import worker_environment
from scaling.sweeps.reporter import Reporter
from scaling.sweeps.run_store import write_table

EVERY_S = 30.0  # minimum time between two drawings
SHARE = 3  # and at least this many times the last one's duration: at most a quarter of a core, at the lowest priority
STALE_S = 300.0  # redraw after this long without the end of a run: the page shows how far the running ones are
LIMIT_S = 600.0  # time limit of one drawing
STOP_S = 5.0  # time for one to end when told to stop


class _Undrawn(Exception):
    """The drawing process has failed; the message is its last line of output."""


class Upkeep:
    """Keeps the table and the page of the sweep in the folder `home` up to date with its runs, within a `with` block.

    A thread starts a low-priority process at the beginning and when runs have ended, one at a time. A failure there
    is reported once and has no other effect. At the end of the block, even after an exception, the table is written
    and the page stops refreshing itself.

    say: takes one line. reporter: draws the page; None: only the table, at the end.
    """

    def __init__(self, home: Path, say: Callable[[str], None], reporter: Reporter | None) -> None:
        self._home, self._say, self._reporter = home, say, reporter
        self._changed, self._over = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._said = False

    def touch(self) -> None:
        """A run has ended. Returns at once."""
        self._changed.set()

    def __enter__(self) -> "Upkeep":
        if self._reporter is not None:
            self._thread = threading.Thread(target=self._run, args=(self._reporter,), name="upkeep", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._stop(self._thread)
        self._guarded(lambda: write_table(self._home))
        if self._reporter is not None:
            self._guarded(partial(self._reporter.settle, self._home))

    def _run(self, reporter: Reporter) -> None:
        while not self._over.is_set():
            self._changed.clear()
            began = time.monotonic()
            self._guarded(lambda: self._draw(reporter.live_command(self._home)))
            if not self._over.wait(max(EVERY_S, SHARE * (time.monotonic() - began))):
                self._changed.wait(STALE_S)

    def _draw(self, command: Sequence[str]) -> None:
        """Run one drawing to its end. Raises where it fails."""
        with self._lock:
            if self._over.is_set():
                return
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **worker_environment("cpu", [0])},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # an interrupt from the keyboard is the launch's to handle
            )
        try:
            _, output = self._process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, output = self._process.communicate()
            output += f"\nit took more than {LIMIT_S:g} s"
        if self._process.returncode and not self._over.is_set():
            raise _Undrawn((output.strip().splitlines() or [f"exit code {self._process.returncode}"])[-1])

    def _stop(self, thread: threading.Thread) -> None:
        with self._lock:
            self._over.set()
            self._changed.set()
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            thread.join(STOP_S)
            process.kill()
        thread.join()

    def _guarded(self, work: Callable[[], object]) -> None:
        """Do work whose failure must not end the sweep; the first failure is reported."""
        try:
            work()
        except Exception as error:
            if not self._said:
                self._said = True
                message = str(error) if isinstance(error, _Undrawn) else one_line(error)
                self._say(f"the table and the page were not written: {message}; the runs' records are complete")
