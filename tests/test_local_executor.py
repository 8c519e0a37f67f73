"""The local executor, with small scripts in the place of training."""

import glob
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from waiting import wait_until

from scaling.errors import UserError
from scaling.parent import PARENT
from scaling.sweeps.executors import Devices, Finished, LocalExecutor, Task, find_devices, local

CORES = tuple(sorted(os.sched_getaffinity(0)))


def task(folder: Path, name: str, script: str, cost: float = 1.0, devices: int = 1) -> Task:
    return Task(name, (folder / name,), (sys.executable, "-S", "-c", script), cost=cost, devices=devices)


def one_slot() -> LocalExecutor:
    return LocalExecutor(Devices("cpu", CORES[:1], "cpu"))


def run(executor: LocalExecutor, tasks: Sequence[Task]) -> list[Finished]:
    """All of `tasks` to their end."""
    executor.open(Path())
    executor.submit(tasks)
    return list(told(executor, len(tasks)))


def told(executor: LocalExecutor, count: int) -> Iterator[Finished]:
    """The next `count` tasks that end."""
    while count:
        for finished in executor.wait(1.0):
            count -= 1
            yield finished


def test_exit_codes_and_deaths_are_told_and_output_goes_to_the_log(tmp_path: Path) -> None:
    tasks = [
        task(tmp_path, "fine", "print('hello')"),
        task(tmp_path, "crash", "raise SystemExit(3)"),
        task(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
    ]
    ended = {f.task.name: f.exit_code for f in run(LocalExecutor(), tasks)}
    assert ended == {"fine": 0, "crash": 3, "killed": -signal.SIGKILL}
    assert (tmp_path / "fine" / "log.txt").read_text() == "hello\n"


def test_dearest_starts_first_and_a_slot_is_never_shared(tmp_path: Path) -> None:
    script = f"import time; open({str(tmp_path / 'order')!r}, 'a').write('{{}} in\\n'); time.sleep(.1); " \
             f"open({str(tmp_path / 'order')!r}, 'a').write('{{}} out\\n')"  # fmt: skip
    costs = {"small": 1.0, "large": 9.0, "middle": 3.0}
    tasks = [task(tmp_path, name, script.format(name, name), cost) for name, cost in costs.items()]
    assert len(run(one_slot(), tasks)) == 3
    expected = [f"{name} {what}" for name in ("large", "middle", "small") for what in ("in", "out")]
    assert (tmp_path / "order").read_text().splitlines() == expected


def test_each_process_has_one_core_and_one_thread_and_the_parent_keeps_its_own(tmp_path: Path) -> None:
    script = (
        "import os; print(sorted(os.sched_getaffinity(0)), os.environ['XLA_FLAGS'], os.environ['OMP_NUM_THREADS'])"
    )
    core = CORES[-1]
    executor = LocalExecutor(Devices("cpu", (core,), "cpu"))
    run(executor, [task(tmp_path, "a", script)])
    text = (tmp_path / "a" / "log.txt").read_text()
    assert (
        text.startswith(f"[{core}] ") and "xla_cpu_multi_thread_eigen=false" in text and text.rstrip().endswith(" 1")
    )
    assert tuple(sorted(os.sched_getaffinity(0))) == CORES


@pytest.mark.parametrize("theirs", ["", "--xla_force_host_platform_device_count=5 intra_op_parallelism_threads=1"])
def test_a_run_on_cores_finds_as_many_devices_as_it_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str
) -> None:
    monkeypatch.setenv("XLA_FLAGS", theirs)
    command = (sys.executable, "-c", "import jax; print(jax.device_count())")
    executor = LocalExecutor(Devices("cpu", (CORES[0],) * 2, "cpu"))
    run(executor, [Task("two", (tmp_path / "two",), command, devices=2)])
    assert (tmp_path / "two" / "log.txt").read_text() == "2\n"


def test_a_process_learns_who_started_it(tmp_path: Path) -> None:
    run(one_slot(), [task(tmp_path, "a", f"import os; print(os.environ['{PARENT}'])")])
    assert (tmp_path / "a" / "log.txt").read_text() == f"{os.getpid()}\n"


def test_a_gpu_run_sees_only_its_devices(tmp_path: Path) -> None:
    script = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    executor = LocalExecutor(Devices("gpu", ("0", "1", "2"), "NVIDIA H100"))
    tasks = [task(tmp_path, "one", script), task(tmp_path, "two", script, cost=2.0, devices=2)]
    assert all(f.exit_code == 0 for f in run(executor, tasks))
    seen = [(tmp_path / name / "log.txt").read_text().strip().split(",") for name in ("one", "two")]
    assert sorted(seen[0] + seen[1]) == ["0", "1", "2"] and len(seen[1]) == 2


def test_more_devices_than_there_are_is_refused_before_anything_starts(tmp_path: Path) -> None:
    tasks = [task(tmp_path, "small", "pass"), task(tmp_path, "big", "pass", devices=9)]
    with pytest.raises(UserError, match="run big needs 9 devices"):
        run(one_slot(), tasks)
    assert not list(tmp_path.iterdir())


def wait_until_started(folder: Path) -> None:
    log = folder / "log.txt"
    wait_until(lambda: log.exists() and log.read_text() != "")


def test_cancelling_ends_running_tasks_by_sigterm_and_starts_no_other(tmp_path: Path) -> None:
    saves = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); "
        "print('ready', flush=True); "
        "[time.sleep(.1) for _ in range(6000)]"  # a signal just before a sleep does not end it
    )
    executor = one_slot()
    executor.open(tmp_path)
    executor.submit([task(tmp_path, "second", saves), task(tmp_path, "first", saves, cost=2.0)])
    wait_until_started(tmp_path / "first")
    executor.cancel()
    assert {f.task.name: f.exit_code for f in told(executor, 2)} == {"first": 75, "second": None}
    assert not (tmp_path / "second").exists()
    executor.close()
    assert [f.exit_code for f in run(executor, [task(tmp_path, "third", "pass")])] == [0]  # it may be opened again


def test_what_does_not_stop_when_told_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
    )
    executor = one_slot()
    for grace in (0.2, 600.0):
        monkeypatch.setattr("scaling.sweeps.executors.process.GRACE_S", grace)
        (tmp_path / "deaf" / "log.txt").unlink(missing_ok=True)
        executor.open(tmp_path)
        executor.submit([task(tmp_path, "deaf", deaf)])
        wait_until_started(tmp_path / "deaf")
        executor.cancel()
        if grace < 1:
            assert [f.exit_code for f in told(executor, 1)] == [-signal.SIGTERM]  # it was told, and did not break
        began = time.monotonic()
        executor.close()  # told before: it is not waited for
        assert time.monotonic() - began < 60


def test_closing_leaves_no_process_behind(tmp_path: Path) -> None:
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    executor = one_slot()
    executor.open(tmp_path)
    executor.submit([task(tmp_path, "long", script)])
    wait_until_started(tmp_path / "long")
    pid = int((tmp_path / "long" / "log.txt").read_text())
    executor.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_cpu_slots_are_the_cores_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    devices = find_devices()
    assert devices.platform == "cpu" and set(devices.ids) <= set(CORES)


@pytest.mark.parametrize("files", [[f"/dev/accel{i}" for i in range(4)], [f"/dev/vfio/{i}" for i in range(4)]])
def test_all_chips_of_a_tpu_host_are_one_slot_for_a_mesh_of_as_many_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str]
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setattr(local, "_installed", lambda name: name == "libtpu")
    monkeypatch.setattr(glob, "glob", lambda pattern: files if files[0].startswith(pattern.partition("[")[0]) else [])
    executor = LocalExecutor()
    assert (executor.slots, executor.devices.platform) == (1, "tpu")
    script = f"import time; open({str(tmp_path / 'order')!r}, 'a').write('in '); time.sleep(.1); " \
             f"open({str(tmp_path / 'order')!r}, 'a').write('out ')"  # fmt: skip
    tasks = [task(tmp_path, name, script, devices=count) for name, count in (("mesh", 4), ("one", 1), ("cores", 8))]
    assert [finished.exit_code for finished in run(executor, tasks)] == [0, 0, 0]  # v2 and v3: two devices a chip
    assert (tmp_path / "order").read_text() == "in out " * 3  # a slot is never shared
    with pytest.raises(UserError, match=r"run wide needs 9 devices .* only 8 \(tpu\)"):
        executor.submit([task(tmp_path, "wide", "pass", devices=9)])
