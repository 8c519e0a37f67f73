"""Launches that are told to stop or killed, and the ones after them. Workers here only pretend to train."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_sweep import PRETEND, four_slots, pretend, sweep, trained, write_script  # noqa: F401
from waiting import LIMIT_S, wait_until

from scaling.config import SweepConfig, to_yaml
from scaling.errors import UserError
from scaling.locks import is_held, lock
from scaling.sweeps import make_runs, run_state, run_sweep, status
from scaling.sweeps.progress import LaunchProgress
from scaling.sweeps.run_store import attempts

LAUNCH = """
import os, sys
from scaling.cli import main
from scaling.sweeps import launch, sweep
from scaling.sweeps.executors import Devices, LocalExecutor
import scaling.data
launch.worker_command = lambda folders: (sys.executable, "-c", sys.argv[3], *map(str, folders))
scaling.data.prepare = scaling.data.check_run = lambda *_: None
devices = Devices("cpu", tuple(os.sched_getaffinity(0))[:1] * 4, "cpu")
sweep.EXECUTORS = {"local": lambda config: LocalExecutor(devices)}
sys.exit(main(["sweep", sys.argv[1], "--folder", sys.argv[2]]))
"""


def start_launch(config: SweepConfig, folder: Path) -> subprocess.Popen[bytes]:
    """`scaling sweep` in a process of its own, returned once a slow run of it is under way."""
    (folder / "sweep-to-launch.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-c", LAUNCH, str(folder / "sweep-to-launch.yaml"), str(folder), PRETEND]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    wait_until(lambda: (folder / "s" / "slow").exists())
    return process


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_lets_runs_save_and_a_later_launch_continues(tmp_path: Path, number: int, code: int) -> None:
    config, home = sweep(), tmp_path / "s"
    slow = make_runs(config)[0].id
    write_script(home, {slow: ["slow", "ok"]})
    process = start_launch(config, tmp_path)
    wait_until(lambda: (home / "trained").exists() and len(trained(home)) == 5)
    assert run_state(home / slow).state == "running" and status(home)["launched"]
    process.send_signal(number)
    _, told = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code and b"stopping" in told and b"the same command continues" in told
    assert (run_state(home / slow).state, attempts(home / slow)[0].exit_code) == ("interrupted", 75)
    assert run_sweep(config, four_slots(), tmp_path).ok
    assert sorted(trained(home)) == sorted(run.id for run in make_runs(config))  # nothing lost, nothing twice


@pytest.mark.usefixtures("pretend")
def test_a_killed_launch_is_continued_and_its_open_attempt_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, home = sweep(), tmp_path / "s"
    slow = make_runs(config)[0].id
    write_script(home, {slow: ["slow", "ok"]})
    process = start_launch(config, tmp_path)
    wait_until(lambda: (home / "trained").exists() and len(trained(home)) == 5)
    process.kill()
    process.communicate()
    assert not is_held(home / "lock")
    # the real worker ends with its parent, see below; this one lives on for a while, and is waited for
    orphan = attempts(home / slow)[0].pid
    assert run_state(home / slow).state == "running"
    told = LaunchProgress.wait_for

    def end_the_orphan(self: LaunchProgress, run_id: str) -> None:
        told(self, run_id)
        if is_held(home / slow / "lock"):
            os.kill(orphan, signal.SIGKILL)

    monkeypatch.setattr(LaunchProgress, "wait_for", end_the_orphan)
    assert run_sweep(config, four_slots(), tmp_path).ok
    assert f"{slow} is being trained by another process" in capsys.readouterr().err
    assert sorted(trained(home)) == sorted(run.id for run in make_runs(config))
    assert "disappeared" in attempts(home / slow)[0].reason


# The real worker, which says each time that it found its lock held, and one who started it and does no more.
WAITING = """
import sys, time
from pathlib import Path
from scaling.sweeps import worker
sleep = time.sleep
time.sleep = lambda seconds: (print("waits", flush=True), sleep(seconds))
sys.exit(worker.main([Path(sys.argv[1])]))
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_worker_waits_for_its_lock_and_ends_with_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, WAITING, str(tmp_path / "run")]
    with lock(tmp_path / "run" / "lock"):
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert parent.stdout is not None and parent.stdout.readline() == "waits\n"
        parent.kill()
        told = parent.communicate()[0]  # until the worker, too, has ended: it writes to the same pipe
    assert set(told.split()) <= {"waits"}  # it did not wait in vain, which it would say
    assert attempts(tmp_path / "run") == ()


@pytest.mark.usefixtures("pretend")
def test_a_second_launch_at_once_is_refused(tmp_path: Path) -> None:
    config, home = sweep(), tmp_path / "s"
    write_script(home, {make_runs(config)[0].id: ["slow"]})
    process = start_launch(config, tmp_path)
    try:
        with pytest.raises(UserError, match=rf"being launched by another process \(process {process.pid} on"):
            run_sweep(config, four_slots(), tmp_path)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
    assert not is_held(home / "lock")
