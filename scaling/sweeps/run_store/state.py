"""What became of a run, from the files in its folder."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scaling.errors import INTERRUPTED, UserError
from scaling.files import path_of
from scaling.locks import is_held
from scaling.result import ALTERED, Result, read_result
from scaling.sweeps.run_store.attempt import GONE, Attempt, attempts

State = Literal["planned", "running", "interrupted", "completed", "diverged", "failed", "unreadable"]

DONE = ("completed", "diverged")  # states of runs that have what they were trained for
BUSY = 69  # exit code of a worker whose run another process trains (EX_UNAVAILABLE of sysexits.h)
STOPPED = (INTERRUPTED, -signal.SIGTERM, -signal.SIGINT, None)  # exit codes of a run that was told to stop, or lost


@dataclass(frozen=True)
class RunState:
    """A run as its files tell it now."""

    run_id: str
    state: State
    reason: str = ""
    """why the run is not completed, or what its record says beside that"""
    attempts: tuple[Attempt, ...] = ()
    result: Result | None = None


def stopped(folder: Path) -> str:
    """The recorded reason of the run in `folder`, which was told to stop and could record that itself."""
    kept = any(path.name.isdecimal() for path in (folder / "checkpoints").glob("*"))
    return "told to stop; its state is saved" if kept else "told to stop; it has no checkpoint yet and starts over"


def run_state(folder: str | Path) -> RunState:
    """The state of the run in `folder`, which need not exist yet."""
    folder = path_of(folder)
    tries = attempts(folder)
    if is_held(folder / "lock"):
        return RunState(folder.name, "running", attempts=tries)
    try:
        result = read_result(folder)
    except UserError as error:
        return RunState(folder.name, "unreadable", str(error), tries)
    if result is not None:
        reasons = [result.reason] * bool(result.reason) + ["its record was changed later"] * (ALTERED in result.facts)
        return RunState(folder.name, result.status, "; ".join(reasons), tries, result)
    if tries:
        last = tries[-1]
        if last.end is None:
            return RunState(folder.name, "interrupted", GONE, tries)
        if last.exit_code == 0:
            return RunState(folder.name, "interrupted", "its record is missing", tries)
        if last.again and is_held(folder.parent / "lock"):  # by that launch, or a later one
            return RunState(folder.name, "interrupted", f"{last.reason}; will be tried again", tries)
        state: State = "interrupted" if last.exit_code in STOPPED else "failed"
        return RunState(folder.name, state, last.reason, tries)
    if (folder / "metrics.jsonl").exists():  # trained by `scaling train`, which keeps no list of attempts
        return RunState(folder.name, "interrupted", "no result was written", tries)
    return RunState(folder.name, "planned")


class States:
    """`run_state` for repeated calls: a run that is done is read once, until its record changes."""

    def __init__(self) -> None:
        self._done: dict[Path, tuple[tuple[int, ...], RunState]] = {}

    def __call__(self, folder: Path) -> RunState:
        """The state of the run in `folder`."""
        mark = signature(folder / "result.json")
        known = self._done.get(folder)
        if known is not None and known[0] == mark:
            return known[1]
        state = run_state(folder)
        if state.state in DONE and mark is not None:
            self._done[folder] = (mark, state)
        return state


def signature(path: Path) -> tuple[int, ...] | None:
    """A signature that changes when a file is replaced; None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
