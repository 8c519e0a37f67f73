"""What a sweep would cost, told before anything is trained."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling import accounting
from scaling.config import ExecutorConfig, IsoflopDesign, Records, SweepConfig
from scaling.result import Result
from scaling.sweeps.designs import PlannedRun, all_runs, make_runs
from scaling.sweeps.executors import Devices, find_devices
from scaling.sweeps.forks import flops_to_spend, fork_bytes
from scaling.sweeps.hyperparameters import rule_notes
from scaling.sweeps.run_store import DONE, read_plan, run_state
from scaling.sweeps.table import duration, render
from scaling.units import si, si_bytes

# FLOP/s of one device where nothing has been measured: a tiny step reaches 15 to 45 GFLOP/s on one CPU core, a
# sweep's small models rarely more than a third of an accelerator's peak
ASSUMED_CORE = 15e9
ASSUMED_ACCELERATOR = 50e12
ASSUMED_MFU = 0.3
START_S = 6.0  # a worker's start: imports, compilation, the first checkpoint


def describe_plan(sweep: SweepConfig, folder: str | Path | None = None) -> dict[str, Any]:
    """Every run of `sweep` with its cost, the totals and what exists already; nothing is written.

    Returns a JSON-able mapping: `runs` (a list: run_id, params N, tokens D, tokens_per_param, flops of the whole run,
    flops_spent without those taken from the run `after` which it begins, batch_tokens, learning_rate, weight_decay,
    memory_bytes per device, seconds, state, label), `total`, `left` (of what is still to be trained), `states` (how
    many runs are in each), `checkpoint_bytes` of disk that branches need until they are trained, `speed` (FLOP/s of
    one device and where that comes from), `rounds` of further sizes that may follow, `forecast`, `notes` on rules
    that runs leave the range of.
    Raises UserError as `make_runs`.
    """
    kept = None if folder is None else str(folder)
    runs, home = make_runs(sweep, kept), sweep_folder(sweep, kept)
    runs = all_runs(sweep, runs, read_plan(home), kept)
    devices = _devices(sweep.executor)
    states = {run.id: run_state(home / run.id) for run in runs}
    results = [state.result for state in states.values() if state.result is not None]
    flops_per_s, source = _speed(devices, [_done(result) for result in results if result.status == "completed"])
    spent, rows = flops_to_spend(runs, home, states), []
    for run in runs:
        row = _row(run, spent[run.id], spent[run.id] / flops_per_s / devices_of(run) + START_S, devices.kind)
        rows.append(row | {"state": states[run.id].state, "label": dict(run.label)})
    left = [row for row in rows if row["state"] not in DONE]
    return {
        "sweep": sweep.name,
        "folder": str(home),
        "runs": rows,
        "checkpoint_bytes": fork_bytes(runs),
        "total": {"runs": len(rows)}
        | {key: sum(row[key] for row in rows) for key in ("flops", "flops_spent", "tokens")},
        "left": {
            "runs": len(left),
            "flops": sum(row["flops_spent"] for row in left),
            "seconds": _makespan(left, runs, devices),
        },
        "states": dict(Counter(row["state"] for row in rows)),
        "speed": {"flops_per_s": flops_per_s, "source": source, "slots": len(devices.ids), "device": devices.kind},
        "rounds": sweep.design.recenter if isinstance(sweep.design, IsoflopDesign) else 0,
        "forecast": sweep.forecast.model_dump(mode="json") if sweep.forecast else None,
        "notes": rule_notes(sweep, [run.config for run in runs]),
    }


def format_plan(plan: Mapping[str, Any]) -> str:
    """`describe_plan`'s mapping as text."""
    shared = any(row["after"] for row in plan["runs"])
    columns = ["run", "N", "D", "D/N", "FLOPs", "batch", "learning rate", "memory", "time", "state"]
    if shared:
        columns[5:5] = ["to spend"]
        columns.append("after")
    rows = []
    for row in plan["runs"]:
        cells = [
            row["run_id"], si(row["params"]), si(row["tokens"]), f"{row['tokens_per_param']:.1f}",
            f"{row['flops']:.3g}", si(row["batch_tokens"]), f"{row['learning_rate']:.3g}",
            si_bytes(row["memory_bytes"]), duration(row["seconds"]), row["state"],
        ]  # fmt: skip
        if shared:
            cells[5:5] = [f"{row['flops_spent']:.3g}"]
            cells.append(row["after"] or "")
        rows.append(cells)
    total, left, speed = plan["total"], plan["left"], plan["speed"]
    states = ", ".join(f"{count} {state}" for state, count in plan["states"].items())
    lines = [
        render(columns, rows, right=range(1, len(columns) - 1 - shared)),
        f"{total['runs']} runs ({states}), {total['flops']:.3g} FLOPs, {si(total['tokens'])} tokens; "
        f"{left['runs']} left to train, about {duration(left['seconds'])}",
    ]
    if shared:
        saved = 1 - total["flops_spent"] / total["flops"]
        lines.append(
            f"as whole runs {total['flops']:.3g} FLOPs, to be spent {total['flops_spent']:.3g} ({saved:.0%} less): "
            f"each run begins at a checkpoint of the one that it comes after; these take "
            f"{si_bytes(plan['checkpoint_bytes'])} until all are trained"
        )
    lines.append(
        f"time at {speed['flops_per_s']:.3g} FLOP/s on each of {speed['slots']} {speed['device']}, {speed['source']}"
    )
    if plan["rounds"]:
        lines.append(
            "a budget without a minimum inside its sizes gets two more on the side where it may lie, "
            f"up to {plan['rounds']} time{'s' * (plan['rounds'] > 1)}"
        )
    if plan["forecast"]:
        tests, budget = len(plan["forecast"]["seeds"]), plan["forecast"]["flops"]
        lines.append(f"then a forecast, frozen, and {tests} test run{'s' * (tests > 1)} of {budget:.3g} FLOPs")
    lines += [f"note: {note}" for note in plan["notes"]]
    return "\n".join(lines)


def sweep_folder(sweep: SweepConfig, folder: str | None = None) -> Path:
    """Where the records of the runs of `sweep` are kept.

    folder: where sweeps' folders are kept; `run.records.folder` where None.
    """
    kept = folder or (sweep.run.get("records") or {}).get("folder", Records().folder)
    return Path(kept).expanduser() / sweep.name


def devices_of(run: PlannedRun) -> int:
    """Devices that a run's mesh takes; one where the mesh takes what there is (`data: 0`)."""
    mesh = run.config.placement.mesh
    return max(mesh.data, 1) * mesh.fsdp * mesh.tensor


def _row(run: PlannedRun, flops_spent: float, seconds: float, kind: str) -> dict[str, Any]:
    """kind: of the devices, as `accounting.device` knows it."""
    config = run.config
    return {
        "run_id": run.id,
        "params": run.params,
        "tokens": run.tokens,
        "tokens_per_param": run.tokens / run.params,
        "flops": run.flops,
        "flops_spent": flops_spent,
        "after": run.after,
        "batch_tokens": config.batch_tokens,
        "learning_rate": config.optimizer.learning_rate,
        "weight_decay": config.optimizer.weight_decay,
        "memory_bytes": accounting.memory(config, devices_of(run), kind).total,
        "seconds": seconds,
    }


def _done(result: Result) -> tuple[float, float]:
    """FLOPs that each device did while a run was trained, and the seconds: in a pack those of the others, too."""
    devices = math.prod(result.facts.get("mesh", {}).values())
    return result.flops_spent * result.facts.get("pack", 1) / devices, result.wall_s_spent


def _devices(config: ExecutorConfig) -> Devices:
    """What the runs would share. Of a cluster only the configuration is known: Slurm is taken to run as many jobs at
    a time as it is allowed to, of a Ray cluster elsewhere one slot is sure."""
    if config.kind == "slurm":
        kind = config.slurm.gpu or ("GPU" if config.slurm.gpus else "cpu")
        ids = tuple(range(config.slurm.array_parallelism))
        return Devices("gpu" if config.slurm.gpus else "cpu", ids, kind)
    if config.kind == "ray" and config.ray.address is not None:
        return Devices("gpu", (0,), "GPU") if config.ray.gpus else Devices("cpu", (0,), "cpu")
    return find_devices()


def _speed(devices: Devices, measured: Sequence[tuple[float, float]]) -> tuple[float, str]:
    """FLOP/s of one device, and where the number comes from."""
    if measured:
        flops, seconds = (sum(column) for column in zip(*measured, strict=True))
        return flops / seconds, f"measured in the {len(measured)} runs of this sweep that are done"
    if devices.platform == "cpu":
        return ASSUMED_CORE, "assumed"
    peak = accounting.peak_flops(devices.kind, "bfloat16")
    if peak is None:
        return ASSUMED_ACCELERATOR, "assumed (this device's peak is unknown)"
    return ASSUMED_MFU * peak, f"assumed: an MFU of {ASSUMED_MFU:.0%}"


def _makespan(rows: Sequence[Mapping[str, Any]], runs: Sequence[PlannedRun], devices: Devices) -> float:
    """Seconds until the last of `rows` ends when each starts as soon as what it comes after has ended and slots are
    free, the dearest of several first."""
    need = {run.id: min(devices_of(run), len(devices.ids)) for run in runs}
    slots = [0.0] * len(devices.ids)
    ends: dict[str, float] = {}
    waiting = {row["run_id"]: row for row in rows}
    while waiting:
        slots.sort()
        begins = {
            run_id: max(slots[need[run_id] - 1], ends.get(row["after"], 0.0))
            for run_id, row in waiting.items()
            if row["after"] not in waiting
        }
        run_id = min(begins, key=lambda run_id: (begins[run_id], -waiting[run_id]["flops_spent"]))
        ends[run_id] = begins[run_id] + waiting.pop(run_id)["seconds"]
        slots[: need[run_id]] = [ends[run_id]] * need[run_id]
    return max(ends.values(), default=0.0)
