"""A command that is ended at its changes to the disk: `python killed.py FOLDER MOST ARGV…`, for tests.

Of `FOLDER/begin` it makes a copy `FOLDER/whole`, in which the command runs to its end, and copies `FOLDER/1`,
`FOLDER/2` …, in which it is ended just before so many-th of its changes, and then runs again. Of more than MOST
changes that many are tried, evenly spread and the last among them. ARGV is of `scaling`, or `freeze` and the names of
a sweep's file and folder, for the step of `scaling sweep` that makes the forecast. It is called in the copy. Signals
take turns: SIGKILL, SIGTERM, SIGINT. What a copy's calls say goes to `FOLDER/COPY.told`. Prints JSON: by copy, the
exit codes of the two calls, negative for a signal; of `whole` its code and its changes.
"""

import importlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def command(argv: list[str]) -> int:
    from scaling import cli

    if argv[0] == "freeze":
        from scaling.config import SweepConfig, load
        from scaling.sweeps.forecast import frozen_forecast

        _, sweep, home = argv

        def freeze(args: Any) -> int:
            frozen_forecast(load(SweepConfig, sweep), Path(home), str(Path(home).parent))
            return 0

        cli._sweep = freeze
        argv = ["sweep", sweep]
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
