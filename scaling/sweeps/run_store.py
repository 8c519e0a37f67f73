"""The folder of a sweep: what each run is, what became of it, and the table of all results.

    SWEEP/sweep.yaml        the sweep as it was launched, everything resolved
    SWEEP/plan.json         run id → label, role (`fit` or `test`), parameters, FLOPs
    SWEEP/lock              held while a process launches this sweep
    SWEEP/RUN_ID/           config.yaml, metrics.jsonl, result.json, log.txt, checkpoints/
                 lock       held while a process trains this run
                 attempts.jsonl   start and end of each attempt, with the reason where it did not complete

A run's state follows from these files alone, so any process may be killed and any other may go on.
"""

import fcntl
import json
import os
import platform
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scaling.errors import INTERRUPTED, UserError
from scaling.result import Result, naming, read_result, write_text_atomically

if TYPE_CHECKING:
    import pandas as pd

    from scaling.sweeps.designs import PlannedRun

State = Literal["planned", "running", "interrupted", "completed", "diverged", "failed", "unreadable"]
Role = Literal["fit", "test"]

DONE = ("completed", "diverged")  # states of runs that have what they were trained for
BUSY = 69  # exit code of a worker whose run another process trains (EX_UNAVAILABLE of sysexits.h)
STOPPED = (INTERRUPTED, -signal.SIGTERM, -signal.SIGINT, None)  # exit codes of a run that was told to stop, or lost
GONE = "the process disappeared (killed, or the machine stopped)"


@dataclass(frozen=True)
class Entry:
    """What plan.json keeps of a run, beside the run's own config.yaml."""

    role: Role
    label: Mapping[str, Any]
    params: int
    flops: float
    tokens: int


@dataclass(frozen=True)
class Attempt:
    """One try at a run. `end` and `exit_code` are None while it runs, and where nobody saw it end."""

    start: str
    pid: int
    host: str
    end: str | None = None
    exit_code: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class RunState:
    """A run as its files tell it now."""

    run_id: str
    state: State
    reason: str = ""
    """why the run is not completed, or what its record says beside that"""
    attempts: tuple[Attempt, ...] = ()
    result: Result | None = None


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


def log_start(folder: Path) -> None:
    """This process begins an attempt at the run in `folder`."""
    close_lost(folder)
    _append(folder, {"event": "start", "time": now(), "pid": os.getpid(), "host": platform.node()})


def log_end(folder: Path, exit_code: int | None, reason: str = "") -> None:
    """The last attempt at the run in `folder` is over. exit_code: negative for a signal, None where unknown."""
    _append(folder, {"event": "end", "time": now(), "exit_code": exit_code, "reason": reason})


def close_lost(folder: Path) -> None:
    """An attempt that a process left open is over: for who knows that none trains the run."""
    before = attempts(folder)
    if before and before[-1].end is None:
        log_end(folder, None, GONE)


def _append(folder: Path, event: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "attempts.jsonl"
    broken = path.exists() and not path.read_bytes().endswith(b"\n")  # the machine stopped while a line was written
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write("\n" * broken + json.dumps(event) + "\n")


def attempts(folder: Path) -> tuple[Attempt, ...]:
    """All attempts at the run in `folder`, first to last. An attempt that could not even start has pid 0."""
    try:
        lines = (folder / "attempts.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    found: list[Attempt] = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the line that was being written when the machine stopped
        if event["event"] == "start":
            found.append(Attempt(event["time"], event["pid"], event["host"]))
            continue
        if not found or found[-1].end is not None:
            found.append(Attempt(event["time"], 0, platform.node()))
        begun = found.pop()
        found.append(Attempt(begun.start, begun.pid, begun.host, event["time"], event["exit_code"], event["reason"]))
    return tuple(found)


def run_state(folder: Path) -> RunState:
    """The state of the run in `folder`, which need not exist yet."""
    tries = attempts(folder)
    if is_held(folder / "lock"):
        return RunState(folder.name, "running", attempts=tries)
    try:
        result = read_result(folder)
    except UserError as error:
        return RunState(folder.name, "unreadable", str(error), tries)
    if result is not None:
        return RunState(folder.name, result.status, result.reason, tries, result)
    if tries:
        last = tries[-1]
        if last.end is None:
            return RunState(folder.name, "interrupted", GONE, tries)
        if last.exit_code == 0:
            return RunState(folder.name, "interrupted", "its record is missing", tries)
        state: State = "interrupted" if last.exit_code in STOPPED else "failed"
        return RunState(folder.name, state, last.reason, tries)
    if (folder / "metrics.jsonl").exists():  # trained by `scaling train`, which keeps no list of attempts
        return RunState(folder.name, "interrupted", "no result was written", tries)
    return RunState(folder.name, "planned")


def write_plan(sweep_folder: Path, entries: Mapping[str, Entry]) -> None:
    """`plan.json`."""
    plan = {run_id: asdict(entry) for run_id, entry in entries.items()}
    write_text_atomically(sweep_folder / "plan.json", json.dumps(plan, indent=1) + "\n")


def record_runs(sweep_folder: Path, runs: "Sequence[PlannedRun]", role: Role) -> None:
    """Enter `runs` into `plan.json` as those of `role`; others of that role leave it (their folders stay)."""
    entries = {run_id: entry for run_id, entry in read_plan(sweep_folder).items() if entry.role != role}
    entries |= {run.id: Entry(role, dict(run.label), run.params, run.flops, run.tokens) for run in runs}
    write_plan(sweep_folder, entries)


def read_plan(sweep_folder: Path) -> dict[str, Entry]:
    """`plan.json`, empty where there is none. Raises UserError for a file that is no plan."""
    path = sweep_folder / "plan.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {run_id: Entry(**entry) for run_id, entry in values.items()}
    except FileNotFoundError:
        return {}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a plan ({error}); delete it and launch the sweep again") from None


def run_folders(path: Path) -> list[Path]:
    """Folders of runs under `path`: a sweep's folder, a folder of sweeps, or one run's."""
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; expected a sweep's folder, such as runs/NAME")
    marks = ("result.json", "config.yaml", "attempts.jsonl")
    candidates = [path, *sorted(path.glob("*/")), *sorted(path.glob("*/*/"))]
    return [folder for folder in candidates if any((folder / mark).is_file() for mark in marks)]


def load_runs(path: str | Path, role: Role | None = None) -> "pd.DataFrame":
    """Every record under `path` (a sweep's folder or a folder of sweeps) as a table, one row a run.

    Columns are those of `Result`; `flops_by_convention` becomes `flops_exact`, `flops_kaplan_6n`, …; each of
    `facts` and `versions` a column of its own (`versions_jax`); `role` tells the runs that a law is fitted to
    (`fit`) from those that test it (`test`), and what the design wanted is in `budget` and `target_params`.

    role: only these runs. Raises UserError, naming every file, where a record cannot be read.
    """
    import pandas as pd

    rows, broken, plans = [], [], {}
    for folder in run_folders(Path(path)):
        try:
            result = read_result(folder)
        except UserError as error:
            broken.append(str(error))
            continue
        if folder.parent not in plans:
            plans[folder.parent] = read_plan(folder.parent)
        entry = plans[folder.parent].get(folder.name)
        own: Role = entry.role if entry else "fit"
        if result is not None and role in (None, own):
            rows.append(table_row(result, own, entry.label if entry else {}))
    if broken:
        raise UserError("; ".join(broken))
    return pd.DataFrame(rows, columns=None if rows else [*(f.name for f in fields(Result)), "role"])


def table_row(result: Result, role: Role, label: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a row of `load_runs`; label: the design's wish, empty where no plan says it."""
    row = asdict(result)
    nested: Sequence[tuple[str, str]] = (("flops_by_convention", "flops_"), ("facts", ""), ("versions", "versions_"))
    flat = {prefix + key: value for name, prefix in nested for key, value in row.pop(name).items()}
    wish = {key: label[key] for key in ("budget", "target_params") if key in label}
    return {**flat, **row, "role": role, **wish}
