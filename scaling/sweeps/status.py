"""The state of a sweep, read from its folder."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.files import path_of
from scaling.locks import is_held
from scaling.metrics import last_metrics
from scaling.sweeps.run_store import Entry, RunState, read_plan, role_of, run_folders, run_state, sweep_and_run
from scaling.sweeps.run_store.labels import label_cell, varied
from scaling.sweeps.run_store.ledger import findings, read_ledger
from scaling.text import table
from scaling.units import duration, si
from scaling.validity import Verdict, decide, judge

BROKEN = ("failed", "unreadable")
"""final states without a record"""


def status(path: str | Path, state_of: Callable[[Path], RunState] = run_state) -> dict[str, Any]:
    """The state of each run of the sweep in the folder `path`, or of the single run whose folder that is.

    state_of: `run_state`, or for frequent calls a `States`, which rereads only what may have changed.

    Returns a JSON-able mapping: `runs` (run_id, role, state, validity, params, tokens, flops, flops_spent, loss,
    seconds, attempts, reason, validity_reason, progress, label), `counts` by state, `launched` (whether a process is
    launching it now).
    `label` has what the design requested, with the value of each axis and the seed; for a run outside the plan, the
    seed. `ended` is the time its last attempt ended. `flops_spent` leaves out the part that a branch takes from its
    trunk. `validity` is None while there is nothing to judge. `progress` is None except for a running run: `share` of
    the tokens that it has to train on itself, training `loss`, `tokens_per_s` and `left_s`, each None where not
    measured yet.
    Raises UserError for a folder that holds no sweep, and for a mistake in its `exclusions.yaml`.
    """
    home, only = sweep_and_run(path_of(path))
    plan = read_plan(home)
    folders = {run_id: home / run_id for run_id in plan} | {folder.name: folder for folder in run_folders(home)}
    if not folders:
        raise UserError(f"{home} holds no runs; expected a sweep's folder, such as runs/NAME")
    states = {run_id: state_of(folder) for run_id, folder in folders.items()}
    results = {run_id: state.result for run_id, state in states.items() if state.result is not None}
    verdicts = findings(read_ledger(home, results))
    rows = [
        _row(folder, plan.get(run_id), states[run_id], verdicts.get(run_id, ()))
        for run_id, folder in folders.items()
        if only in (None, run_id)
    ]
    counts = Counter(row["state"] for row in rows)
    return {"sweep": home.resolve().name, "launched": is_held(home / "lock"), "counts": dict(counts), "runs": rows}


def format_status(found: Mapping[str, Any]) -> str:
    """`status`'s mapping as text."""
    keys = varied(row["label"] for row in found["runs"])
    left, numbers = ("run", "role", "state", "validity"), (*keys, "N", "D", "FLOPs", "loss", "time", "tries")
    rows = [
        (
            row["run_id"], row["role"], _state(row), row["validity"] or "",
            *(label_cell(row["label"], key) for key in keys),
            *(_short(row[key]) for key in ("params", "tokens")),
            "" if row["flops"] is None else f"{row['flops']:.3g}",
            "" if row["loss"] is None else f"{row['loss']:.4f}",
            "" if row["seconds"] is None else duration(row["seconds"]),
            str(row["attempts"]), row["validity_reason"] or row["reason"],
        )
        for row in found["runs"]
    ]  # fmt: skip
    headings = (*left, *numbers, "reason")
    text = table(headings, rows, left=[i for i, heading in enumerate(headings) if heading not in numbers])
    return f"{text}\n{tell_counts(found)}"


def tell_counts(found: Mapping[str, Any]) -> str:
    """One line: how many runs are in each state, and how many of those that ended are not valid."""
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items())
    judged = Counter(row["validity"] for row in found["runs"] if row["validity"] not in (None, "valid"))
    not_valid = "; not valid: " + ", ".join(f"{n} {validity}" for validity, n in judged.items()) if judged else ""
    launched = "a launch is running" if found["launched"] else "no launch is running"
    return f"{found['sweep']}: {counts}{not_valid}; {launched}"


def _row(folder: Path, entry: Entry | None, state: RunState, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    result = state.result
    tokens = entry.tokens if entry else result.tokens if result else None
    verdict = _verdict(state, verdicts)
    return {
        "run_id": folder.name,
        "role": role_of(folder, entry),
        "state": state.state,
        "validity": verdict.validity if verdict else None,
        "params": entry.params if entry else result.params_total if result else None,
        "tokens": tokens,
        "flops": entry.flops if entry else result.flops if result else None,
        "flops_spent": result.flops_spent if result else entry.flops_spent if entry else None,
        "loss": result.loss if result else None,
        "seconds": result.wall_s if result else None,
        "attempts": len(state.attempts),
        "ended": state.attempts[-1].end if state.attempts else None,
        "reason": state.reason,
        "validity_reason": verdict.reason if verdict else "",
        "progress": _progress(folder, entry) if state.state == "running" else None,
        "label": dict(entry.label) if entry else {"seed": result.seed} if result else {},
    }


def _verdict(state: RunState, verdicts: Sequence[Verdict]) -> Verdict | None:
    """The verdict on a run; None while it may still be trained."""
    if state.result is not None:
        return judge({**state.result.facts, **vars(state.result)}, *verdicts)
    broken = (Verdict("failed", state.reason),) if state.state in BROKEN else ()
    return decide(*broken, *verdicts) if broken or verdicts else None


def _progress(folder: Path, entry: Entry | None) -> dict[str, float | None]:
    """How far a running run is, from the end of its metrics.jsonl; a branch's begins with the records of its
    trunk."""
    last = last_metrics(folder)
    done, speed = last.get("tokens", 0), last.get("tokens_per_s")
    share = left_s = None
    if entry is not None:
        left, own = max(entry.tokens - done, 0), entry.tokens * entry.flops_spent / entry.flops
        share = max(0.0, 1 - left / own)
        left_s = left / speed if speed else None
    return {"share": share, "loss": last.get("loss"), "tokens_per_s": speed, "left_s": left_s}


def _state(row: Mapping[str, Any]) -> str:
    share = (row["progress"] or {}).get("share")
    return row["state"] if share is None else f"{row['state']} {share:.0%}"


def _short(count: float | None) -> str:
    return "" if count is None else si(count)
