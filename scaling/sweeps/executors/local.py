"""Runs on this machine: one process per CPU core or per accelerator."""

import importlib.metadata
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from scaling.cores import cores
from scaling.errors import UserError
from scaling.sweeps.executors.base import Finished, Task

Platform = Literal["cpu", "gpu", "tpu"]

POLL_S = 0.05
GRACE_S = 60.0  # from SIGTERM to SIGKILL: time to save a checkpoint

# one thread for each process: at these sizes two processes of one thread outrun one process of two
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


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

    @property
    def slots(self) -> int:
        return len(self.devices.ids)

    def run(self, tasks: Sequence[Task], stop: threading.Event) -> Iterator[Finished]:
        """Each task once, told as it ends; see `Executor.run`. Raises UserError for one that needs more than all."""
        for task in tasks:
            if task.devices > self.slots:
                raise UserError(
                    f"run {task.run_id} needs {task.devices} devices (placement.mesh) and this machine has "
                    f"{self.slots} ({self.devices.platform}); lower the mesh"
                )
        waiting = sorted(tasks, key=lambda task: -task.cost)
        free = list(self.devices.ids)
        running: list[_Running] = []
        try:
            while (waiting or running) and not stop.is_set():
                while waiting and waiting[0].devices <= len(free):
                    task = waiting.pop(0)
                    taken, free = tuple(free[: task.devices]), free[task.devices :]
                    running.append(_Running(task, self._start(task, taken), taken, time.monotonic()))
                ended = [job for job in running if job.process.poll() is not None]
                for job in ended:
                    running.remove(job)
                    free.extend(job.devices)
                    yield _finished(job)
                if not ended:
                    stop.wait(POLL_S)
            yield from _end(running)
        finally:
            for _ in _end(running):  # the caller went away in the middle
                pass

    def _start(self, task: Task, devices: tuple[int | str, ...]) -> subprocess.Popen[bytes]:
        """The task's process. It has a session of its own, so that Ctrl-C in a terminal reaches only this process,
        which tells its children."""
        task.folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **self._environment(devices), **task.environment}
        with (task.folder / "log.txt").open("ab") as log, _pinned(devices if self.devices.platform == "cpu" else ()):
            return subprocess.Popen(
                task.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _environment(self, devices: tuple[int | str, ...]) -> Mapping[str, str]:
        if self.devices.platform == "gpu":
            return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, devices))}
        if self.devices.platform == "tpu":
            return {}
        flags = [os.environ.get("XLA_FLAGS", ""), ONE_THREAD]
        if len(devices) > 1:
            flags.append(f"--xla_force_host_platform_device_count={len(devices)}")
        return {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": " ".join(flags).strip(),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }


def _finished(job: _Running) -> Finished:
    return Finished(job.task, job.process.returncode, time.monotonic() - job.began)


def _end(running: list[_Running]) -> Iterator[Finished]:
    """SIGTERM to all, SIGKILL to those that take too long; empties `running`."""
    for job in running:
        job.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while running:
        job = running.pop(0)
        try:
            job.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()
        yield _finished(job)


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
