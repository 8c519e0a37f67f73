"""The scheduler of a launch, over an executor that only pretends: order, dependencies, retries, stops."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from test_run_store import RESULT
from test_sweep import sweep

from scaling.errors import Interrupted, UserError
from scaling.locks import lock
from scaling.result import write_result
from scaling.sweeps import PlannedRun, launch, make_runs, run_state
from scaling.sweeps.executors import Finished, LocalExecutor, Task
from scaling.sweeps.launch import train_all
from scaling.sweeps.progress import LaunchProgress
from scaling.sweeps.run_store import BUSY, RunState, attempts, log_again, log_end, log_start

Ending = int | None | str


class Pretended:
    """An executor of one slot whose tasks end at once, as `endings` says for each attempt at a run: "ok", "diverged",
    an exit code that its worker notes, ("open", code) for a worker that was killed before it could, or "never" for
    one that did not even begin."""

    slots, device = 1, "cpu"

    def __init__(self, endings: dict[str, Sequence[Any]] | None = None, during: Callable[[Task], None] | None = None):
        self.endings = {run_id: list(each) for run_id, each in (endings or {}).items()}
        self.during = during or (lambda task: None)
        self.queue: list[Task] = []
        self.submitted: list[list[str]] = []
        self.ran: list[str] = []
        self.calls: list[str] = []
        self.waits = 0

    def open(self, home: Path) -> None:
        self.calls.append("open")

    def submit(self, tasks: Sequence[Task]) -> None:
        self.submitted.append([task.name for task in tasks])
        self.queue += tasks

    def wait(self, seconds: float) -> list[Finished]:
        self.waits += 1
        if not self.queue:
            time.sleep(0.01)
            return []
        task = self.queue.pop(0)
        if "cancel" in self.calls:
            return [Finished(task, None, 0.0)]
        self.ran.append(task.name)
        self.during(task)
        left = self.endings.get(task.name, [])
        return [Finished(task, _pretend(task.folders[0], left.pop(0) if left else "ok"), 1.0)]

    def cancel(self) -> None:
        self.calls.append("cancel")

    def close(self) -> None:
        self.calls.append("close")


def _pretend(folder: Path, ending: Any) -> int | None:
    if ending == BUSY:
        return BUSY
    if ending == "never":
        return None
    log_start(folder)
    if isinstance(ending, tuple):
        return ending[1]
    if ending in ("ok", "diverged"):
        write_result(folder, replace(RESULT, run_id=folder.name, status="completed" if ending == "ok" else ending))
    code = {"ok": 0, "diverged": 1}.get(ending, ending)
    log_end(folder, code, "" if code == 0 else "the worker said why")
    return code


@pytest.fixture
def runs() -> tuple[PlannedRun, ...]:
    """Six, the dearest last."""
    return tuple(sorted(make_runs(sweep()), key=lambda run: run.flops))


def launch_all(runs: Sequence[PlannedRun], home: Path, executor: Pretended) -> tuple[list[str], str]:
    """States of the runs after a launch, and what it said."""
    told = StringIO()
    states = train_all(runs, home, executor, LaunchProgress(home, told))
    return [state.state for state in states], told.getvalue()


def test_the_dearest_are_submitted_first_and_what_is_done_is_not(runs: Any, tmp_path: Path) -> None:
    executor = Pretended()
    write_result(tmp_path / runs[2].id, RESULT)
    assert launch_all(runs, tmp_path, executor)[0] == ["completed"] * 6
    assert executor.ran == [runs[i].id for i in (5, 4, 3, 1, 0)] and executor.calls == ["open", "close"]
    assert launch_all(runs, tmp_path, executor)[0] == ["completed"] * 6
    assert executor.calls == ["open", "close"]  # with nothing to do, none is needed


@pytest.mark.parametrize("ending", ["ok", "diverged", 2, 1])
def test_a_run_begins_when_the_one_it_comes_after_has_ended_in_whatever_way(
    runs: Any, tmp_path: Path, ending: Ending
) -> None:
    trunk, *others = runs
    branches = [replace(run, after=trunk.id) for run in others]
    branches[0] = replace(branches[0], after=branches[1].id)
    executor = Pretended({trunk.id: [ending] * 9})
    launch_all([*branches, trunk], tmp_path, executor)
    assert set(executor.submitted[0]) == {trunk.id} and executor.ran[0] == trunk.id
    tries = executor.ran.count(trunk.id)
    assert tries == (launch.ATTEMPTS if ending == 1 else 1)
    assert executor.ran[tries:] == [run.id for run in reversed(others[1:])] + [others[0].id]


def test_a_run_after_one_that_is_done_or_not_of_this_launch_begins_at_once(runs: Any, tmp_path: Path) -> None:
    write_result(tmp_path / runs[0].id, RESULT)
    waiting = [runs[0], replace(runs[1], after=runs[0].id), replace(runs[2], after="elsewhere")]
    executor = Pretended()
    launch_all(waiting, tmp_path, executor)
    assert executor.submitted == [[runs[2].id, runs[1].id]]


def test_a_broken_run_is_tried_again_at_once_and_not_for_ever(runs: Any, tmp_path: Path) -> None:
    crashed, killed, lost = (run.id for run in runs[:3])
    executor = Pretended({crashed: [1] * 9, killed: [("open", -9), "ok"], lost: [("open", None), "ok"]})
    states, told = launch_all(runs[:3], tmp_path, executor)
    assert states == ["failed", "completed", "completed"]
    assert executor.ran == [lost, killed, crashed, lost, killed, crashed]  # no waiting for a round to end
    found = {run_id: [(a.exit_code, a.reason[:13]) for a in attempts(tmp_path / run_id)] for run_id in executor.ran}
    assert found[killed] == [(-9, "killed by SIG"), (0, "")] and found[lost] == [(None, "the process d"), (0, "")]
    assert found[crashed] == [(1, "the worker sa")] * 2  # the worker's own words are not written over
    assert told.count("trying again") == 3


def test_a_broken_run_is_no_failed_one_while_a_live_launch_will_try_it_again(runs: Any, tmp_path: Path) -> None:
    broken, other = runs[:2]
    seen: list[RunState] = []

    def look(task: Task) -> None:
        if broken.id in executor.ran and task.name == other.id:
            seen.append(run_state(tmp_path / broken.id))

    class LastFirst(Pretended):
        def wait(self, seconds: float) -> list[Finished]:
            self.queue.sort(key=lambda task: task.name != broken.id or broken.id in self.ran)
            return super().wait(seconds)

    executor = LastFirst({broken.id: [("open", -9), 1]}, look)
    with lock(tmp_path / "lock"):
        assert launch_all([broken, other], tmp_path, executor)[0] == ["failed", "completed"]
    assert [(state.state, state.reason) for state in seen] == [
        ("interrupted", "killed by SIGKILL (by another process, or out of memory); will be tried again")
    ]
    log_again(tmp_path / broken.id)  # of a launch that is no more
    assert run_state(tmp_path / broken.id).state == "failed"


def test_an_exit_without_a_word_is_told_as_one(runs: Any, tmp_path: Path) -> None:
    launch_all(runs[:1], tmp_path, Pretended({runs[0].id: [("open", 1)] * 9}))
    assert (
        attempts(tmp_path / runs[0].id)[0].reason
        == "exit code 1 with an empty log, possibly because the disk is full"
    )


def test_a_preempted_run_goes_on_without_limit_of_attempts_but_not_for_ever(runs: Any, tmp_path: Path) -> None:
    often, always = runs[0].id, runs[1].id
    executor = Pretended({often: [75] * 7 + [("open", 75)] + ["ok"], always: [75] * 99})
    assert launch_all(runs[:2], tmp_path, executor)[0] == ["completed", "interrupted"]
    assert executor.ran.count(often) == 9 and executor.ran.count(always) == launch.PREEMPTIONS + 1


@pytest.mark.parametrize("code", [None, -signal.SIGTERM, -signal.SIGINT])
def test_a_run_that_loses_its_node_or_is_stopped_by_someone_else_is_not_broken(
    runs: Any, tmp_path: Path, code: int | None
) -> None:
    often, always = runs[0].id, runs[1].id
    executor = Pretended({often: [("open", code)] * 7 + [1, "ok"], always: [("open", code)] * 99})
    assert launch_all(runs[:2], tmp_path, executor)[0] == ["completed", "interrupted"]
    assert executor.ran.count(often) == 9 and executor.ran.count(always) == launch.PREEMPTIONS + 1


def test_what_never_begins_is_a_broken_run_and_no_lost_node(runs: Any, tmp_path: Path) -> None:
    executor = Pretended({runs[0].id: ["never"] * 99})
    assert launch_all(runs[:1], tmp_path, executor)[0] == ["interrupted"]
    assert executor.ran.count(runs[0].id) == launch.ATTEMPTS


DEAF = """
import signal, sys, time
from pathlib import Path
from scaling.locks import lock
from scaling.sweeps.run_store import log_start
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = Path(sys.argv[1])
with lock(folder / "lock"):
    log_start(folder)
    (folder / "on").touch()
    time.sleep(600)
"""


def test_a_run_that_is_killed_since_it_does_not_stop_was_told_to_stop_and_is_not_broken(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaling.sweeps.executors.process.GRACE_S", 0.3)
    monkeypatch.setattr(launch, "worker_command", lambda folders: (sys.executable, "-c", DEAF, *map(str, folders)))
    run = runs[0]

    class Telling(LocalExecutor):
        told = False

        def wait(self, seconds: float) -> list[Finished]:
            if not self.told and (tmp_path / run.id / "on").exists():
                self.told = True
                os.kill(os.getpid(), signal.SIGTERM)
            return super().wait(seconds)

    with pytest.raises(Interrupted):
        train_all([run], tmp_path, Telling(), LaunchProgress(tmp_path, StringIO()))
    state = run_state(tmp_path / run.id)
    assert (state.state, len(state.attempts)) == ("interrupted", 1)
    assert state.reason.startswith("stopped before its state was saved")


def test_a_run_that_another_process_trains_is_waited_for(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = runs[:2]
    held = ExitStack()
    held.enter_context(lock(tmp_path / run.id / "lock"))

    def finish_elsewhere(task: Task) -> None:
        write_result(tmp_path / run.id, replace(RESULT, run_id=run.id))
        held.close()

    executor = Pretended(during=finish_elsewhere)
    states, told = launch_all([run, other], tmp_path, executor)
    assert states == ["completed"] * 2 and executor.ran == [other.id]
    assert f"{run.id} is being trained by another process" in told and "[2/2] " in told


def test_a_worker_that_came_too_late_leaves_no_trace_and_is_sent_again(runs: Any, tmp_path: Path) -> None:
    run = runs[0]
    executor = Pretended({run.id: [BUSY, BUSY, BUSY, "ok"]})
    assert launch_all([run], tmp_path, executor)[0] == ["completed"]
    assert [a.exit_code for a in attempts(tmp_path / run.id)] == [0]


def test_a_run_whose_end_nobody_saw_is_looked_into_when_its_worker_has_let_go(runs: Any, tmp_path: Path) -> None:
    """The node is said to be dead while the worker on it still saves its state."""
    run = runs[0]
    saving = ExitStack()

    class Lossy(Pretended):
        def wait(self, seconds: float) -> list[Finished]:
            if self.queue and not self.ran:
                task = self.queue.pop()
                self.ran.append(task.name)
                saving.enter_context(lock(task.folders[0] / "lock"))
                log_start(task.folders[0])
                threading.Timer(0.5, save).start()
                return [Finished(task, None, 1.0)]
            return super().wait(seconds)

    def save() -> None:
        log_end(tmp_path / run.id, 75, "told to stop; its state is saved")
        saving.close()

    executor = Lossy({run.id: [1, "ok"]})  # a failure that would be one too many if the first end counted as one
    assert launch_all([run], tmp_path, executor)[0] == ["completed"]
    assert [a.exit_code for a in attempts(tmp_path / run.id)] == [75, 1, 0]


class Packing(Pretended):
    """Two runs at once are a pack, which ends with `code`; `ends` says how each of them did."""

    def __init__(self, ends: dict[str, Any], code: int):
        super().__init__()
        self.ends, self.code = ends, code

    def submit(self, tasks: Sequence[Task]) -> None:
        if len(tasks) == 2:
            tasks = [replace(tasks[0], folders=tuple(folder for task in tasks for folder in task.folders))]
        super().submit(tasks)

    def wait(self, seconds: float) -> list[Finished]:
        if not self.queue or len(self.queue[0].folders) == 1:
            return super().wait(seconds)
        task = self.queue.pop()
        for folder in task.folders:
            _pretend(folder, self.ends[folder.name])
        return [Finished(task, self.code, 1.0)]


def test_what_broke_a_pack_is_read_from_the_log_that_it_wrote(runs: Any, tmp_path: Path) -> None:
    """The process could note nothing itself; the first run's log has what it printed."""
    second, first = (run.id for run in runs[:2])  # the dearest goes first
    logs = {first: "Traceback\nOSError: no room\n", second: "KeyError: of another day\n"}
    for run_id, text in logs.items():
        (tmp_path / run_id).mkdir()
        (tmp_path / run_id / "log.txt").write_text(text)
    launch_all(runs[:2], tmp_path, Packing({first: ("open", 1), second: ("open", 1)}, 1))
    assert [attempts(tmp_path / run_id)[0].reason for run_id in logs] == ["OSError: no room"] * 2


def test_a_pack_is_judged_run_by_run(runs: Any, tmp_path: Path) -> None:
    first, second = runs[0].id, runs[1].id
    executor = Packing({first: "ok", second: ("open", -9)}, -9)
    assert launch_all(runs[:2], tmp_path, executor)[0] == ["completed"] * 2
    assert executor.ran == [second]
    assert [[a.exit_code for a in attempts(tmp_path / run_id)] for run_id in (first, second)] == [[0], [-9, 0]]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Interrupted), (signal.SIGINT, KeyboardInterrupt)])
def test_a_stop_cancels_what_was_submitted_and_begins_nothing(
    runs: Any, tmp_path: Path, number: int, error: type[BaseException]
) -> None:
    trunk, branch, *others = runs
    executor, told = Pretended({others[-1].id: [75]}, during=lambda task: os.kill(os.getpid(), number)), StringIO()
    with pytest.raises(error, match="the same command continues"):
        train_all(
            [trunk, replace(branch, after=trunk.id), *others], tmp_path, executor, LaunchProgress(tmp_path, told)
        )
    assert told.getvalue().splitlines() == [  # and nothing of runs that never began
        "training 6, on at most 1 device at a time",
        f"[0/6] {others[-1].id} 1 s interrupted: the worker said why",
    ]
    assert executor.ran == [others[-1].id] and executor.calls == ["open", "cancel", "close"]
    assert [run_state(tmp_path / run.id).state for run in runs] == ["planned"] * 5 + ["interrupted"]
    assert all(not attempts(tmp_path / run.id) for run in runs[:-1])  # what never began has no attempt
    assert launch_all(runs, tmp_path, Pretended())[0] == ["completed"] * 6


def test_the_executor_is_closed_when_it_refuses_or_the_disk_does(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Pretended):
        def submit(self, tasks: Sequence[Task]) -> None:
            raise UserError("too large")

    executor = Refusing()
    with pytest.raises(UserError, match="too large"):
        launch_all(runs, tmp_path, executor)
    assert executor.calls == ["open", "close"]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "attempts.jsonl")

    executor = Pretended({runs[0].id: [("open", -9)]})
    monkeypatch.setattr(launch, "log_end", full)
    with pytest.raises(OSError, match="No space left"):
        launch_all(runs[:1], tmp_path, executor)
    assert executor.calls == ["open", "close"]


def test_a_clock_that_jumps_changes_neither_states_nor_what_is_done(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock is a year and a half earlier than the last, or ten years later."""
    years: Iterator[int] = iter([2030 - 3 * i // 2 + 10 * (i % 3) for i in range(200)])
    jump = lambda: datetime(next(years), 1, 1, tzinfo=UTC).isoformat()  # noqa: E731
    monkeypatch.setattr("scaling.sweeps.run_store.attempt.now", jump)
    steps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 1e9 - 1e5 * next(steps))
    crashed, preempted, killed = (run.id for run in runs[:3])
    executor = Pretended({crashed: [1, "ok"], preempted: [75, 75, "ok"], killed: [("open", -9), "ok"]})
    assert launch_all(runs[:3], tmp_path, executor)[0] == ["completed"] * 3
    assert executor.waits == 3 + 1 + 2 + 1  # one for each attempt: nothing is waited for in vain
    assert [a.exit_code for a in attempts(tmp_path / preempted)] == [75, 75, 0]
    log_start(tmp_path / "gone")
    state: RunState = run_state(tmp_path / "gone")
    assert state.state == "interrupted" and "disappeared" in state.reason
