"""The local executor, with small scripts in the place of training."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from scaling.errors import UserError
from scaling.sweeps.executors import Devices, LocalExecutor, Task, find_devices

CORES = tuple(sorted(os.sched_getaffinity(0)))


def task(folder: Path, name: str, script: str, cost: float = 1.0, devices: int = 1) -> Task:
    return Task(name, folder / name, (sys.executable, "-S", "-c", script), cost=cost, devices=devices)


def one_slot() -> LocalExecutor:
    return LocalExecutor(Devices("cpu", CORES[:1], "cpu"))


def test_exit_codes_and_deaths_are_told_and_output_goes_to_the_log(tmp_path: Path) -> None:
    tasks = [
        task(tmp_path, "fine", "print('hello')"),
        task(tmp_path, "crash", "raise SystemExit(3)"),
        task(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
    ]
    ended = {f.task.run_id: f.exit_code for f in LocalExecutor().run(tasks, threading.Event())}
    assert ended == {"fine": 0, "crash": 3, "killed": -signal.SIGKILL}
    assert (tmp_path / "fine" / "log.txt").read_text() == "hello\n"


def test_dearest_starts_first_and_a_slot_is_never_shared(tmp_path: Path) -> None:
    script = f"import time; open({str(tmp_path / 'order')!r}, 'a').write('{{}} in\\n'); time.sleep(.1); " \
             f"open({str(tmp_path / 'order')!r}, 'a').write('{{}} out\\n')"  # fmt: skip
    costs = {"small": 1.0, "large": 9.0, "middle": 3.0}
    tasks = [task(tmp_path, name, script.format(name, name), cost) for name, cost in costs.items()]
    assert len(list(one_slot().run(tasks, threading.Event()))) == 3
    expected = [f"{name} {what}" for name in ("large", "middle", "small") for what in ("in", "out")]
    assert (tmp_path / "order").read_text().splitlines() == expected


def test_each_process_has_one_core_and_one_thread_and_the_parent_keeps_its_own(tmp_path: Path) -> None:
    script = (
        "import os; print(sorted(os.sched_getaffinity(0)), os.environ['XLA_FLAGS'], os.environ['OMP_NUM_THREADS'])"
    )
    core = CORES[-1]
    executor = LocalExecutor(Devices("cpu", (core,), "cpu"))
    list(executor.run([task(tmp_path, "a", script)], threading.Event()))
    text = (tmp_path / "a" / "log.txt").read_text()
    assert (
        text.startswith(f"[{core}] ") and "xla_cpu_multi_thread_eigen=false" in text and text.rstrip().endswith(" 1")
    )
    assert tuple(sorted(os.sched_getaffinity(0))) == CORES


def test_a_gpu_run_sees_only_its_devices(tmp_path: Path) -> None:
    script = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    executor = LocalExecutor(Devices("gpu", ("0", "1", "2"), "NVIDIA H100"))
    tasks = [task(tmp_path, "one", script), task(tmp_path, "two", script, cost=2.0, devices=2)]
    assert all(f.exit_code == 0 for f in executor.run(tasks, threading.Event()))
    seen = [(tmp_path / name / "log.txt").read_text().strip().split(",") for name in ("one", "two")]
    assert sorted(seen[0] + seen[1]) == ["0", "1", "2"] and len(seen[1]) == 2


def test_more_devices_than_there_are_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs 9 devices"):
        list(one_slot().run([task(tmp_path, "big", "pass", devices=9)], threading.Event()))
    assert not (tmp_path / "big").exists()


def test_stop_ends_running_tasks_by_sigterm_and_starts_no_other(tmp_path: Path) -> None:
    saves = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); "
        "print('ready', flush=True); time.sleep(60)"
    )
    stop = threading.Event()

    def when_ready() -> None:
        while "ready" not in (tmp_path / "first" / "log.txt").read_text():
            time.sleep(0.02)
        stop.set()

    tasks = [task(tmp_path, "first", saves, cost=2.0), task(tmp_path, "second", saves)]
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "log.txt").touch()
    waiter = threading.Thread(target=when_ready)
    waiter.start()
    ended = [(f.task.run_id, f.exit_code) for f in one_slot().run(tasks, stop)]
    waiter.join()
    assert ended == [("first", 75)]
    assert not (tmp_path / "second").exists()


def test_a_caller_that_goes_away_leaves_no_process_behind(tmp_path: Path) -> None:
    script = "import os, time; print(os.getpid(), flush=True); time.sleep({})"
    executor = LocalExecutor(Devices("cpu", CORES[:1] * 2, "cpu"))
    events = executor.run([task(tmp_path, "long", script.format(60)), task(tmp_path, "short", script.format(0.3))],
                          threading.Event())  # fmt: skip
    next(events)
    while not (text := (tmp_path / "long" / "log.txt").read_text()):
        time.sleep(0.02)
    pid = int(text)
    events.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_cpu_slots_are_the_cores_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    devices = find_devices()
    assert devices.platform == "cpu" and set(devices.ids) <= set(CORES)
