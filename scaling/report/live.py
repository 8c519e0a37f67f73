"""The process that draws a sweep again while it is trained: `python -m scaling.report.live SWEEP_DIR`.

It writes `runs.parquet` and the live page once and ends. It is a separate process because fitting the law takes
seconds and may fail, neither of which may affect the launch.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from scaling.errors import UserError, explain
from scaling.extensions import load_extensions
from scaling.report.make import write
from scaling.sweeps.run_store import write_table


def main(home: Path) -> int:
    """Exit code 0, 2 where the folder has an error that the user must fix, 1 where the disk is full; the error goes
    to standard error."""
    signal.signal(signal.SIGTERM, _stop)
    os.nice(19)  # the runs come first
    try:
        load_extensions()
        write_table(home)
        write(home, live=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        explained = explain(error)
        if explained is None:
            raise
        print(explained[0], file=sys.stderr)
        return explained[1]
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    """End as an exception, so that no half-written file is left."""
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
