"""The process that trains runs of a sweep: `python -m scaling.sweeps.worker SWEEP/RUN_ID…`, several side by side.

It holds the lock of each run while it lives, so a run is never trained twice at once, and records the start and the
end of each attempt. Only an end by a signal that cannot be caught is recorded by the process that started it. A run
that spans several nodes has a worker on each, watched as `scaling train` is, and the first one does all this.
"""

import contextlib
import os
import platform
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from scaling.cores import keep_memory
from scaling.errors import INTERRUPTED, USER_ERROR, Interrupted, UserError, explain
from scaling.extensions import load_extensions
from scaling.locks import Busy, lock
from scaling.parent import end_with_parent
from scaling.processes import LostProcess, first, leave, unwatched, watch
from scaling.result import read_result
from scaling.sweeps.run_store import BUSY, log_end, log_start, stopped

WAIT_S = 90.0  # for the worker of a killed launch to save its state

# seeds of one shape, and a run that resumes, compile once: a tiny model starts in 1.2 s instead of 4.9 s on a CPU
COMPILATION_CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def main(folders: Sequence[Path]) -> int:
    """Train the runs in `folders`, all of one sweep. Exit code: as `scaling train`; with several, that of the first
    that did not complete; BUSY where another process is training one of them."""
    from scaling.sweeps.executors import find_devices

    end_with_parent()
    if unwatched():
        return watch(list(map(str, folders)), "scaling.sweeps.worker")
    load_extensions()
    if find_devices().platform == "cpu":
        keep_memory()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(INTERRUPTED))
    cache = folders[0].resolve().parent / ".cache" / "xla" / platform.node()  # compiled for one kind of processor
    _keep_compiled(cache)
    with contextlib.ExitStack() as locks:
        if not first():
            return _follow(folders)
        try:
            for folder in folders:
                locks.enter_context(lock(folder / "lock", wait_s=WAIT_S))
        except Busy as holder:
            print(f"another process is training this run: {holder}", file=sys.stderr)
            return BUSY
        return _attempt(folders)


def _keep_compiled(cache: Path) -> None:
    """Have JAX cache compiled programs in `cache`, whether it is imported already, as in a fork, or later."""
    settings = {**COMPILATION_CACHE, "jax_compilation_cache_dir": str(cache)}
    os.environ.update({name.upper(): str(value) for name, value in settings.items()})
    if "jax" in sys.modules:
        for name, value in settings.items():
            sys.modules["jax"].config.update(name, value)


def _follow(folders: Sequence[Path]) -> int:
    """Train along with the first worker of the run, which writes the records."""
    try:
        return _train(folders)[0]
    except (Interrupted, KeyboardInterrupt):
        return INTERRUPTED


def _attempt(folders: Sequence[Path]) -> int:
    """Train the runs, with the start and the end of each on record."""
    for folder in folders:
        log_start(folder)
    _point_to_log(folders)
    signal.signal(signal.SIGTERM, partial(_stop, folders))
    try:
        code, reason = _train(folders)
    except (Interrupted, KeyboardInterrupt):
        code, reason = INTERRUPTED, ""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the attempt is over, and its end must be recorded whole
    return _log_ends(folders, code, reason)


def _point_to_log(folders: Sequence[Path]) -> None:
    """In every log but the first, say where to find the output of this process, tracebacks included."""
    first, *others = folders
    with contextlib.suppress(OSError):
        for folder in others:
            with (folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"trained side by side with {first.name}: see ../{first.name}/log.txt\n")


def _train(folders: Sequence[Path]) -> tuple[int, str]:
    """Exit code, and why the runs did not all end with a result, in one line."""
    try:
        from scaling.config import RunConfig, load

        configs = [load(RunConfig, folder / "config.yaml") for folder in folders]
        from scaling.training import train_pack

        train_pack(configs, folders, quiet=True)
    except UserError as error:
        _print(f"scaling: {error}")
        return (USER_ERROR if len(folders) == 1 else 1), str(error)  # the others of a pack may not be at fault
    except LostProcess as error:
        _print(f"scaling: {error}")
        return 1, str(error)
    except Exception as error:
        _print(traceback.format_exc())
        explained = explain(error) if isinstance(error, OSError) else None
        if explained is None:
            return 1, f"{type(error).__name__}: {error}".splitlines()[0][:300]
        _print(f"scaling: {explained[0]}")
        again = len(folders) > 1 or isinstance(error, FileNotFoundError)  # a vanished file is no mistake of the run
        return (1 if again else explained[1]), explained[0]
    return 0, ""


def _print(text: str) -> None:
    """Print to the log; a full disk must not prevent recording the end of the attempt."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _log_ends(folders: Sequence[Path], code: int, reason: str) -> int:
    """Record how each attempt ended; returns the exit code of the first that did not complete."""
    ends = [_end(folder, code, reason) for folder in folders]
    with contextlib.suppress(OSError):  # a full disk; the parent process sees the exit code, and may find room
        for folder, end in zip(folders, ends, strict=True):
            log_end(folder, *end)
    return next((code for code, _ in ends if code), 0)


def _end(folder: Path, code: int, reason: str) -> tuple[int, str]:
    """How the attempt at one run ended: according to its result, or as the process did."""
    with contextlib.suppress(UserError):
        result = read_result(folder)
        if result is not None and result.status != "failed":
            return (0, "") if result.status == "completed" else (1, result.reason)
    return code, stopped(folder) if code == INTERRUPTED else reason


def _stop(folders: Sequence[Path], number: int, frame: FrameType | None) -> NoReturn:
    """Handle a stop signal while training does not: before there is anything to save, or after it was saved.

    Exits instead of raising, since an exception could be lost where exceptions are dropped, such as in a finaliser.
    """
    _log_ends(folders, INTERRUPTED, "")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    leave(lambda: main([Path(name) for name in sys.argv[1:]]))
