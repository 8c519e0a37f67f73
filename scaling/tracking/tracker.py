"""A mirror of a run's records in wandb, which can neither stop the run nor delay it."""

import contextlib
import json
import logging
import netrc
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlparse

from scaling import accounting
from scaling.config import RunConfig
from scaling.result import Result

Mode = Literal["online", "offline", "disabled"]

BACKLOG = 20_000
"""records that may wait for wandb before it counts as hung"""
FINISH_SECONDS = {"online": 60.0, "offline": 30.0}
"""how long the end of a run waits for wandb: an upload, or the last lines of a file"""
INTERRUPTED_SECONDS = 5.0
"""the same for a run that was told to stop and whose time is short"""

log = logging.getLogger(__name__)


class Tracker:
    """Takes one run's records for wandb. Every call returns at once, except `finish`, whose wait is bounded.

    wandb runs in a process of its own (`process`), fed by a thread. Whatever goes wrong there, hanging
    included, is one logged warning.
    """

    def __init__(self, mode: Mode, first: Mapping[str, Any]):
        """`first` is what the wandb process is told to open."""
        self._mode, self._first = mode, first
        self._queue: queue.Queue[dict[str, Any]] = queue.Queue(BACKLOG)
        self._may_warn = threading.Lock()
        self._done = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        if mode == "disabled":
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
        seconds = FINISH_SECONDS[self._mode] if result is not None else INTERRUPTED_SECONDS
        if not self._done.wait(seconds):
            self._give_up(f"no answer for {seconds:g} s at the end of the run")

    def warn(self, what: str) -> None:
        """Say once what is wrong; later calls are silent."""
        if self._may_warn.acquire(blocking=False):
            log.warning("wandb: %s; the run's own records are in %s", what, self._first["folder"])

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
        command = [sys.executable, "-m", "scaling.tracking.process"]
        try:
            with subprocess.Popen(
                command,
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
        """What went wrong, empty where nothing did."""
        assert process.stdin is not None and process.stdout is not None
        record: Mapping[str, Any] = self._first
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


def start(config: RunConfig, run_id: str, folder: str | Path) -> Tracker:
    """Mirror a run in wandb under `run_id`, in the group of its sweep; a run started again continues its record.

    Args:
        config: the run; `records.wandb` is the mode, `records.wandb_project` the project, `records.sweep` the group.
        run_id: id and name in wandb.
        folder: the run's own folder, which takes wandb's files.

    Returns at once and never raises: where wandb is missing or fails, the run goes on with one warning.
    """
    asked = config.records.wandb
    mode: Mode = automatic_mode() if asked == "auto" else asked
    keyless = mode == "online" and not has_key()
    if keyless:
        mode = "offline"
    first = {
        "project": config.records.wandb_project,
        "group": config.records.sweep,
        "id": run_id,
        "mode": mode,
        "folder": str(folder),
        "config": config.model_dump(mode="json") | {"params_total": accounting.params(config.model).total},
        "finish_seconds": FINISH_SECONDS.get(mode, 0.0),
    }
    tracker = Tracker(mode, first)
    if keyless:
        tracker.warn("no key for online (run `wandb login` or set WANDB_API_KEY), so it records offline")
    return tracker


def automatic_mode() -> Mode:
    """What `auto` means: WANDB_MODE where it is set, else online with a key and offline without."""
    asked = os.environ.get("WANDB_MODE", "")
    if asked in get_args(Mode):
        return cast(Mode, asked)
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Whether there is a key for wandb's server, in the environment or in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser()).authenticators(host) is not None
    except (OSError, ValueError, netrc.NetrcParseError):
        return False
