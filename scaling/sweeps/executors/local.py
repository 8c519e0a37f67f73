"""Runs on this machine: one process per run, as many at a time as there are CPU cores or accelerators."""

import glob
import importlib.metadata
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scaling.cores import cores
from scaling.errors import UserError
from scaling.sweeps.executors.base import Finished, Task
from scaling.sweeps.executors.environment import Platform, worker_environment
from scaling.sweeps.executors.forks import Forks, can_fork
from scaling.sweeps.executors.process import POLL_S, Process, start


@dataclass(frozen=True)
class Devices:
    """The devices of this machine; each of `ids` is one slot."""

    platform: Platform
    ids: tuple[int | str, ...]
    """CPU: core numbers; GPU: names that CUDA_VISIBLE_DEVICES understands; TPU: all chips are one slot"""
    kind: str
    """the maker's name for it"""
    per_slot: int = 1
    """most devices of a slot"""


def find_devices() -> Devices:
    """This machine's devices, found without importing JAX (which would take the accelerator for this process)."""
    wanted = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if wanted in ("", "cuda", "gpu"):
        gpus = _nvidia()
        if gpus is not None:
            return gpus
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    if wanted in ("", "tpu") and _installed("libtpu") and {"/dev/accel0", "/dev/vfio/0"}.intersection(chips):
        # a chip of v2, v3 and v7x is two devices; the run checks whether its mesh fits
        return Devices("tpu", (0,), "TPU", per_slot=2 * len(chips))
    return Devices("cpu", cores(), "cpu")


def refuse_larger(name: str, devices: int, there: Devices) -> None:
    """Raises UserError where a run of this name needs more devices than a machine has."""
    most = len(there.ids) * there.per_slot
    if devices > most:
        raise UserError(
            f"run {name} needs {devices} devices (placement.mesh), but this machine has only {most} "
            f"({there.platform}); lower placement.mesh"
        )


def _nvidia() -> Devices | None:
    """The GPUs that JAX would use: none without its CUDA plugin, whatever the machine has."""
    if not any(_installed(f"jax-cuda{version}-plugin") for version in (12, 13)) or not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=index,name", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)
    found = dict(line.split(", ", 1) for line in listed.stdout.splitlines() if ", " in line)
    if listed.returncode or not found:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = list(found) if visible is None else [name for name in visible.split(",") if name]
    return Devices("gpu", tuple(ids), next(iter(found.values()))) if ids else None


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@dataclass
class _Running:
    task: Task
    process: Process
    devices: tuple[int | str, ...]


class LocalExecutor:
    """Processes on this machine, most expensive first, as many at a time as there are slots."""

    def __init__(self, devices: Devices | None = None) -> None:
        self.devices = devices or find_devices()
        self._free: list[int | str] = []
        self._queue: list[Task] = []
        self._running: list[_Running] = []
        self._finished: list[Finished] = []
        self._cancelled = False
        self._forks = Forks()

    @property
    def slots(self) -> int:
        return len(self.devices.ids)

    @property
    def device(self) -> str:
        return self.devices.kind

    def open(self, home: Path) -> None:
        self._free, self._cancelled = list(self.devices.ids), False

    def submit(self, tasks: Sequence[Task]) -> None:
        """See `Executor.submit`. Raises UserError for a task that needs more devices than there are."""
        for task in tasks:
            refuse_larger(task.name, task.devices, self.devices)
        self._queue = sorted([*self._queue, *tasks], key=lambda task: -task.cost)
        self._start()

    def wait(self, seconds: float) -> list[Finished]:
        end = time.monotonic() + seconds
        while True:
            self._reap()
            self._start()
            if self._finished or time.monotonic() >= end:
                finished, self._finished = self._finished, []
                return finished
            time.sleep(POLL_S)

    def cancel(self) -> None:
        """See `Executor.cancel`. A later `wait` kills tasks that take more than GRACE_S to stop."""
        self._finished += [Finished(task, None, 0.0) for task in self._queue]
        self._queue, self._cancelled = [], True
        for job in self._running:
            job.process.stop()

    def close(self) -> None:
        """Tell running tasks to stop; tasks that were told before are not waited for any longer."""
        try:
            if not self._cancelled:
                self.cancel()
                while self._running:
                    self.wait(POLL_S)
        finally:
            for job in self._running:
                job.process.stop(grace_s=0)
            while self._running:
                self._reap()
                time.sleep(POLL_S)
            self._queue, self._finished = [], []
            self._forks.close()

    def _start(self) -> None:
        """Start tasks as room allows, in order: no task overtakes a more expensive one that waits for its devices."""
        while self._queue and (slots := -(-self._queue[0].devices // self.devices.per_slot)) <= len(self._free):
            task = self._queue.pop(0)
            taken, self._free = tuple(self._free[:slots]), self._free[slots:]
            self._running.append(_Running(task, self._process(task, taken), taken))

    def _reap(self) -> None:
        for job in list(self._running):
            ended = job.process.poll()
            if ended is not None:
                self._running.remove(job)
                self._free.extend(job.devices)
                self._finished.append(Finished(job.task, *ended))

    def _process(self, task: Task, devices: tuple[int | str, ...]) -> Process:
        """Start the task's process, in its own session so that Ctrl-C in a terminal reaches only this process, which
        passes it on."""
        platform, log = self.devices.platform, task.folders[0] / "log.txt"
        environment = {**worker_environment(platform, devices), **task.environment}
        cores = [int(core) for core in devices] if platform == "cpu" else []
        if cores and can_fork(task.command):
            return Process(self._forks.start(task.command, log, environment, cores))
        with _pinned(cores):
            return start(task.command, log, environment, start_new_session=True)


@contextmanager
def _pinned(cores: Sequence[int]) -> Iterator[None]:
    """Pin this thread to `cores`, for a child to inherit: all threads of the child then start there."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
