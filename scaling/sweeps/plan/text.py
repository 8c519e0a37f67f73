"""A sweep's plan as text."""

from collections.abc import Callable, Mapping
from typing import Any

from scaling.sweeps.plan.describe import PlanRow
from scaling.sweeps.plan.estimate import LEARNS_FROM
from scaling.sweeps.run_store.labels import label_cell, varied
from scaling.text import table
from scaling.units import duration, si, si_bytes

Column = tuple[str, bool, Callable[[PlanRow], str]]
"""heading, whether it is left-aligned, cell of a run"""
SHOWN = ("optimizer.learning_rate",)
"""keys that may be varied and have a column anyway"""


def format_sweep(plan: Mapping[str, Any]) -> str:
    """`describe_sweep`'s mapping as text."""
    tests = plan["forecast"]["runs"] if plan["forecast"] else []
    rows = [*plan["runs"], *tests]
    columns = _columns(rows)
    total, left, speed = plan["total"], plan["left"], plan["speed"]
    states = ", ".join(f"{count} {state}" for state, count in plan["states"].items())
    lines = [
        table(
            [heading for heading, _, _ in columns],
            [[cell(row) for _, _, cell in columns] for row in rows],
            left=[i for i, (_, left, _) in enumerate(columns) if left],
        ),
        f"{total['runs']} runs ({states}), {total['flops']:.3g} FLOPs, {si(total['tokens'])} tokens; "
        f"{left['runs']} left to train, {plan['time_left']['told']}",
    ]
    if any(row["after"] for row in rows):
        whole, spent = (sum(row[key] for row in plan["runs"]) for key in ("flops", "flops_spent"))
        lines.append(
            f"trained separately the runs would take {whole:.3g} FLOPs; with shared beginnings they take {spent:.3g} "
            f"({1 - spent / whole:.0%} less): each starts from a checkpoint of the run in column `after`; these "
            f"checkpoints take {si_bytes(plan['checkpoint_bytes'])} until all are trained"
        )
    lines.append(
        f"time: at {speed['flops_per_s']:.3g} FLOP/s on each of {speed['slots']} {speed['device']}, {speed['source']}"
        f"; with {speed['start_s']:.2g} s for the start of each run, {_beside(speed)}"
    )
    if plan["rounds"]:
        lines.append(
            "a budget whose minimum is not inside its sizes gets two more sizes on each side where it may be, "
            f"up to {plan['rounds']} time{'s' * (plan['rounds'] > 1)}"
        )
    if plan["forecast"]:
        lines.append(_forecast_line(plan["forecast"]))
    for corpus in plan["unprepared"]:
        lines.append(f"note: {corpus} is not prepared yet, so it is not checked whether it has enough tokens")
    lines += [f"note: {note}" for note in plan["notes"]]
    return "\n".join(lines)


def _beside(speed: Mapping[str, Any]) -> str:
    if speed["learned"] < LEARNS_FROM:
        return "without evaluation"
    return "evaluation and checkpoints, estimated from finished runs"


def _columns(rows: list[PlanRow]) -> list[Column]:
    columns: list[Column] = [("run", True, lambda row: row["run_id"] or "(after the fit)")]
    if len({row["role"] for row in rows}) > 1:
        columns.append(("role", True, lambda row: row["role"]))
    columns += [_label_column(key) for key in varied(row["label"] for row in rows) if key not in SHOWN]
    columns.append(("N", False, lambda row: _or_unknown(row["params"], si)))
    if any(row["params"] != row["params_active"] for row in rows):
        columns.append(("N active", False, lambda row: _or_unknown(row["params_active"], si)))
    columns += [
        ("D", False, lambda row: _or_unknown(row["tokens"], si)),
        ("D/N", False, lambda row: _or_unknown(row["tokens_per_param"], "{:.1f}".format)),
        ("FLOPs", False, lambda row: f"{row['flops']:.3g}"),
    ]
    shared = any(row["after"] for row in rows)
    if shared:
        columns.append(("to spend", False, lambda row: f"{row['flops_spent']:.3g}"))
    columns += [
        ("steps", False, lambda row: _or_unknown(row["steps"], si)),
        ("windows", False, lambda row: _or_unknown(row["batch_size"], str)),
        ("batch", False, lambda row: _or_unknown(row["batch_tokens"], si)),
        ("rate", False, lambda row: _or_unknown(row["learning_rate"], "{:.3g}".format)),
        ("memory", False, lambda row: _or_unknown(row["memory_bytes"], si_bytes)),
        ("time", False, lambda row: duration(row["seconds"])),
        ("state", True, _state),
    ]
    return [*columns, ("after", True, lambda row: row["after"] or "")] if shared else columns


def _label_column(key: str) -> Column:
    return key, False, lambda row: label_cell(row["label"], key)


def _or_unknown(value: Any, write: Callable[[Any], str]) -> str:
    return "?" if value is None else write(value)


def _state(row: PlanRow) -> str:
    share = 1 - row["flops_left"] / row["flops_spent"]
    return f"{row['state']} {share:.0%}" if 0 < share < 1 else row["state"]


def _forecast_line(forecast: Mapping[str, Any]) -> str:
    tests = forecast["runs"]
    runs = f"{len(tests)} test run{'s' * (len(tests) > 1)} of {forecast['flops']:.3g} FLOPs"
    if not forecast["expected"]:
        return f"the forecast is frozen, with {runs}"
    size = "of the best size by the fit"
    if tests[0]["params"] is not None:
        size = "shown at the best size that the design expects, trained at the fit's"
    return f"then a forecast is frozen and tested by {runs}, {size}"
