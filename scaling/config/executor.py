"""Where the runs of a sweep run, and the resources each requests. Not part of any run's id."""

from typing import Literal

from pydantic import Field

from scaling.frozen import Config


class SlurmConfig(Config):
    """Resources that each job requests from Slurm."""

    partition: str | None = None
    """unset: the cluster's default"""
    time_minutes: int = Field(default=240, ge=1)
    """limit of a job; a run that needs longer saves its state and is queued again"""
    gpus: int = Field(default=0, ge=0)
    """for each device of a run's mesh"""
    gpu: str = ""
    """their kind, such as `h100`: if given, small runs of one shape share a GPU (see sweeps.packing), as many as its
    share among `array_parallelism` of them"""
    cpus: int = Field(default=1, ge=1)
    """for each device of a run's mesh"""
    devices_per_node: int | None = Field(default=None, ge=1)
    """most devices that a run has on one node; a larger run spans several, with a process on each. Unset: no run
    spans nodes"""
    memory_gb: float | None = Field(default=None, gt=0)
    """of a job, on each of its nodes; unset: the cluster's default"""
    account: str | None = None
    """account to charge; unset: the cluster's default"""
    qos: str | None = None
    """quality of service; unset: the cluster's default"""
    setup: tuple[str, ...] = ()
    """shell lines before the run, such as `module load cuda`"""
    array_parallelism: int = Field(default=256, ge=1)
    """most jobs of one array that run at a time"""


class RayConfig(Config):
    """A Ray cluster, and the resources each run requests."""

    address: str | None = Field(default=None, pattern=r"^(auto|[^/]+:\d+)$", examples=["auto", "host:6379"])
    """address of a running cluster (`host:6379`; `auto` on one of its nodes); unset: one is started for the launch"""
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
