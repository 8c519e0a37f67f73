"""Training a set of planned runs with an executor: what is done is skipped, what broke is tried again."""

import contextlib
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from scaling.config import to_yaml
from scaling.errors import INTERRUPTED, Interrupted, UserError
from scaling.result import read_result, write_text_atomically
from scaling.sweeps.designs import PlannedRun
from scaling.sweeps.executors import Executor, Finished, Task
from scaling.sweeps.plan import devices_of
from scaling.sweeps.progress import Progress
from scaling.sweeps.run_store import BUSY, GONE, STOPPED, RunState, log_end, run_state

ATTEMPTS = 2  # in one launch; launching again gives as many more
USER_ERROR = 2  # exit code: it would fail in the same way again

# seeds of one shape, and a run that goes on, compile once: 1.2 s of start in place of 4.9 s for a tiny model on a CPU
COMPILATION_CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


class Stop(threading.Event):
    """Set once the launch is told to stop."""

    number: int | None = None
    """of the signal that told it"""


def train_all(runs: Sequence[PlannedRun], home: Path, executor: Executor, progress: Progress) -> tuple[RunState, ...]:
    """Train those of `runs` that are not done, in folders of `home`, and return what became of all.

    A run that breaks is tried again, up to ATTEMPTS times in one launch, unless its configuration was at fault; a
    run that diverged has its result. After every run has saved its state, raises KeyboardInterrupt where SIGINT asked
    for an end and `Interrupted` (a SystemExit of code 75) where SIGTERM did.
    """
    folders = {run.id: home / run.id for run in runs}
    for folder in folders.values():
        state = run_state(folder)
        if state.state == "unreadable":
            raise UserError(state.reason)
    with _stop_on_signals() as stop:
        for attempt in range(ATTEMPTS):
            todo = [run for run in runs if _to_train(run_state(folders[run.id]), again=attempt > 0)]
            if not todo or stop.is_set():
                break
            tasks = [_prepare(run, folders[run.id]) for run in todo]
            progress.begin([run_state(folder) for folder in folders.values()], todo)
            try:
                for finished in executor.run(tasks, stop):
                    if finished.exit_code != BUSY:  # the attempt on record is then another process's
                        log_end(finished.task.folder, finished.exit_code, _reason(finished))
                    progress.tell(finished, run_state(finished.task.folder))
            finally:
                progress.end()
        if stop.is_set():
            where = "stopped; the same command goes on"
            progress.say(where)
            raise KeyboardInterrupt(where) if stop.number == signal.SIGINT else Interrupted(where)
    return tuple(run_state(folder) for folder in folders.values())


def worker_command(folder: Path) -> tuple[str, ...]:
    """What trains the run in `folder`."""
    return (sys.executable, "-m", "scaling.sweeps.worker", str(folder))


def _to_train(state: RunState, *, again: bool) -> bool:
    """again: it was already tried in this launch."""
    if state.state in ("completed", "diverged"):
        return False
    return not (again and state.attempts and state.attempts[-1].exit_code == USER_ERROR)


def _prepare(run: PlannedRun, folder: Path) -> Task:
    """The run's folder made ready for an attempt: its configuration, and no trace that the last try is still on."""
    before = run_state(folder)
    if before.state == "interrupted" and before.attempts and before.attempts[-1].end is None:
        log_end(folder, None, GONE)
    if before.state == "failed":
        (folder / "result.json").unlink(missing_ok=True)  # its reason stays among the attempts
    write_text_atomically(folder / "config.yaml", to_yaml(run.config))
    cache = folder.parent / ".cache" / "xla" / platform.node()  # a program is compiled for one kind of processor
    return Task(
        run.id,
        folder,
        worker_command(folder),
        cost=run.flops,
        devices=devices_of(run),
        environment={**COMPILATION_CACHE, "JAX_COMPILATION_CACHE_DIR": str(cache.resolve())},
    )


def _reason(finished: Finished) -> str:
    """Why an attempt did not complete, in one line; empty where it did."""
    code = finished.exit_code
    if code == 0:
        return ""
    if code == INTERRUPTED:
        return "told to stop; its state is saved"
    if code in STOPPED:
        return "told to stop before it could save its state"
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (another process, or no memory was left)" if name == "SIGKILL" else "")
    try:
        result = read_result(finished.task.folder)
    except UserError as error:
        return str(error)
    told = result.reason if result is not None else _last_line(finished.task.folder / "log.txt")
    return told or f"exit code {code}"


def _last_line(path: Path, size: int = 4096) -> str:
    """The last line that says something in the last `size` bytes of a file."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""
    return ""


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[Stop]:
    """An event that the first SIGINT or SIGTERM sets; a second one does what it always did."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals: whoever called us there stops us in another way
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        stop.number = number
        stop.set()
        print("stopping: every run saves its state; once more to stop at once", file=sys.stderr, flush=True)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
