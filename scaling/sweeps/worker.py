"""The process that trains one run of a sweep: `python -m scaling.sweeps.worker SWEEP/RUN_ID`.

It holds the run's lock while it lives, so a run is never trained twice at once, and notes its start. How it ended
is noted by whoever started it, who also sees a death by signal.
"""

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from scaling.errors import UserError, explain
from scaling.sweeps.run_store import BUSY, Busy, lock, log_start

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
WAIT_S = 90.0  # for a worker of a launch that was killed: it is saving its state


def main(folder: Path) -> int:
    """Train the run in `folder`. Exit code: as `scaling train`, BUSY where another process trains it."""
    _end_with_parent()
    try:
        with lock(folder / "lock", wait_s=WAIT_S):
            return _train(folder)
    except Busy as holder:
        print(f"another process trains this run: {holder}", file=sys.stderr)
        return BUSY


def _train(folder: Path) -> int:
    log_start(folder)
    try:
        from scaling.config import RunConfig, load

        config = load(RunConfig, folder / "config.yaml")
        from scaling.training import train

        result = train(config, folder=folder, quiet=True)
    except UserError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        traceback.print_exc()
        told = explain(error) if isinstance(error, OSError) else None
        if told is None:
            return 1
        print(f"scaling: {told[0]}", file=sys.stderr)
        return told[1]
    return 0 if result.status == "completed" else 1


def _end_with_parent() -> None:
    """When the launching process dies, however it dies, this one is told to save and stop (Linux)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
