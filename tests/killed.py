"""A command that is ended at its changes to the disk: `python killed.py FOLDER MOST ARGV…`, for tests.

Of `FOLDER/begin` it makes a copy `FOLDER/whole`, in which the command runs to its end, and copies `FOLDER/1`,
`FOLDER/2` …, in which it is ended just before so many-th of its changes, and then runs again. Of more than MOST
changes that many are tried, evenly spread and the last among them. ARGV is of `scaling`, or names one of STEPS and
its arguments. It is called in the copy. Signals take turns: SIGKILL, SIGTERM, SIGINT. What a copy's calls say goes to
`FOLDER/COPY.told`. Prints JSON: by copy, the exit codes of the two calls, negative for a signal; of `whole` its code
and its changes.
"""

import importlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthetic_sweep import made_up

import scaling
from scaling import cli
from scaling.config import RunConfig, SweepConfig, load
from scaling.locks import lock
from scaling.result import write_result
from scaling.sweeps.executors import Finished, Task
from scaling.sweeps.forecast import frozen_forecast
from scaling.sweeps.run_store.attempt import log_end, log_start

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class InProcess:
    """An executor of one slot that trains in this process, at once, what a law says: so a kill may come while a run
    writes."""

    slots, device = 1, "cpu"

    def __init__(self) -> None:
        self.queue: list[Task] = []
        self.cancelled = False

    def open(self, home: Path) -> None: ...

    def submit(self, tasks: Sequence[Task]) -> None:
        self.queue += tasks

    def wait(self, seconds: float) -> list[Finished]:
        if not self.queue:
            return []
        task = self.queue.pop(0)
        return [Finished(task, None, 0.0) if self.cancelled else Finished(task, _trained(task.folders[0]), 1.0)]

    def cancel(self) -> None:
        self.cancelled = True

    def close(self) -> None: ...


def _trained(folder: Path) -> int:
    config = load(RunConfig, folder / "config.yaml")
    with lock(folder / "lock"):
        log_start(folder)
        result, metrics = made_up(config)
        with (folder / "metrics.jsonl").open("w") as file:
            file.writelines(json.dumps(line) + "\n" for line in metrics)
        write_result(folder, result)
        log_end(folder, 0)
    return 0


def frozen(sweep: str, home: str) -> int:
    """The step of `scaling sweep` that makes the forecast."""
    frozen_forecast(load(SweepConfig, sweep), Path(home), str(Path(home).parent))
    return 0


def pretended(sweep: str, folder: str) -> int:
    """`scaling sweep`, without data, a report and devices."""
    sys.modules["scaling.sweeps.sweep"].check_data = lambda *_, **__: None
    return 0 if scaling.sweep(sweep, executor=InProcess(), folder=folder, report=False).ok else 1


STEPS = {"freeze": frozen, "pretend": pretended}


def command(argv: list[str]) -> int:
    if argv[0] in STEPS:
        name, *rest = argv
        cli._sweep = lambda args: STEPS[name](*rest)
        argv = ["sweep", rest[0]]
    try:
        return cli.main(argv)
    except SystemExit as ended:
        return int(str(ended.code))


def forked(folder: Path, argv: list[str], last: int | None) -> tuple[int, int]:
    """(exit code, changes made) of the command in a process of its own. last: the change that it is ended before."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with os.fdopen(told) as file:
            return code, len(file.read())
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(folder.with_suffix(".told"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    made = 0

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal made
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if (writes or event in CHANGES) and _below(folder, arguments[0]):
            made += 1
            if made == last:
                os.kill(os.getpid(), SIGNALS[last % len(SIGNALS)])
            os.write(tell, b".")

    sys.addaudithook(note)
    os._exit(command(argv))


def _below(folder: Path, path: Any) -> bool:
    return isinstance(path, str | bytes | os.PathLike) and (folder / os.fsdecode(path)).is_relative_to(folder)


def main() -> None:
    folder, most, *argv = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    for name in ("cli", "cli_laws", "sweeps", "report", "laws", "data"):
        importlib.import_module(f"scaling.{name}")
    shutil.copytree(folder / "begin", folder / "whole")
    code, changes = forked(folder / "whole", argv, None)
    ends = {"whole": (code, changes)}
    for i in range(min(most, changes)):
        at = changes - i * changes // min(most, changes)
        shutil.copytree(folder / "begin", folder / str(at))
        ends[str(at)] = forked(folder / str(at), argv, at)[0], forked(folder / str(at), argv, None)[0]
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
