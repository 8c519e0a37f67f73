"""How long the runs of a sweep will take: device speed, remaining work of each run, and dependencies between runs."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
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
LEARNS_FROM = 3  # finished runs needed to estimate a run's overhead, and the variation between runs
GUESS, GUESS_OF_FEW = 3.0, 1.5  # assumed error factor of a time before any run, and before LEARNS_FROM, finished
SURE = 1.64  # standard deviations of a 90 % range


@dataclass(frozen=True)
class Job:
    """A run that is still to be trained, as the slots see it."""

    name: str
    seconds: float
    cost: float
    """the more expensive of two that may begin goes first"""
    devices: int = 1
    after: str | None = None
    """name of the job that must end before this one begins; ignored where it is not among the jobs"""


def devices_for(config: ExecutorConfig) -> Devices:
    """The devices that the runs would share. For a cluster only the configuration is known: Slurm is assumed to run
    as many jobs at a time as allowed, and a remote Ray cluster to have one slot."""
    if config.kind == "slurm":
        kind = config.slurm.gpu or ("GPU" if config.slurm.gpus else "cpu")
        ids = tuple(range(config.slurm.array_parallelism))
        return Devices("gpu" if config.slurm.gpus else "cpu", ids, kind)
    if config.kind == "ray" and config.ray.address is not None:
        return Devices("gpu", (0,), "GPU") if config.ray.gpus else Devices("cpu", (0,), "cpu")
    return find_devices()


@dataclass(frozen=True)
class Pace:
    """The speed of a sweep's runs, and its uncertainty."""

    flops_per_s: float
    """FLOP/s of one device while it trains"""
    start_s: float
    """overhead of each run besides training: a worker's start, compilation, evaluation, checkpoints"""
    learned: int
    """number of finished runs that both were learned from; 0 where they are assumed"""
    spread: float
    """standard deviation of the log seconds of one run about the estimate from these two"""
    source: str
    """where the values come from"""


def pace_of(devices: Devices, states: Iterable[RunState]) -> Pace:
    """The pace of runs on `devices`, learned from those of `states` that completed on devices of that kind.

    The speed of a run is its recorded tokens per second, which exclude start, compilation and evaluation, times its
    FLOPs per token, times the number of runs that shared the device; over several runs it is their total FLOPs over
    their time at that speed. The remaining time of their attempts is the overhead `start_s`: the median over runs, if
    there are at least LEARNS_FROM.
    """
    done = [state for state in states if state.result is not None and _tells(state.result, devices.kind)]
    if not done:
        speed, source = _assumed_speed(devices)
        return Pace(speed, START_S, 0, math.log(GUESS), source)
    trained = [_training_s(state.result) for state in done if state.result is not None]
    spent = [state.result.flops_spent for state in done if state.result is not None]
    took = [(whole, train) for state, train in zip(done, trained, strict=True) if (whole := _attempt_s(state))]
    enough = len(took) >= LEARNS_FROM
    start = max(0.0, statistics.median(whole - train for whole, train in took)) if enough else START_S
    errors = [math.log(max(whole, 1.0) / (train + start)) for whole, train in took]
    spread = math.sqrt(sum(e * e for e in errors) / (len(errors) - 2)) if enough else math.log(GUESS_OF_FEW)
    runs = "run" if len(done) == 1 else f"{len(done)} runs"
    source = f"measured: tokens/s times FLOPs per token of the {runs} completed in this sweep"
    return Pace(sum(spent) / sum(trained), start, len(done), spread, source)


def _tells(result: Result, kind: str) -> bool:
    """Whether a run's speed is informative about devices of a kind: whether it ran on that kind, as far as
    `accounting` can tell kinds apart."""
    wanted, had = accounting.device(kind), accounting.device(result.device)
    return result.status == "completed" and bool(result.tokens_per_s) and not (wanted and had and wanted != had)


def _training_s(result: Result) -> float:
    """Seconds of one device for training a run, without overhead, at its measured speed."""
    devices = math.prod(result.facts.get("mesh", {}).values())
    assert result.tokens_per_s is not None
    per_s = result.tokens_per_s * result.flops / result.tokens * result.facts.get("pack", 1) / devices
    return result.flops_spent / per_s


def _attempt_s(state: RunState) -> float | None:
    """Seconds of a run that completed in one attempt, alone on one device; None for others."""
    result, tries = state.result, state.attempts
    if result is None or len(tries) != 1 or tries[0].end is None or tries[0].exit_code:
        return None
    if result.facts.get("pack", 1) * math.prod(result.facts.get("mesh", {}).values()) != 1:
        return None
    begin, end = (datetime.fromisoformat(time) for time in (tries[0].start, tries[0].end))
    return (end - begin).total_seconds()


def _assumed_speed(devices: Devices) -> tuple[float, str]:
    """FLOP/s of one device where none has been measured, and the source of the number."""
    if devices.platform == "cpu":
        return ASSUMED_CORE, "assumed"
    peak = accounting.peak_flops(devices.kind, "bfloat16")
    if peak is None:
        return ASSUMED_ACCELERATOR, "assumed (this device's peak is unknown)"
    return accounting.ASSUMED_MFU * peak, f"assumed: an MFU of {accounting.ASSUMED_MFU:.0%}"


def flops_left(run: PlannedRun, folder: Path, state: RunState, spent: float) -> float:
    """The remaining part of the FLOPs that `run` has to spend itself.

    A run that is being trained is as far as its newest record, any other as far as its newest checkpoint (which is
    not checked here). folder: of the run.
    """
    if state.state in DONE:
        return 0.0
    steps = [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal()]
    if state.state == "running":
        steps.append(last_metrics(folder).get("step", 0))
    step = min(max(steps, default=0), run.config.steps)
    return min(spent, run.flops * (1 - step / run.config.steps))


def makespan(jobs: Sequence[Job], slots: int) -> float:
    """Seconds until the last of `jobs` ends if each starts as soon as the one it comes after has ended and slots are
    free, the most expensive first."""
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
