"""Runs on a Ray cluster: one Ray task per worker process, wherever there is room for it."""

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.config import RayConfig
from scaling.cores import cores
from scaling.errors import UserError
from scaling.sweeps.executors.base import Finished, Task
from scaling.sweeps.executors.environment import worker_environment
from scaling.sweeps.executors.process import GRACE_S, POLL_S, start

CONNECT_S = 10.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # else it reports lost workers on standard output, which is for results
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}
KIND = "accelerator_type:"  # prefix of the name of such a resource of a node


class RayExecutor:
    """Processes on a Ray cluster's nodes, which all see the sweep's folder under the same path.

    Ray decides where a task runs; it never retries one, which is left to the scheduler. A worker ends with the Ray
    process that started it, and so with its node and with the launch.
    """

    def __init__(self, config: RayConfig) -> None:
        """Raises UserError where the package is missing."""
        if importlib.util.find_spec("ray") is None:
            raise UserError("executor ray needs the package ray, which is not installed: pip install ray")
        self.config = config
        self._ours = False  # the connection, to be ended by us
        self._running: dict[Any, tuple[Task, float]] = {}  # by Ray's reference to the result
        self._cancelled = False

    @property
    def slots(self) -> int:
        """Devices of all nodes that are up now; those of this machine while no cluster is connected."""
        import ray

        if not ray.is_initialized():
            return len(cores()) // self.config.cpus
        return sum(self._devices(node["Resources"]) for node in ray.nodes() if node["Alive"])

    @property
    def device(self) -> str:
        """Ray's name for the accelerators of the cluster; empty where there are several kinds, or a run does not have
        exactly one."""
        import ray

        if not ray.is_initialized() or self.config.gpus != 1:
            return ""
        named = [name for node in ray.nodes() if node["Alive"] for name in node["Resources"]]
        kinds = {name.removeprefix(KIND) for name in named if name.startswith(KIND)}
        return kinds.pop() if len(kinds) == 1 else ""

    def open(self, home: Path) -> None:
        """See `Executor.open`. Raises UserError where no cluster answers at the address."""
        os.environ.update(QUIET)
        import ray

        self._cancelled, self._ours = False, not ray.is_initialized()
        if not self._ours:
            return
        address = self.config.address
        local: dict[str, Any] = {} if address else {"num_cpus": len(cores()), "include_dashboard": False}
        with _handlers_kept():
            try:
                if address and address != "auto":
                    host, _, port = address.rpartition(":")  # Ray itself would try for minutes
                    socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
                ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            except (OSError, RuntimeError, ValueError) as error:
                if not address:
                    raise
                message = str(error).strip().splitlines()[0]
                raise UserError(f"executor.ray.address={address}: no usable Ray cluster there ({message})") from None

    def submit(self, tasks: Sequence[Task]) -> None:
        """See `Executor.submit`. Raises UserError for a task that fits on no node that is up."""
        import ray

        largest = max((self._devices(node["Resources"]) for node in ray.nodes() if node["Alive"]), default=0)
        for task in tasks:
            if task.devices > largest:
                each = f"executor.ray.cpus={self.config.cpus}"
                each += f" and executor.ray.gpus={self.config.gpus}" if self.config.gpus else ""
                if task.devices == 1:
                    raise UserError(
                        f"run {task.name} needs {each}, more than any node of the Ray cluster has; lower it"
                    )
                raise UserError(
                    f"run {task.name} needs {task.devices} devices (placement.mesh), each of {each}, but no node of "
                    f"the Ray cluster has more than {largest}; lower the mesh, or the resources of a device"
                )
        begin = ray.remote(max_retries=0)(run_on_node)
        for task in sorted(tasks, key=lambda task: -task.cost):
            environment = dict(task.environment)
            if not self.config.gpus:
                environment = worker_environment("cpu", range(task.devices)) | environment
            log = str(task.folders[0].absolute() / "log.txt")
            needs = {"num_cpus": self.config.cpus * task.devices, "num_gpus": self.config.gpus * task.devices}
            reference = begin.options(name=task.name, **needs).remote(task.command, log, os.getcwd(), environment)
            self._running[reference] = task, time.monotonic()

    def wait(self, seconds: float) -> list[Finished]:
        import ray

        if not self._running:
            time.sleep(seconds)
            return []
        if not ray.wait(list(self._running), timeout=seconds)[0]:
            return []
        ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [self._finished(reference) for reference in ended]

    def cancel(self) -> None:
        import ray

        self._cancelled = True
        for reference in self._running:
            ray.cancel(reference, recursive=False)

    def close(self) -> None:
        """Tell running tasks to stop; tasks that were told before are not waited for any longer."""
        import ray

        try:
            if self._running and not self._cancelled:
                self.cancel()
                end = time.monotonic() + GRACE_S
                while self._running and time.monotonic() < end:
                    self.wait(POLL_S)
        finally:
            self._running = {}
            if self._ours:
                with _handlers_kept():
                    ray.shutdown()

    def _devices(self, resources: Mapping[str, float]) -> int:
        """How many devices for runs a node with these resources has."""
        found = resources.get("CPU", 0) // self.config.cpus
        if self.config.gpus:
            found = min(found, resources.get("GPU", 0) // self.config.gpus)
        return int(found)

    def _finished(self, reference: Any) -> Finished:
        import ray

        task, submitted = self._running.pop(reference)
        code: int | None = None  # its worker or node died, or it was cancelled before it began
        seconds = time.monotonic() - submitted
        try:
            code, seconds = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # the process could not even be started
            code = 1
            with contextlib.suppress(OSError), (task.folders[0] / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"{error}\n")
        except ray.exceptions.OutOfMemoryError:
            code = -signal.SIGKILL
        except ray.exceptions.RayError:
            pass
        return Finished(task, code, seconds)


def run_on_node(command: Sequence[str], log: str, cwd: str, environment: Mapping[str, str]) -> tuple[int, float]:
    """Run a process on a node, with its output appended to `log`. Returns its exit code and the seconds it took.

    `ray.cancel` arrives as SIGINT and is passed on as SIGTERM; a process that takes more than GRACE_S to stop is
    killed.
    """
    cancelled = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: cancelled.set())
    try:  # in a session of its own, else Ray would kill it before it has saved its state
        return start(command, Path(log), environment, cwd=cwd, start_new_session=True).wait(cancelled.is_set)
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """A context in which Ray does not replace our handler for SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
