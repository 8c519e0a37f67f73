"""What a sweep would cost, told before anything is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling import accounting
from scaling.config import SweepConfig
from scaling.result import Result
from scaling.sweeps.designs import PlannedRun, make_runs
from scaling.sweeps.executors import Devices, find_devices
from scaling.sweeps.run_store import run_state
from scaling.sweeps.table import duration, render, si

# FLOP/s of one device where nothing has been measured: a tiny step reaches 15 to 45 GFLOP/s on one CPU core, a
# sweep's small models rarely more than a third of an accelerator's peak
ASSUMED_CORE = 15e9
ASSUMED_ACCELERATOR = 50e12
ASSUMED_MFU = 0.3
START_S = 6.0  # a worker's start: imports, compilation, the first checkpoint


def describe_plan(sweep: SweepConfig, folder: str | Path | None = None) -> dict[str, Any]:
    """Every run of `sweep` with its cost, the totals and what exists already; nothing is written.

    Returns a JSON-able mapping: `runs` (a list: run_id, params N, tokens D, tokens_per_param, flops, learning_rate,
    memory_bytes per device, seconds, state, label), `total`, `speed` (FLOP/s of one device and where that comes
    from), `forecast`. Raises UserError as `make_runs`.
    """
    runs = make_runs(sweep, None if folder is None else str(folder))
    home = sweep_folder(runs)
    devices = find_devices()
    states = {run.id: run_state(home / run.id) for run in runs}
    results = [state.result for state in states.values() if state.result is not None]
    flops_per_s, source = _speed(devices, [_done(result) for result in results if result.status == "completed"])
    rows = []
    for run in runs:
        seconds = run.flops / flops_per_s / devices_of(run) + START_S
        rows.append(_row(run, seconds) | {"state": states[run.id].state, "label": dict(run.label)})
    left = [row for row in rows if row["state"] not in ("completed", "diverged")]
    return {
        "sweep": sweep.name,
        "folder": str(home),
        "runs": rows,
        "total": {
            "runs": len(rows),
            "flops": sum(row["flops"] for row in rows),
            "tokens": sum(r["tokens"] for r in rows),
        },
        "left": {
            "runs": len(left),
            "flops": sum(row["flops"] for row in left),
            "seconds": _makespan(left, runs, devices),
        },
        "speed": {"flops_per_s": flops_per_s, "source": source, "slots": len(devices.ids), "device": devices.kind},
        "forecast": sweep.forecast.model_dump(mode="json") if sweep.forecast else None,
    }


def format_plan(plan: Mapping[str, Any]) -> str:
    """`describe_plan`'s mapping as text."""
    columns = ("run", "N", "D", "D/N", "FLOPs", "learning rate", "memory", "time", "state")
    rows = [
        (
            row["run_id"], si(row["params"]), si(row["tokens"]), f"{row['tokens_per_param']:.1f}",
            f"{row['flops']:.3g}",
            f"{row['learning_rate']:.3g}", f"{si(row['memory_bytes'])}B", duration(row["seconds"]), row["state"],
        )
        for row in plan["runs"]
    ]  # fmt: skip
    total, left, speed = plan["total"], plan["left"], plan["speed"]
    lines = [
        render(columns, rows, right=range(1, 8)),
        f"{total['runs']} runs, {total['flops']:.3g} FLOPs, {si(total['tokens'])} tokens; "
        f"{left['runs']} left to train, about {duration(left['seconds'])}",
        f"time at {speed['flops_per_s']:.3g} FLOP/s on each of {speed['slots']} {speed['device']}, {speed['source']}",
    ]
    if plan["forecast"]:
        tests, budget = len(plan["forecast"]["seeds"]), plan["forecast"]["flops"]
        lines.append(f"then a forecast, frozen, and {tests} test run{'s' * (tests > 1)} of {budget:.3g} FLOPs")
    return "\n".join(lines)


def sweep_folder(runs: Sequence[PlannedRun]) -> Path:
    """Where the records of these runs of one sweep are kept."""
    records = runs[0].config.records
    return Path(records.folder).expanduser() / records.sweep


def devices_of(run: PlannedRun) -> int:
    """Devices that a run's mesh takes; one where the mesh takes what there is (`data: 0`)."""
    mesh = run.config.placement.mesh
    return max(mesh.data, 1) * mesh.fsdp * mesh.tensor


def _row(run: PlannedRun, seconds: float) -> dict[str, Any]:
    config = run.config
    return {
        "run_id": run.id,
        "params": run.params,
        "tokens": run.tokens,
        "tokens_per_param": run.tokens / run.params,
        "flops": run.flops,
        "learning_rate": config.optimizer.learning_rate,
        "memory_bytes": accounting.memory(config, devices_of(run)).total,
        "seconds": seconds,
    }


def _done(result: Result) -> tuple[float, float]:
    """FLOPs that a device did while it trained a run, and the seconds: in a pack those of the others, too."""
    return result.flops * result.facts.get("pack", 1), result.wall_s


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
    """Seconds until the last of `rows` ends when the longest start first on the free slot."""
    need = {run.id: min(devices_of(run), len(devices.ids)) for run in runs}
    slots = [0.0] * len(devices.ids)
    for row in sorted(rows, key=lambda row: -row["flops"]):
        taken = sorted(range(len(slots)), key=slots.__getitem__)[: need[row["run_id"]]]
        end = max(slots[i] for i in taken) + row["seconds"]
        for i in taken:
            slots[i] = end
    return max(slots)
