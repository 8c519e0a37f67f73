"""How long the runs of a sweep will take: the speed of a device, what each run has left, and who waits for whom."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaling import accounting
from scaling.config import ExecutorConfig
from scaling.metrics import last_metrics
from scaling.result import Result
from scaling.sweeps.designs import PlannedRun
from scaling.sweeps.executors import Devices, find_devices
from scaling.sweeps.run_store import DONE, RunState

# FLOP/s of one device where nothing has been measured: a tiny step reaches 15 to 45 GFLOP/s on one CPU core
ASSUMED_CORE = 15e9
ASSUMED_ACCELERATOR = 50e12
START_S = 6.0  # a worker's start: imports, compilation, the first checkpoint


@dataclass(frozen=True)
class Job:
    """A run that is still to be trained, as the slots see it."""

    name: str
    seconds: float
    cost: float
    """the dearer of two that may begin goes first"""
    devices: int = 1
    after: str | None = None
    """name of what is to end before it begins; nothing where that is not among the jobs"""


def devices_for(config: ExecutorConfig) -> Devices:
    """What the runs would share. Of a cluster only the configuration is known: Slurm is taken to run as many jobs at
    a time as it is allowed to, of a Ray cluster elsewhere one slot is sure."""
    if config.kind == "slurm":
        kind = config.slurm.gpu or ("GPU" if config.slurm.gpus else "cpu")
        ids = tuple(range(config.slurm.array_parallelism))
        return Devices("gpu" if config.slurm.gpus else "cpu", ids, kind)
    if config.kind == "ray" and config.ray.address is not None:
        return Devices("gpu", (0,), "GPU") if config.ray.gpus else Devices("cpu", (0,), "cpu")
    return find_devices()


def measured_speed(results: Iterable[Result], kind: str) -> tuple[float, int] | None:
    """FLOP/s of one device while it trained, over all completed `results`, and how many those are; None for none.

    The speed of a run is its recorded tokens per second, which leave out start, compilation and evaluation, times its
    FLOPs per token, times the runs that shared the device; over runs it is their FLOPs over their time at that speed.
    kind: of the devices that are asked about; a run on others, as far as `accounting` can tell them apart, says
    nothing of these.
    """
    wanted, flops, seconds, count = accounting.device(kind), 0.0, 0.0, 0
    for result in results:
        had = accounting.device(result.device)
        if result.status != "completed" or not result.tokens_per_s or (wanted and had and wanted != had):
            continue
        devices = math.prod(result.facts.get("mesh", {}).values())
        per_s = result.tokens_per_s * result.flops / result.tokens * result.facts.get("pack", 1) / devices
        flops, seconds, count = flops + result.flops_spent, seconds + result.flops_spent / per_s, count + 1
    return (flops / seconds, count) if seconds else None


def speed_of(devices: Devices, results: Iterable[Result]) -> tuple[float, str]:
    """FLOP/s of one device, and where the number comes from."""
    measured = measured_speed(results, devices.kind)
    if measured is not None:
        runs = "run" if measured[1] == 1 else f"{measured[1]} runs"
        return measured[0], f"measured: tokens/s times FLOPs per token of the {runs} of this sweep that completed"
    if devices.platform == "cpu":
        return ASSUMED_CORE, "assumed"
    peak = accounting.peak_flops(devices.kind, "bfloat16")
    if peak is None:
        return ASSUMED_ACCELERATOR, "assumed (this device's peak is unknown)"
    return accounting.ASSUMED_MFU * peak, f"assumed: an MFU of {accounting.ASSUMED_MFU:.0%}"


def flops_left(run: PlannedRun, folder: Path, state: RunState, spent: float) -> float:
    """Of the FLOPs that `run` is to spend itself, those that are still to be done.

    A run that is being trained is as far as its newest record, any other as its newest checkpoint. Whether that can
    be read is for the run to find out. folder: of the run.
    """
    if state.state in DONE:
        return 0.0
    steps = [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal()]
    if state.state == "running":
        steps.append(last_metrics(folder).get("step", 0))
    step = min(max(steps, default=0), run.config.steps)
    return min(spent, run.flops * (1 - step / run.config.steps))


def makespan(jobs: Sequence[Job], slots: int) -> float:
    """Seconds until the last of `jobs` ends when each starts as soon as what it comes after has ended and slots are
    free, the dearest of several first."""
    free = [0.0] * slots
    ends: dict[str, float] = {}
    waiting = {job.name: job for job in jobs}
    while waiting:
        free.sort()
        begins = {
            name: max(free[min(job.devices, slots) - 1], ends.get(job.after or "", 0.0))
            for name, job in waiting.items()
            if job.after not in waiting
        }
        name = min(begins, key=lambda name: (begins[name], -waiting[name].cost))
        job = waiting.pop(name)
        ends[name] = begins[name] + job.seconds
        free[: min(job.devices, slots)] = [ends[name]] * min(job.devices, slots)
    return max(ends.values(), default=0.0)
