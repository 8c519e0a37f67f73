"""The real worker with accidents: `python faulty_worker.py SWEEP/RUN_ID`, for tests of executors.

`SWEEP/accidents.json` says, by run id, what befalls the first attempt after update number STEP: "error" is an
exception in training, "killed" a SIGKILL. While the file `SWEEP/hold` names a node (by the variable TEST_NODE of its
processes), every other run there notes itself in `SWEEP/waiting` after that update, and waits for the end of its
parent; `SWEEP/told` is there once a run was told to stop. `RUN_ID/updates` lists every update that was made, repeated
ones included.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.sweeps import worker
from scaling.sweeps.run_store import attempts

STEP = 25

train_well = worker._train


def train(folders: Sequence[Path]) -> tuple[int, str]:
    from scaling.training import interrupt, metrics  # not before the worker has said where compiled programs are kept

    (folder,) = folders  # on a CPU no runs are packed

    write = metrics.MetricsFile.write

    def write_and_fail(self: metrics.MetricsFile, record: Mapping[str, Any]) -> None:
        write(self, record)
        if "loss" in record:
            with (folder / "updates").open("a") as file:
                file.write(f"{record['step']}\n")
            if record["step"] == STEP:
                befall(folder)

    note = interrupt.Signals._note

    def note_and_tell(self: interrupt.Signals, number: int, frame: Any) -> None:
        note(self, number, frame)
        (folder.parent / "told").touch()

    metrics.MetricsFile.write = write_and_fail  # type: ignore[method-assign]
    interrupt.Signals._note = note_and_tell  # type: ignore[method-assign]
    return train_well(folders)


def befall(folder: Path) -> None:
    accidents = json.loads((folder.parent / "accidents.json").read_text())
    accident = accidents.get(folder.name)
    if accident:
        if len(attempts(folder)) > 1:
            return
        if accident == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError("an accident")
    hold, node = folder.parent / "hold", os.environ.get("TEST_NODE", "")
    parent = os.getppid()
    while hold.exists() and hold.read_text() == node and os.getppid() == parent:
        with (folder.parent / "waiting").open("a") as file:
            file.write(f"{folder.name}\n")
        time.sleep(0.2)


if __name__ == "__main__":
    worker._train = train
    sys.exit(worker.main([Path(name) for name in sys.argv[1:]]))
