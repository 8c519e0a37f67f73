"""A sweep whose files change at the very moments at which they are read: `python beside_training.py HOME`, for tests.

HOME holds a sweep of which all is done. Whoever reads below sets off, at every so many-th file that it opens, the
next step of what a launch does to the folders of two runs that were not there: they begin, log, break, are tried
again and end with the record that they had, one change of the disk at a time. Prints JSON: what each reading found.
"""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from scaling.locks import lock
from scaling.result import KEPT, SEALS, read_result, write_result, write_text_atomically
from scaling.sweeps.run_store.attempt import log_again, log_end, log_start

PACES = (1, 2, 5)
"""files that are opened between two steps"""
STEPS = 60
"""of `training`, about"""


def training(home: Path, left: dict[str, dict[str, bytes]]) -> Generator[None, None, None]:
    """Trains the runs of which so much is to be left, by run and file: it has done something whenever it yields."""
    for run_id, files in left.items():
        for breaks in (True, False):
            (home / run_id).mkdir(exist_ok=True)
            yield
            with lock(home / run_id / "lock"):
                yield from _attempt(home / run_id, files, breaks)


def _attempt(folder: Path, left: dict[str, bytes], breaks: bool) -> Generator[None, None, None]:
    log_start(folder)
    yield
    (folder / "result.json").unlink(missing_ok=True)
    yield
    write_text_atomically(folder / "config.yaml", left["config.yaml"].decode())
    yield
    lines = left["metrics.jsonl"]
    write_text_atomically(folder / "metrics.jsonl", "")
    for end in range(0, len(lines), len(lines) // 5):
        yield
        with (folder / "metrics.jsonl").open("ab") as file:
            file.write(lines[end : end + len(lines) // 5])
    yield
    if breaks:
        seals, result = ended_badly(folder, left)
    else:
        seals, result = left[SEALS], left["result.json"]
    write_text_atomically(folder / SEALS, seals.decode())
    yield
    write_text_atomically(folder / "result.json", result.decode())
    yield
    log_end(folder, int(breaks), "OSError: no space" * breaks)
    yield
    if breaks:
        log_again(folder)
        yield


def ended_badly(folder: Path, left: dict[str, bytes]) -> tuple[bytes, bytes]:
    """The seals and the record of an attempt that failed with all of its metrics on file."""
    aside = folder.parent.parent / "aside" / folder.name
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in ("result.json", *KEPT):
        (aside / name).write_bytes(left[name])
    whole = read_result(aside)
    assert whole is not None
    write_result(aside, replace(whole, status="failed", loss=None, loss_sem=None, reason="OSError: no space"))
    return (aside / SEALS).read_bytes(), (aside / "result.json").read_bytes()


def read_table(home: Path) -> Any:
    from scaling.sweeps import load_runs

    table = load_runs(home)
    return {
        "losses": {run_id: loss for run_id, loss in zip(table["run_id"], table["loss"], strict=True) if loss == loss},
        "validity": dict(zip(table["run_id"], table["validity"], strict=True)),
    }


def read_status(home: Path) -> Any:
    from scaling.sweeps import status

    rows = status(home)["runs"]
    return {
        "losses": {row["run_id"]: row["loss"] for row in rows if row["loss"] is not None},
        "validity": {row["run_id"]: row["validity"] for row in rows},
        "reasons": [row["reason"] for row in rows],
    }


def read_report(home: Path) -> Any:
    from scaling.report.read import read_sweep

    data = read_sweep(home, live=True)
    assert data.live is not None
    return {
        "losses": {run.run_id: run.loss for run in data.runs if run.loss is not None},
        "validity": {run.run_id: run.validity for run in data.runs},
        "points": {curve.run.run_id: len(curve.loss) for curve in data.curves},
        "counts": data.live.counts,
        "running": [row[0] for row in data.live.running],
        "missing": list(data.missing),
    }


def command(*argv: str) -> Callable[[Path], Any]:
    def call(home: Path) -> Any:
        from scaling.cli import main

        said = StringIO()
        with redirect_stdout(said):
            code = main([argv[0], str(home), *argv[1:]])
        return {"code": code}

    return call


READERS: dict[str, tuple[Callable[[Path], Any], int]] = {
    "table": (read_table, 12),
    "status": (read_status, 12),
    "report": (read_report, 2),
    "fit command": (command("fit", "--bootstrap", "20"), 1),
    "report command": (command("report"), 1),
    "status command": (command("status"), 1),
}
"""and from how many states it reads, at each pace"""


def main() -> None:
    home = Path(sys.argv[1]).resolve()
    for name in ("cli", "cli_laws", "sweeps", "report", "report.read", "report.html", "laws"):
        importlib.import_module(f"scaling.{name}")
    left = {
        path.parent.name: {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
        for path in sorted(home.glob("*/result.json"))[:2]
    }
    opened, pace, busy, steps = 0, 0, False, training(home, left)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened, busy
        if busy or not pace or event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        if Path(os.fsdecode(arguments[0])).is_relative_to(home):
            opened += 1
            if opened % pace == 0:
                busy = True
                next(steps, None)
                busy = False

    sys.addaudithook(note)
    found = []
    for name, (read, states) in READERS.items():
        for each in PACES if states > 1 else PACES[:1]:
            for state in range(states):
                for run_id in left:
                    shutil.rmtree(home / run_id, ignore_errors=True)
                steps = training(home, left)
                for _ in range(state * STEPS // states):
                    next(steps)
                pace = each
                value = read(home)
                pace = 0
                steps.close()
                found.append({"reader": name, "pace": each, "state": state} | value)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
