"""Where runs run: executors behind one small protocol."""

from scaling.sweeps.executors.base import Executor, Finished, Task
from scaling.sweeps.executors.environment import worker_environment
from scaling.sweeps.executors.local import Devices, LocalExecutor, find_devices, refuse_larger
from scaling.sweeps.executors.process import GRACE_S
from scaling.sweeps.executors.ray import RayExecutor
from scaling.sweeps.executors.slurm import SlurmExecutor

__all__ = [
    "GRACE_S",
    "Devices",
    "Executor",
    "Finished",
    "LocalExecutor",
    "RayExecutor",
    "SlurmExecutor",
    "Task",
    "find_devices",
    "refuse_larger",
    "worker_environment",
]
