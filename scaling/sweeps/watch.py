"""`scaling status --watch`: a sweep's state as it changes."""

import contextlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from scaling.files import path_of
from scaling.sweeps.plan.outlook import Clock, TimeLeft
from scaling.sweeps.run_store import States, sweep_and_run
from scaling.sweeps.status import format_status, status, tell_counts
from scaling.text import align
from scaling.units import duration, si

if TYPE_CHECKING:
    from rich.console import RenderableType

REFRESH_S = 2.0
LEFT = ("planned", "running", "interrupted")
"""states of runs that are still to be trained"""
SHOWN = 8  # rows of finished runs, and of those that ended badly; `scaling status` shows all


def watch(path: str | Path, stream: TextIO | None = None, every: float = REFRESH_S) -> dict[str, Any]:
    """Show the state of the sweep in the folder `path` until nothing is left to run, or Ctrl-C; returns the last
    state.

    stream: standard output where None. In a terminal the display refreshes every `every` seconds: running runs with
    their progress, finished ones with their losses, those that ended badly, and the counts. Elsewhere the whole table
    is printed once for each change. Raises UserError as `status` does.
    """
    stream = stream or sys.stdout
    looks = _Looks(path_of(path))
    look = looks.next()
    with contextlib.suppress(KeyboardInterrupt):
        look = (_picture if stream.isatty() else _tables)(looks, look, stream, every)
    return look[0]


Look = tuple[dict[str, Any], TimeLeft | None]
"""`status`'s mapping, and the time left"""


class _Looks:
    """Successive looks at a sweep; what does not change is read once."""

    def __init__(self, path: Path) -> None:
        self.path, self.home = path, sweep_and_run(path)[0]
        self.states = States()
        self.clock = Clock(self.home, self.states)

    def next(self) -> Look:
        return status(self.path, self.states), self.clock.left()


def _picture(looks: _Looks, look: Look, stream: TextIO, every: float) -> Look:
    from rich.console import Console
    from rich.live import Live

    with Live(picture(*look), console=Console(file=stream), auto_refresh=False) as live:
        while not ended(look[0]):
            time.sleep(every)
            look = looks.next()
            live.update(picture(*look), refresh=True)
    return look


def _tables(looks: _Looks, look: Look, stream: TextIO, every: float) -> Look:
    shown = None
    while True:
        found, left = look
        now = [found["launched"]], [(r["run_id"], r["state"], r["validity"], r["attempts"]) for r in found["runs"]]
        if now != shown:
            print(f"{format_status(found)}{_tell_left(left)}", file=stream, flush=True)
            shown = now
        if ended(found):
            return look
        time.sleep(every)
        look = looks.next()


def ended(found: Mapping[str, Any]) -> bool:
    """Whether nothing is left to run, by `status`'s mapping; a live launch may add runs that test a forecast."""
    return not found["launched"] and not any(found["counts"].get(state) for state in LEFT)


def picture(found: Mapping[str, Any], left: TimeLeft | None = None) -> "RenderableType":
    """`status`'s mapping for a terminal. left: until all is trained, where that is known."""
    from rich.console import Group
    from rich.text import Text

    finished = [row for row in found["runs"] if row["loss"] is not None]
    bad = [row for row in found["runs"] if row["validity"] not in (None, "valid")]
    lines = _tell_finished([row for row in finished if row not in bad])
    lines += [f"{row['run_id']} {row['validity']}: {row['validity_reason']}" for row in bad[-SHOWN:]]
    if len(bad) > SHOWN:
        lines.append(f"{len(bad) - SHOWN} more are not valid: `scaling status` lists them")
    lines.append(f"{tell_counts(found)}{_tell_left(left)}")
    return Group(running_table(found["runs"]), *map(Text, lines))


def running_table(runs: Iterable[Mapping[str, Any]]) -> "RenderableType":
    """The rows of `status` that are being trained. Only the bar shrinks in a narrow terminal."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for i in range(6):
        table.add_column(no_wrap=i != 1, max_width=12 if i == 1 else None)
    for row in runs:
        if row["progress"] is not None:
            share = row["progress"]["share"] or 0.0
            cells = (f"{share:4.0%}", *tell_progress(row["progress"]))
            table.add_row(Text(row["run_id"]), ProgressBar(1.0, share), *map(Text, cells))
    return table


def _tell_finished(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The most recently finished runs, and the best of all."""
    if not runs:
        return []
    newest = sorted(runs, key=lambda row: row["ended"] or "")[-SHOWN:]
    rows = [[row["run_id"], f"loss {row['loss']:.4f}", duration(row["seconds"])] for row in newest]
    best = min(runs, key=lambda row: row["loss"])
    more = [f"{len(runs) - len(newest)} more are finished; the latest:"] if len(runs) > len(newest) else []
    return [*more, *align(rows, 1), f"best so far: {best['run_id']}, loss {best['loss']:.4f}"]


def _tell_left(left: TimeLeft | None) -> str:
    return f"; {left} left" if left and left.seconds else ""


def tell_progress(progress: Mapping[str, float | None]) -> tuple[str, str, str]:
    """Training loss, speed and time left of a running run; empty where not measured yet."""
    loss, speed, left = (progress[key] for key in ("loss", "tokens_per_s", "left_s"))
    return (
        "" if loss is None else f"loss {loss:.4f}",
        "" if speed is None else f"{si(speed)} tokens/s",
        "" if left is None else f"{duration(left)} left",
    )
