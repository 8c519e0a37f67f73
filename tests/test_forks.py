"""Workers of the local executor that are copies of one process, with small modules in the place of training."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from scaling.parent import PARENT
from scaling.sweeps.executors import Devices, LocalExecutor, Task
from scaling.sweeps.executors.forks import can_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux only")
CORE = max(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that processes start in, so that its modules can be imported."""
    before, folder = os.getcwd(), tmp_path_factory.mktemp("forks")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def executor(home: Path) -> Iterator[LocalExecutor]:
    executor = LocalExecutor(Devices("cpu", (CORE,), "cpu"))
    executor.open(home)
    yield executor
    executor.close()


def begin(executor: LocalExecutor, home: Path, name: str, script: str, *arguments: str) -> Path:
    """Start a module of this text; returns its log."""
    (home / f"{name}.py").write_text(script)
    executor.submit([Task(name, (home / name,), (sys.executable, "-m", name, *arguments))])
    return home / name / "log.txt"


def ended(executor: LocalExecutor) -> int | None:
    while not (told := executor.wait(1.0)):
        pass
    return told[0].exit_code


def run(executor: LocalExecutor, home: Path, name: str, script: str, *arguments: str) -> tuple[int | None, str]:
    """Exit code and log of a module of this text."""
    log = begin(executor, home, name, script, *arguments)
    return ended(executor), log.read_text()


def test_a_copy_has_imported_what_training_needs_and_holds_no_device(executor: LocalExecutor, home: Path) -> None:
    script = (
        "import sys, threading; print('scaling.training' in sys.modules, 'jax' in sys.modules, "
        "sys.modules['jax']._src.xla_bridge.backends_are_initialized(), threading.active_count(), "
        "len(__import__('os').listdir('/proc/self/task')))"
    )
    assert run(executor, home, "imported", script) == (0, "True True False 1 1\n")


def test_a_copy_is_a_process_of_its_own(executor: LocalExecutor, home: Path) -> None:
    """Its module, arguments, cores, variables, session and streams; nothing of an earlier one is left in it."""
    script = f"""
import os, sys
import scaling
assert __name__ == "__main__" and not hasattr(scaling, "changed") and "CHANGED" not in os.environ
scaling.changed, os.environ["CHANGED"] = True, "1"
print(sys.argv[1:], sorted(os.sched_getaffinity(0)), os.environ["XLA_FLAGS"].split()[0], sys.stdin.read() == "")
print(os.getsid(0) == os.getpid(), os.environ["{PARENT}"] == str(os.getppid()))
"""
    for name in ("first", "second"):
        code, log = run(executor, home, name, script, "a b", name)
        told = f"['a b', '{name}'] [{CORE}] --xla_force_host_platform_device_count=1 True\nTrue True\n"
        assert (code, log) == (0, told)


@pytest.mark.parametrize(
    ("name", "script", "code", "told"),
    [
        ("fine", "print('hello')", 0, "hello\n"),
        ("exits", "raise SystemExit(3)", 3, ""),
        ("breaks", "1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("killed", "import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("crashes", "import os; os.abort()", -signal.SIGABRT, ""),
        (
            "no_memory",
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (1, 1)); bytearray(1 << 33)",
            1,
            "Error",
        ),
        ("absent.module", "", 1, "No module named"),
        ("after", "import atexit; atexit.register(print, 'left'); print('memory', end=' ')", 0, "memory left\n"),
    ],
)
def test_how_each_ended_is_told_and_the_next_begins(
    executor: LocalExecutor, home: Path, name: str, script: str, code: int, told: str
) -> None:
    ended, log = run(executor, home, name, script)
    assert ended == code and told in log


def test_a_copy_is_told_to_stop_and_killed_where_it_does_not(
    executor: LocalExecutor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = (
        "import signal, sys, time; signal.signal(15, {}); print('on', flush=True); "
        "[time.sleep(.1) for _ in range(6000)]"
    )
    for handler, code in (
        ("lambda *_: sys.exit(75)", 75),
        ("signal.SIG_IGN", -signal.SIGTERM),
    ):
        monkeypatch.setattr("scaling.sweeps.executors.process.GRACE_S", 60.0 if code == 75 else 0.2)
        log = begin(executor, home, f"stops{abs(code)}", waits.format(handler))
        wait_until(lambda log=log: log.exists() and log.read_text() != "")  # type: ignore[misc]
        executor.cancel()
        assert ended(executor) == code


def test_where_the_original_is_killed_its_copies_are_told_and_another_takes_its_place(
    executor: LocalExecutor, home: Path
) -> None:
    saves = """
import os, signal, sys, time
from scaling.parent import end_with_parent
signal.signal(15, lambda *_: print("saved", flush=True) or sys.exit(75))
end_with_parent()
print(os.getppid(), flush=True)
[time.sleep(.1) for _ in range(6000)]  # a signal just before a sleep does not end it
"""
    log = begin(executor, home, "orphan", saves)
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
    os.kill(int(log.read_text()), signal.SIGKILL)
    assert ended(executor) == -signal.SIGKILL
    wait_until(lambda: log.read_text().endswith("saved\n"))
    assert run(executor, home, "next", "print('on')") == (0, "on\n")


def test_only_modules_of_this_interpreter_are_begun_as_copies() -> None:
    assert can_fork((sys.executable, "-m", "scaling.sweeps.worker", "runs/a/b"))
    assert not can_fork((sys.executable, "-c", "pass")) and not can_fork(("/usr/bin/python", "-m", "this"))
