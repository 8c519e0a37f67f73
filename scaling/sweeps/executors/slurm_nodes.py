"""A run over several nodes of a Slurm cluster: how many it needs, and how its tasks find each other."""

import os
import re
import subprocess

from scaling.config import SlurmConfig
from scaling.errors import UserError
from scaling.processes import EXPLICIT, SLURM_TASKS

RANK = "SLURM_PROCID"
PORTS = range(61_440, 65_536)
"""each job gets one by its number, as JAX chooses its own, so that jobs that share a node do not collide"""


def nodes_of(config: SlurmConfig, devices: int) -> int:
    """Number of nodes for a run of `devices` devices. Raises UserError where nodes do not share them evenly."""
    most = config.devices_per_node or devices
    nodes = -(-devices // most)
    if devices % nodes:
        raise UserError(
            f"a run of {devices} devices does not divide evenly over nodes of {most} "
            f"(executor.slurm.devices_per_node); set placement.mesh to a multiple of {most} devices, or "
            f"devices_per_node to a divisor of {devices}"
        )
    return nodes


def first_task() -> bool:
    """Whether this is the only task of its job, or the first."""
    return int(os.environ.get(RANK, "0")) == 0


def joined() -> dict[str, str]:
    """For a task in a job of several: the variables by which the processes of the run find each other."""
    count = os.environ.get(SLURM_TASKS, "1")
    if int(count) < 2:
        return {}
    first = _output_of("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[0]
    found = re.search(r"NodeAddr=(\S+)", _output_of("scontrol", "show", "node", first))  # its name may not resolve
    port = PORTS[int(os.environ["SLURM_JOB_ID"]) % len(PORTS)]
    return dict(zip(EXPLICIT, (f"{found[1] if found else first}:{port}", count, os.environ[RANK]), strict=True))


def _output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
