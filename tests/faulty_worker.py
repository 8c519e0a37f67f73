"""The real worker with accidents: `python faulty_worker.py SWEEP/RUN_ID…`, for tests of executors.

`SWEEP/accidents.json` says, by run id, what befalls the first attempt after update number STEP: "error" is an
exception in training, "killed" a SIGKILL. While the file `SWEEP/hold` names a node (by the variable TEST_NODE of its
processes), every run there notes itself in `SWEEP/waiting` after that update, and waits. `RUN_ID/updates` lists every
update that was made, repeated ones included.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.sweeps.run_store import attempts
from scaling.sweeps.worker import main
from scaling.training import metrics

STEP = 25

write = metrics.MetricsFile.write


def write_and_fail(self: metrics.MetricsFile, record: Mapping[str, Any]) -> None:
    write(self, dict(record))
    if "loss" not in record:
        return
    folder = Path(self.path).parent
    with (folder / "updates").open("a") as file:
        file.write(f"{record['step']}\n")
    if record["step"] == STEP:
        befall(folder)


def befall(folder: Path) -> None:
    accidents = json.loads((folder.parent / "accidents.json").read_text())
    if len(attempts(folder)) == 1 and (accident := accidents.get(folder.name)):
        if accident == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("an accident")
    hold, node = folder.parent / "hold", os.environ.get("TEST_NODE", "")
    while hold.exists() and hold.read_text() == node:
        with (folder.parent / "waiting").open("a") as file:
            file.write(f"{folder.name}\n")
        time.sleep(0.2)


if __name__ == "__main__":
    metrics.MetricsFile.write = write_and_fail  # type: ignore[method-assign]
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
