"""The attempts at a run, as `attempts.jsonl` in its folder keeps them."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.files import read_lines
from scaling.locks import now
from scaling.result import naming

EVENTS: dict[str, dict[str, Any]] = {
    "start": {"time": str, "pid": int, "host": str},
    "end": {"time": str, "exit_code": int | None, "reason": str},
    "again": {},
}
"""the fields of each kind of line"""
GONE = "the process disappeared (killed, the machine stopped, or the disk was full)"


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run. `end` and `exit_code` are None while it runs, and where its end was not seen."""

    start: str
    pid: int
    host: str
    end: str | None = None
    exit_code: int | None = None
    reason: str = ""
    again: bool = False
    """a launch is about to begin another one"""


def log_start(folder: Path) -> None:
    """Record that this process begins an attempt at the run in `folder`."""
    close_lost(folder)
    _append(folder, {"event": "start", "time": now(), "pid": os.getpid(), "host": platform.node()})


def log_end(folder: Path, exit_code: int | None, reason: str = "") -> None:
    """Record that the last attempt at the run in `folder` has ended. exit_code: negative for a signal, None if
    unknown."""
    _append(folder, {"event": "end", "time": now(), "exit_code": exit_code, "reason": reason})


def log_again(folder: Path) -> None:
    """Record that the run in `folder`, whose last attempt has ended, waits for another one."""
    _append(folder, {"event": "again", "time": now()})


def close_lost(folder: Path) -> None:
    """Close an attempt that a process left open; call only when no process is training the run."""
    before = attempts(folder)
    if before and before[-1].end is None:
        log_end(folder, None, GONE)


def _append(folder: Path, event: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "attempts.jsonl"
    broken = path.exists() and not path.read_bytes().endswith(b"\n")  # the machine stopped while writing a line
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write("\n" * broken + json.dumps(event) + "\n")


def attempts(folder: Path) -> tuple[Attempt, ...]:
    """All attempts at the run in `folder`, first to last. An attempt that could not even start has pid 0."""
    found: list[Attempt] = []
    for event in filter(_whole, read_lines(folder / "attempts.jsonl")):
        if event["event"] == "start":
            found.append(Attempt(event["time"], event["pid"], event["host"]))
            continue
        if event["event"] == "again":
            if found:
                found[-1] = replace(found[-1], again=True)
            continue
        if not found or found[-1].end is not None:
            found.append(Attempt(event["time"], 0, platform.node()))
        begun = found.pop()
        found.append(Attempt(begun.start, begun.pid, begun.host, event["time"], event["exit_code"], event["reason"]))
    return tuple(found)


def _whole(event: Mapping[str, Any]) -> bool:
    """Whether a line was written completely by `_append`."""
    kinds = EVENTS.get(str(event.get("event")))
    return kinds is not None and all(key in event and isinstance(event[key], kind) for key, kind in kinds.items())
