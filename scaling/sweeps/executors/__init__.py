"""Where runs run: executors behind one small protocol."""

from scaling.sweeps.executors.base import Executor, Finished, Task
from scaling.sweeps.executors.environment import worker_environment
from scaling.sweeps.executors.local import Devices, LocalExecutor, find_devices
from scaling.sweeps.executors.ray import RayExecutor

__all__ = [
    "Devices",
    "Executor",
    "Finished",
    "LocalExecutor",
    "RayExecutor",
    "Task",
    "find_devices",
    "worker_environment",
]
