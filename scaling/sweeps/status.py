"""The state of a sweep, read from its folder."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.sweeps.run_store import Entry, is_held, read_plan, run_folders, run_state
from scaling.sweeps.table import duration, render, si


def status(path: str | Path) -> dict[str, Any]:
    """What became of each run of the sweep in the folder `path`.

    Returns a JSON-able mapping: `runs` (run_id, role, state, params, tokens, flops, loss, seconds, attempts, reason),
    `counts` by state, `launched` (whether a process is launching it now). Raises UserError for a folder that holds
    no sweep.
    """
    home = Path(path)
    planned: dict[str, Entry | None] = dict(read_plan(home))
    for folder in run_folders(home):
        planned.setdefault(folder.name, None)
    if not planned:
        raise UserError(f"{home} holds no runs; expected a sweep's folder, such as runs/NAME")
    rows = [_row(home / run_id, entry) for run_id, entry in planned.items()]
    counts = Counter(row["state"] for row in rows)
    return {"sweep": home.resolve().name, "launched": is_held(home / "lock"), "counts": dict(counts), "runs": rows}


def format_status(found: Mapping[str, Any]) -> str:
    """`status`'s mapping as text."""
    columns = ("run", "role", "state", "N", "D", "FLOPs", "loss", "time", "tries", "reason")
    rows = [
        (
            row["run_id"], row["role"], row["state"], *(_short(row[key]) for key in ("params", "tokens")),
            "" if row["flops"] is None else f"{row['flops']:.3g}",
            "" if row["loss"] is None else f"{row['loss']:.4f}",
            "" if row["seconds"] is None else duration(row["seconds"]),
            str(row["attempts"]), row["reason"],
        )
        for row in found["runs"]
    ]  # fmt: skip
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items())
    launched = "being launched now" if found["launched"] else "not being launched now"
    return f"{render(columns, rows, right=range(3, 9))}\n{found['sweep']}: {counts}; {launched}"


def _row(folder: Path, entry: Entry | None) -> dict[str, Any]:
    found = run_state(folder)
    result = found.result
    return {
        "run_id": folder.name,
        "role": entry.role if entry else "fit",
        "state": found.state,
        "params": entry.params if entry else result.params_total if result else None,
        "tokens": entry.tokens if entry else result.tokens if result else None,
        "flops": entry.flops if entry else result.flops if result else None,
        "loss": result.loss if result else None,
        "seconds": result.wall_s if result else None,
        "attempts": len(found.attempts),
        "reason": found.reason,
    }


def _short(count: float | None) -> str:
    return "" if count is None else si(count)
