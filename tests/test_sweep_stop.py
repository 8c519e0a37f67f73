"""SIGTERM to a sweep while it trains nothing: data are prepared, or the report is drawn."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_sweep import PRETEND, sweep
from waiting import LIMIT_S, wait_until

from scaling.config import to_yaml

LAUNCH = """
import os, sys, time
from pathlib import Path
import scaling.data, scaling.report
from scaling.cli import main
from scaling.sweeps import launch, sweep
from scaling.sweeps.executors import Devices, LocalExecutor
_, config, folder, pretend, where = sys.argv
launch.worker_command = lambda folders: (sys.executable, "-c", pretend, *map(str, folders))
devices = Devices("cpu", tuple(os.sched_getaffinity(0))[:1] * 4, "cpu")
sweep.EXECUTORS = {"local": lambda config: LocalExecutor(devices)}
def stay(*_):
    Path(folder, "here").touch()
    [time.sleep(.1) for _ in range(6000)]
scaling.data.prepare = stay if where == "data" else lambda *_: None
scaling.data.check_run = lambda *_: None
scaling.report.write = stay
sys.exit(main(["sweep", config, "--folder", folder, "--json"]))
"""


@pytest.mark.parametrize("where", ["data", "report"])
def test_a_sweep_that_is_told_to_stop_where_it_trains_nothing_says_that_it_goes_on(
    tmp_path: Path, where: str
) -> None:
    (tmp_path / "sweep.yaml").write_text(to_yaml(sweep()))
    command = [sys.executable, "-c", LAUNCH, str(tmp_path / "sweep.yaml"), str(tmp_path), PRETEND, where]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ)
    wait_until((tmp_path / "here").exists, process)
    process.send_signal(signal.SIGTERM)
    out, told = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (75, "")
    assert told.splitlines()[-1] == "scaling: stopped; the same command continues"
