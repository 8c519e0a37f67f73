"""`scaling status --watch`: a sweep's state as it changes."""

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from scaling.sweeps.run_store import States
from scaling.sweeps.status import format_status, status, tell_counts
from scaling.units import duration, si

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_S = 2.0
LEFT = ("planned", "running", "interrupted")
"""states of runs that are still to be trained"""
BAD_SHOWN = 8  # of the runs that ended badly; all are in `scaling status`


def watch(path: str | Path, stream: TextIO | None = None, every: float = REFRESH_S) -> dict[str, Any]:
    """Show the state of the sweep in the folder `path` until nothing is left to run, or Ctrl-C; returns the last.

    stream: standard output where None. In a terminal it is a picture that changes every so many seconds: running
    runs with their progress, those that ended badly, and the counts. Elsewhere the whole table is printed once for
    each change. Raises UserError as `status`.
    """
    stream = stream or sys.stdout
    states = States()
    found = status(path, states)
    with contextlib.suppress(KeyboardInterrupt):
        if stream.isatty():
            found = _picture(path, states, found, stream, every)
        else:
            found = _tables(path, states, found, stream, every)
    return found


def _picture(path: str | Path, states: States, found: dict[str, Any], stream: TextIO, every: float) -> dict[str, Any]:
    from rich.console import Console
    from rich.live import Live

    with Live(picture(found), console=Console(file=stream), auto_refresh=False) as live:
        while not ended(found):
            time.sleep(every)
            found = status(path, states)
            live.update(picture(found), refresh=True)
    return found


def _tables(path: str | Path, states: States, found: dict[str, Any], stream: TextIO, every: float) -> dict[str, Any]:
    shown = None
    while True:
        now = [found["launched"]], [(r["run_id"], r["state"], r["validity"], r["attempts"]) for r in found["runs"]]
        if now != shown:
            print(format_status(found), file=stream, flush=True)
            shown = now
        if ended(found):
            return found
        time.sleep(every)
        found = status(path, states)


def ended(found: Mapping[str, Any]) -> bool:
    """Nothing is left to run, by `status`'s mapping; a launch that lives may add runs that test a forecast."""
    return not found["launched"] and not any(found["counts"].get(state) for state in LEFT)


def picture(found: Mapping[str, Any]) -> "RenderableType":
    """`status`'s mapping for a terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    running = Table(box=None, pad_edge=False, show_header=False)
    for row in found["runs"]:
        if row["progress"] is not None:
            share, told = row["progress"]["share"] or 0.0, tell_progress(row["progress"])
            running.add_row(Text(row["run_id"]), ProgressBar(1.0, share, width=24), f"{share:4.0%}", *told)
    bad = [row for row in found["runs"] if row["validity"] not in (None, "valid")]
    lines = [Text(f"{row['run_id']} {row['validity']}: {row['validity_reason']}") for row in bad[-BAD_SHOWN:]]
    if len(bad) > BAD_SHOWN:
        lines.insert(0, Text(f"{len(bad) - BAD_SHOWN} more that are not valid, and:"))
    left = seconds_left(found)
    about = f"; about {duration(left)} left" if left else ""
    return Group(running, *lines, Text(f"{tell_counts(found)}{about}"))


def tell_progress(progress: Mapping[str, float | None]) -> tuple[str, str, str]:
    """Training loss, speed and time left of a running run; empty where not measured yet."""
    loss, speed, left = (progress[key] for key in ("loss", "tokens_per_s", "left_s"))
    return (
        "" if loss is None else f"loss {loss:.4f}",
        "" if speed is None else f"{si(speed)} tokens/s",
        "" if left is None else f"{duration(left)} left",
    )


def seconds_left(found: Mapping[str, Any]) -> float | None:
    """Until all planned runs are trained, if as many FLOPs a second go on as now; None where that is not known."""
    todo = rate = 0.0
    for row in found["runs"]:
        if row["state"] not in LEFT or row["flops_spent"] is None:
            continue
        progress = row["progress"] or {}
        todo += row["flops_spent"] * (1 - (progress.get("share") or 0.0))
        if progress.get("tokens_per_s") and row["tokens"]:
            rate += progress["tokens_per_s"] * row["flops"] / row["tokens"]
    return todo / rate if rate else None
