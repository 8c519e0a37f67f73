"""A run's records on their way to wandb, which can neither stop the run nor delay it."""

import contextlib
import json
import logging
import queue
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from scaling.result import Result
from scaling.tracking.opening import COMMAND, Opening

BACKLOG = 20_000
"""records that may wait for wandb before it counts as hung"""
INTERRUPTED_SECONDS = 5.0
"""how long the end of a run that was told to stop, and whose time is short, waits for wandb"""

log = logging.getLogger(__name__)


class Tracker:
    """Sends one run's records to wandb. Every call returns at once, except `finish`, whose wait is bounded.

    wandb runs in a separate process (`process`), fed by a thread. Any failure there, hanging included, is one logged
    warning.
    """

    def __init__(self, opening: Opening):
        self._opening = opening
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue(BACKLOG)
        self._may_warn = threading.Lock()
        self._done = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        if opening.mode == "disabled":
            self._done.set()
        else:
            threading.Thread(target=self._feed, name="wandb", daemon=True).start()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record `metrics` of one optimizer step; they include `tokens` and `flops`, the axes of the charts."""
        self._put({"step": step, "metrics": dict(metrics)})

    def finish(self, result: Result | None) -> None:
        """Close the record with the run's result, None for a run that was interrupted and will be resumed."""
        if self._done.is_set():
            return
        self._put({"end": None if result is None else asdict(result)})
        seconds = INTERRUPTED_SECONDS if result is None else self._opening.finish_seconds
        if not self._done.wait(seconds):
            self._give_up(f"no answer for {seconds:g} s at the end of the run")

    def warn(self, what: str) -> None:
        """Say once what is wrong; later calls are silent."""
        if self._may_warn.acquire(blocking=False):
            log.warning("wandb: %s; the run's own records are in %s", what, self._opening.folder)

    def _put(self, record: dict[str, Any]) -> None:
        if self._done.is_set():
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._give_up(f"no answer to the last {BACKLOG} records")

    def _give_up(self, what: str) -> None:
        self._done.set()
        self.warn(what)
        if self._process is not None:
            self._process.kill()

    def _feed(self) -> None:
        """Start the wandb process and hand it the queue's records until the last."""
        try:
            with subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # an interrupt from the keyboard is the run's to handle
            ) as process:
                self._process = process
                problem = self._talk(process)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem and not self._done.is_set():
            self.warn(problem)
        self._done.set()

    def _talk(self, process: "subprocess.Popen[str]") -> str:
        """Pass records to the process; returns its error, empty where there is none."""
        assert process.stdin is not None and process.stdout is not None
        record: Mapping[str, Any] = asdict(self._opening)
        try:
            while True:
                process.stdin.write(json.dumps(record, default=float) + "\n")
                process.stdin.flush()
                if "end" in record:
                    break
                record = self._queue.get()
            process.stdin.close()
        except BrokenPipeError:  # it has ended, and says why
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        answer = process.stdout.read()
        code = process.wait()
        return answer or (f"its process ended with code {code}" if code else "")
