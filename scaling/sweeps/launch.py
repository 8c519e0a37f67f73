"""Training a set of planned runs with an executor: completed runs are skipped, broken ones retried."""

import contextlib
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType

from scaling.config import to_yaml
from scaling.errors import INTERRUPTED, USER_ERROR, Interrupted, UserError
from scaling.locks import is_held
from scaling.result import read_result, write_text_atomically
from scaling.sweeps.designs import PlannedRun
from scaling.sweeps.executors import GRACE_S, Executor, Finished, Task
from scaling.sweeps.packing import make_packs
from scaling.sweeps.progress import LaunchProgress
from scaling.sweeps.run_store import (
    BUSY,
    DONE,
    GONE,
    STOPPED,
    RunState,
    attempts,
    close_lost,
    log_again,
    log_end,
    run_state,
    stopped,
)

ATTEMPTS = 2  # failed attempts at a run in one launch; launching again allows as many more
PREEMPTIONS = 20  # restarts in one launch of a run stopped from outside or without its node: no endless loop
GOES_ON = "stopped; the same command continues"
TICK_S = 0.2  # how soon a signal, or a released lock, is noticed


class StopEvent(threading.Event):
    """Set once the launch is to stop."""

    number: int | None = None
    """number of the signal that requested it"""


def train_all(
    runs: Sequence[PlannedRun], home: Path, executor: Executor, progress: LaunchProgress
) -> tuple[RunState, ...]:
    """Train those of `runs` that are not done, in folders of `home`, and return the final states of all.

    The most expensive go first, each once the run it comes `after` has ended, in whatever state. A run that fails is
    retried at once, up to ATTEMPTS times in one launch, unless its configuration was at fault; a run that was
    preempted or lost its node continues; a diverged run has its result. Once every run has saved its state, raises
    KeyboardInterrupt after SIGINT and `Interrupted` (a SystemExit of code 75) after SIGTERM.
    """
    states = [run_state(home / run.id) for run in runs]
    for state in states:
        if state.state == "unreadable":
            raise UserError(state.reason)
    todo = [run for run, state in zip(runs, states, strict=True) if state.state not in DONE]
    with _stop_on_signals() as stop:
        if todo:
            try:
                executor.open(home)
                progress.begin(states, todo, executor.slots)
                _Launch(todo, home, executor, progress, stop).run()
            finally:
                try:
                    executor.close()
                finally:
                    progress.end()
        if stop.is_set():
            raise KeyboardInterrupt(GOES_ON) if stop.number == signal.SIGINT else Interrupted(GOES_ON)
    return tuple(run_state(home / run.id) for run in runs)


def worker_command(folders: Sequence[Path]) -> tuple[str, ...]:
    """The command that trains the runs in `folders`."""
    return (sys.executable, "-m", "scaling.sweeps.worker", *map(str, folders))


class _Launch:
    """A launch in progress: which runs may begin, which the executor has, and how often each was tried."""

    def __init__(
        self, runs: Sequence[PlannedRun], home: Path, executor: Executor, progress: LaunchProgress, stop: StopEvent
    ):
        self.runs = {run.id: run for run in runs}
        self.home, self.executor, self.progress, self.stop = home, executor, progress, stop
        before = {run.id: [run.after] if run.after in self.runs else [] for run in runs}
        self.order: TopologicalSorter[str] = TopologicalSorter(before)
        self.order.prepare()
        self.ready: list[str] = []
        self.begun: dict[str, int] = {}  # runs the executor has: attempts recorded before
        self.ended: list[tuple[str, Finished]] = []  # not yet processed
        self.failures: Counter[str] = Counter()
        self.preemptions: Counter[str] = Counter()

    def run(self) -> None:
        """Run until every run has ended or, after a stop, every run that the executor has."""
        cancelled = False
        while self.order.is_active():
            self.ready += self.order.get_ready()
            if not self.stop.is_set():
                self._submit()
            elif not cancelled:
                self.executor.cancel()
                cancelled = True
            if cancelled and not self.begun:
                return
            for finished in self.executor.wait(TICK_S):
                self.ended += [(folder.name, finished) for folder in finished.task.folders]
            self._look()

    def _submit(self) -> None:
        """Submit the runs that are ready, in packs; a run that another process is training is waited for.

        A failed run is retried on its own, since the pack may have been at fault.
        """
        starting: list[PlannedRun] = []
        for run_id in sorted(self.ready, key=lambda run_id: -self.runs[run_id].flops_spent):
            state = run_state(self.home / run_id)
            if state.state == "running":
                self.progress.wait_for(run_id)
                continue
            self.ready.remove(run_id)
            if state.state in DONE:  # by that other process
                self.progress.tell(state)
                self.order.done(run_id)
                continue
            _prepare(self.runs[run_id], state, self.home / run_id)
            self.begun[run_id] = len(attempts(self.home / run_id))
            starting.append(self.runs[run_id])
        if starting:
            broken = [run for run in starting if self.failures[run.id]]
            packs = make_packs(
                [run for run in starting if run not in broken], self.executor.device, self.executor.slots
            )
            tasks = [_task(pack, self.home) for pack in [*packs, *((run,) for run in broken)]]
            self.executor.submit(sorted(tasks, key=lambda task: -task.cost))

    def _look(self) -> None:
        """Process the runs that ended; failed ones may begin again."""
        for run_id, finished in list(self.ended):
            folder = self.home / run_id
            if is_held(folder / "lock") and not self.stop.is_set():
                continue  # nobody saw it end, and it is saving its state; or another process was quicker
            self.ended.remove((run_id, finished))
            began = len(attempts(folder)) > self.begun.pop(run_id)
            code = self._close(folder, finished, began=began)
            state = run_state(folder)
            again = self._again(run_id, state, code, began=began)
            self.progress.tell(state, finished.seconds, again=again)
            if again:
                self.ready.append(run_id)
            else:
                self.order.done(run_id)

    def _close(self, folder: Path, finished: Finished, *, began: bool) -> int | None:
        """The exit code of the attempt, as the worker recorded it, or as is recorded here for one that could not."""
        tries, code = attempts(folder), finished.exit_code
        if began and tries[-1].end is not None:
            return tries[-1].exit_code
        never = not began and (code == INTERRUPTED or self.stop.is_set())
        if code != BUSY and not never and not is_held(folder / "lock"):  # else the record is another process's
            log_end(folder, code, _reason(folder, finished))
        return code

    def _again(self, run_id: str, state: RunState, code: int | None, *, began: bool) -> bool:
        if self.stop.is_set() or state.state in DONE or code == USER_ERROR:
            return False
        unseen = code is None and not began  # not even its start: perhaps it cannot start at all
        if code in (*STOPPED, BUSY) and not unseen:
            self.preemptions[run_id] += 1
            return self.preemptions[run_id] <= PREEMPTIONS
        self.failures[run_id] += 1
        return self.failures[run_id] < ATTEMPTS


def _prepare(run: PlannedRun, before: RunState, folder: Path) -> None:
    """Prepare the run's folder for an attempt: write its configuration, and close attempts that are still open."""
    close_lost(folder)
    if before.state == "failed":
        (folder / "result.json").unlink(missing_ok=True)  # its reason stays among the attempts
        if before.attempts:
            log_again(folder)
    write_text_atomically(folder / "config.yaml", to_yaml(run.config))


def _task(pack: Sequence[PlannedRun], home: Path) -> Task:
    """The task that trains runs whose folders are ready, side by side if there are several."""
    folders = tuple(home / run.id for run in pack)
    cost = sum(run.flops_spent for run in pack)
    return Task(pack[0].id, folders, worker_command(folders), cost=cost, devices=pack[0].devices)


def _reason(folder: Path, finished: Finished) -> str:
    """Why the attempt at the run in `folder` did not complete, in one line; empty where it did."""
    code = finished.exit_code
    if code is None:
        return GONE
    if code == 0:
        return ""
    if code == INTERRUPTED:
        return stopped(folder)
    if code in STOPPED:
        return f"stopped before its state was saved (a run that is told to stop is killed after {GRACE_S:g} s)"
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (by another process, or out of memory)" if name == "SIGKILL" else "")
    try:
        result = read_result(folder)
    except UserError as error:
        return str(error)
    reason = result.reason if result is not None else _last_line(finished.task.folders[0] / "log.txt")
    return reason or f"exit code {code} with an empty log, possibly because the disk is full"


def _last_line(path: Path, size: int = 4096) -> str:
    """The last non-blank line in the last `size` bytes of a file."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""
    return ""


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[StopEvent]:
    """An event that the first SIGINT or SIGTERM sets; a second one has its default effect."""
    stop = StopEvent()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals; callers in other threads stop us in another way
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        stop.number = number
        stop.set()
        print(
            "stopping: runs that keep checkpoints save their state; interrupt again to stop at once",
            file=sys.stderr,
            flush=True,
        )

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
