"""Where the runs of a sweep run, and what each asks of the machine. No part of any run's id."""

from typing import Literal

from pydantic import Field

from scaling.frozen import Config


class SlurmConfig(Config):
    """What each job asks of Slurm."""

    partition: str | None = None
    """unset: the cluster's default"""
    time_minutes: int = Field(default=240, ge=1)
    """limit of a job; a run that needs longer saves its state and is queued again"""
    gpus: int = Field(default=0, ge=0)
    """for each device of a run's mesh"""
    gpu: str = ""
    """their kind, such as `h100`: where it is told, small runs of one shape share one (see sweeps.packing), as many
    as fall to each of `array_parallelism` of them"""
    cpus: int = Field(default=1, ge=1)
    """for each device of a run's mesh"""
    devices_per_node: int | None = Field(default=None, ge=1)
    """most that a run has of one node; a run of more spans several, a process on each. Unset: none does"""
    memory_gb: float | None = Field(default=None, gt=0)
    """of a job, on each of its nodes; unset: the cluster's default"""
    account: str | None = None
    """who pays; unset: the cluster's default"""
    qos: str | None = None
    """quality of service; unset: the cluster's default"""
    setup: tuple[str, ...] = ()
    """shell lines before the run, such as `module load cuda`"""
    array_parallelism: int = Field(default=256, ge=1)
    """jobs of one array that run at a time"""


class RayConfig(Config):
    """A Ray cluster, and what each run asks of it."""

    address: str | None = Field(default=None, pattern=r"^(auto|[^/]+:\d+)$", examples=["auto", "host:6379"])
    """of a cluster that is up (`host:6379`; `auto` on one of its nodes); unset: one is started for the launch"""
    cpus: int = Field(default=1, ge=1)
    """for each device of a run's mesh"""
    gpus: int = Field(default=0, ge=0)
    """for each device of a run's mesh; 0: runs compute on CPUs, a core for each device"""


class ExecutorConfig(Config):
    """Where runs run. `scaling sweep … --executor NAME` overrides `kind`."""

    kind: Literal["local", "slurm", "ray"] = "local"
    """this machine, or a cluster"""
    slurm: SlurmConfig = SlurmConfig()
    ray: RayConfig = RayConfig()
