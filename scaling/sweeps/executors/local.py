"""Runs on this machine: one process per CPU core or per accelerator."""

import importlib.metadata
import os
import shutil
import signal
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

POLL_S = 0.05
GRACE_S = 60.0  # from SIGTERM to SIGKILL: time to save a checkpoint


@dataclass(frozen=True)
class Devices:
    """What this machine computes with; each of `ids` is one slot."""

    platform: Platform
    ids: tuple[int | str, ...]
    """CPU: core numbers; GPU: names that CUDA_VISIBLE_DEVICES understands; TPU: all chips are one slot"""
    kind: str
    """as the maker names it"""


def find_devices() -> Devices:
    """This machine's devices, found without importing JAX (which would take the accelerator for this process)."""
    wanted = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if wanted in ("", "cuda", "gpu"):
        gpus = _nvidia()
        if gpus is not None:
            return gpus
    if (
        wanted in ("", "tpu")
        and _installed("libtpu")
        and any(os.path.exists(p) for p in ("/dev/accel0", "/dev/vfio/0"))
    ):
        return Devices("tpu", (0,), "TPU")
    return Devices("cpu", cores(), "cpu")


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
    process: subprocess.Popen[bytes]
    devices: tuple[int | str, ...]
    began: float


class LocalExecutor:
    """Processes of this machine, dearest first, as many at a time as there are slots."""

    def __init__(self, devices: Devices | None = None) -> None:
        self.devices = devices or find_devices()
        self._free: list[int | str] = []
        self._queue: list[Task] = []
        self._running: list[_Running] = []
        self._told: list[Finished] = []
        self._deadline: float | None = None  # of those that were told to stop

    @property
    def slots(self) -> int:
        return len(self.devices.ids)

    def open(self, home: Path) -> None:
        self._free, self._deadline = list(self.devices.ids), None

    def submit(self, tasks: Sequence[Task]) -> None:
        """See `Executor.submit`. Raises UserError for a task that needs more devices than there are."""
        for task in tasks:
            if task.devices > self.slots:
                raise UserError(
                    f"run {task.name} needs {task.devices} devices (placement.mesh) and this machine has "
                    f"{self.slots} ({self.devices.platform}); lower the mesh"
                )
        self._queue = sorted([*self._queue, *tasks], key=lambda task: -task.cost)
        self._start()

    def wait(self, seconds: float) -> list[Finished]:
        end = time.monotonic() + seconds
        while True:
            self._reap()
            self._start()
            if self._told or time.monotonic() >= end:
                told, self._told = self._told, []
                return told
            time.sleep(POLL_S)

    def cancel(self) -> None:
        """See `Executor.cancel`. What takes more than GRACE_S to stop is killed, by a later `wait`."""
        self._told += [Finished(task, None, 0.0) for task in self._queue]
        self._queue = []
        self._deadline = time.monotonic() + GRACE_S
        for job in self._running:
            job.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """What runs is told to stop; where it was told before, it is not waited for any longer."""
        try:
            if self._deadline is None:
                self.cancel()
                while self._running:
                    self.wait(POLL_S)
        finally:
            for job in self._running:
                job.process.kill()
            while self._running:
                self._reap()
            self._queue, self._told = [], []

    def _start(self) -> None:
        """What there is room for. The dearest waits for its devices, and nothing passes it."""
        while self._queue and self._queue[0].devices <= len(self._free):
            task = self._queue.pop(0)
            taken, self._free = tuple(self._free[: task.devices]), self._free[task.devices :]
            self._running.append(_Running(task, self._process(task, taken), taken, time.monotonic()))

    def _reap(self) -> None:
        late = self._deadline is not None and time.monotonic() > self._deadline
        for job in list(self._running):
            if job.process.poll() is not None:
                self._running.remove(job)
                self._free.extend(job.devices)
                self._told.append(Finished(job.task, job.process.returncode, time.monotonic() - job.began))
            elif late:
                job.process.kill()

    def _process(self, task: Task, devices: tuple[int | str, ...]) -> subprocess.Popen[bytes]:
        """The task's process. It has a session of its own, so that Ctrl-C in a terminal reaches only this process,
        which tells its children."""
        folder, platform = task.folders[0], self.devices.platform
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **worker_environment(platform, devices), **task.environment}
        with (folder / "log.txt").open("ab") as log, _pinned(devices if platform == "cpu" else ()):
            return subprocess.Popen(
                task.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )


@contextmanager
def _pinned(cores: Sequence[int | str]) -> Iterator[None]:
    """This thread on `cores`, for a child to inherit: all threads of the child are then born there."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {int(core) for core in cores})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
