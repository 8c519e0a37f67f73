"""The process that trains runs of a sweep: `python -m scaling.sweeps.worker SWEEP/RUN_ID…`, one after the other.

It holds the lock of each run while it lives, so a run is never trained twice at once, and notes the start and the end
of each attempt. Only an end by a signal that cannot be caught is noted by whoever started it.
"""

import contextlib
import ctypes
import os
import platform
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from scaling.errors import INTERRUPTED, Interrupted, UserError, explain
from scaling.sweeps.run_store import BUSY, Busy, lock, log_end, log_start

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
WAIT_S = 90.0  # for a worker of a launch that was killed: it is saving its state

# seeds of one shape, and a run that goes on, compile once: 1.2 s of start in place of 4.9 s for a tiny model on a CPU
COMPILATION_CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def main(folders: Sequence[Path]) -> int:
    """Train the runs in `folders`, all of one sweep. Exit code: as `scaling train`, of the last that did not complete
    where there are several; BUSY where another process trains one of them."""
    _end_with_parent()
    signal.signal(signal.SIGTERM, _stop)  # until training itself listens: nothing is to be saved before
    cache = folders[0].resolve().parent / ".cache" / "xla" / platform.node()  # compiled for one kind of processor
    os.environ.update(COMPILATION_CACHE | {"JAX_COMPILATION_CACHE_DIR": str(cache)})
    with contextlib.ExitStack() as locks:
        try:
            for folder in folders:
                locks.enter_context(lock(folder / "lock", wait_s=WAIT_S))
        except Busy as holder:
            print(f"another process trains this run: {holder}", file=sys.stderr)
            return BUSY
        code = 0
        for folder in folders:
            code = _attempt(folder) or code
            if code == INTERRUPTED:
                break
        return code


def _attempt(folder: Path) -> int:
    """Train one run, with its start and its end on record."""
    signal.signal(signal.SIGTERM, _stop)
    log_start(folder)
    try:
        code, reason = _train(folder)
    except (Interrupted, KeyboardInterrupt):
        code, reason = INTERRUPTED, "told to stop; its state is saved"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is over, and that is to be noted in one piece
    with contextlib.suppress(OSError):  # a full disk; who started this process sees the exit code, and may find room
        log_end(folder, code, reason)
    return code


def _train(folder: Path) -> tuple[int, str]:
    """Exit code, and why the run did not complete, in one line."""
    try:
        from scaling.config import RunConfig, load

        config = load(RunConfig, folder / "config.yaml")
        from scaling.training import train

        result = train(config, folder=folder, quiet=True)
    except UserError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2, str(error)
    except Exception as error:
        traceback.print_exc()
        told = explain(error) if isinstance(error, OSError) else None
        if told is None:
            return 1, f"{type(error).__name__}: {error}".splitlines()[0][:300]
        print(f"scaling: {told[0]}", file=sys.stderr)
        return told[1], told[0]
    return (0, "") if result.status == "completed" else (1, result.reason)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Interrupted("told to stop")


def _end_with_parent() -> None:
    """When the launching process dies, however it dies, this one is told to save and stop (Linux)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
