"""What in a sweep's plan the machine may not bear: the limit of a job, devices that nothing is known of."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from scaling import accounting
from scaling.config import RunConfig, SweepConfig
from scaling.units import duration


def machine_notes(sweep: SweepConfig, configs: Sequence[RunConfig], rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each thing that may go wrong where the runs are to run, or that is not known of it.

    configs: of the runs of the design. rows: of all runs, as in `describe_sweep`.
    """
    return [*_limit(sweep, configs, rows), *_unknown(sweep)]


def _limit(sweep: SweepConfig, configs: Sequence[RunConfig], rows: Sequence[dict[str, Any]]) -> list[str]:
    if sweep.executor.kind != "slurm":
        return []
    minutes = sweep.executor.slurm.time_minutes
    longer = [row for row in rows if row["seconds_left"] > 60 * minutes]
    if not longer:
        return []
    most = max(longer, key=lambda row: row["seconds_left"])
    saved = all(
        config.records.checkpoint_minutes is not None or config.records.checkpoint_steps is not None
        for config in configs
    )
    then = (
        "such a run saves its state and is queued again"
        if saved
        else "such a run starts over and never ends without checkpoints: raise the limit or set "
        "run.records.checkpoint_minutes"
    )
    return [
        f"{_runs(longer)} longer than a job may, executor.slurm.time_minutes={minutes}: up to "
        f"{duration(most['seconds_left'])}, {_name(most)}; {then}"
    ]


def _unknown(sweep: SweepConfig) -> list[str]:
    """Devices of a cluster that the configuration does not tell enough of."""
    executor = sweep.executor
    notes = []
    gpu = executor.slurm.gpu
    if executor.kind == "slurm" and gpu and accounting.device(gpu) is None:
        names = [device.name for device in accounting.DEVICES if device.platform == "gpu"]
        near = get_close_matches(gpu.lower(), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        notes.append(
            f"executor.slurm.gpu={gpu!r} is not known, so neither its speed nor its memory is, and no runs share "
            f"one; {hint}known: {', '.join(names)}"
        )
    if executor.kind == "ray" and executor.ray.address is not None:
        notes.append(
            f"the time is that of one slot: how many the cluster at executor.ray.address={executor.ray.address} has "
            "is not known before the launch"
        )
    return notes


def _runs(rows: Sequence[dict[str, Any]]) -> str:
    return "1 run takes" if len(rows) == 1 else f"{len(rows)} runs take"


def _name(row: dict[str, Any]) -> str:
    return f"run {row['run_id']}" if row["run_id"] else "a test run"
