"""Predictions of a fit for new runs, as plain dictionaries for machines and as aligned text for people."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.asked import amount
from scaling.laws.intervals.prediction import optimum_at, predicted_loss
from scaling.laws.quantities import bracket
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.text.fit import warnings_of
from scaling.text import align, by_width, percent

UNITS = (
    ("N", "N* (parameters)"),
    ("D", "D* (tokens)"),
    ("tokens_per_param", "D*/N* (tokens a parameter)"),
    ("loss", "L* (loss)"),
)
"""rows of a prediction, with their units"""
FAR = 2.0
"""factor beyond the FLOPs of the largest run from which a note says what the interval leaves out"""
EDGE = 1e-6
"""in log N: a best size this close to an end of the search range was not found"""
FORM = "the interval assumes that the law's form is right"


def predict_table(fit: FittedLaw, C: float, level: float = 0.9) -> dict[str, Any]:
    """What `scaling predict --json` prints: the compute-optimal N, D and loss at `C`.

    FLOPs per token follow the runs' own exact counts where the fit has them, else 6·N.
    """
    C = amount(C)
    own = fit.runs.C is not None and {"N", "D"} <= set(fit.form.columns)
    best = optimum_at(fit, C, level, fit.runs.per_token if own else None)
    times = float(C / fit.runs.flops.max())
    far = [
        f"{times:.3g} times the largest run: {FORM}; on published runs such intervals contained about half of the "
        "outcomes at 4 to 30 times; the interval of a forecast (laws.Forecaster) includes the error of the form"
    ] * (times > FAR)
    if (below := float(fit.runs.flops.min() / C)) > FAR:
        far.append(f"the smallest run has {below:.3g} times these FLOPs: this far below the runs, {FORM}")
    low, high = bracket(C)
    if not low + EDGE < np.log(best.N) < high - EDGE:
        far.insert(0, "N* is at the end of the search range: with these parameters, no size is best at that budget")
    return {
        "flops": best.C,
        "flops_per_token": "the runs' own counts" if own else "6·N",
        "N": best.N,
        "D": best.D,
        "loss": best.loss,
        "tokens_per_param": best.tokens_per_param,
        "level": best.level,
        "N_interval": best.N_interval,
        "D_interval": best.D_interval,
        "loss_interval": best.loss_interval,
        "tokens_per_param_interval": best.tokens_per_param_interval,
        "times_largest_budget": times,
        "law": fit.form.name,
        "params": fit.params,
        "warnings": [*far, *warnings_of(fit)],
    }


def loss_table(fit: FittedLaw, columns: Mapping[str, float], level: float = 0.9) -> dict[str, Any]:
    """What `scaling predict FIT.json N=… D=… --json` prints: the law's loss at `columns`, for a law of any columns.

    Raises UserError for a column that the law does not read, and for one that it reads and is not given.
    """
    form = fit.form
    unknown = [name for name in columns if name not in form.columns]
    if unknown:
        raise UserError(f"{form.name} reads {', '.join(form.columns)}, not {', '.join(unknown)}")
    prediction = predicted_loss(fit, dict(columns), level)
    ends, run_ends = None, None
    if prediction.level is not None:
        ends = [float(prediction.low), float(prediction.high)]
        run_ends = [float(prediction.run_low), float(prediction.run_high)]
    return {
        "law": form.name,
        "formula": form.formula,
        "columns": {name: columns[name] for name in form.columns},
        "loss": float(prediction.loss),
        "loss_interval": ends,
        "run_interval": run_ends,
        "level": prediction.level,
        "inside": {name: bool(_inside(fit, name, columns[name])) for name in form.columns},
        "params": fit.params,
        "conventions": fit.runs.conventions,
        "warnings": warnings_of(fit),
    }


def format_loss(table: dict[str, Any]) -> str:
    """The text of a `loss_table`."""
    at = ", ".join(f"{name} {value:.6g}" for name, value in table["columns"].items())
    lines = [f"{table['law']} at {at}", f"loss  {table['loss']:.6g}"]
    if table["level"] is not None:
        loss, law = by_width(table["loss"], table["loss_interval"])
        _, run = by_width(table["loss"], table["run_interval"])
        lines[-1] = f"loss  {loss}  {percent(table['level'])} interval of the law {law}, of a single run {run}"
    outside = [name for name, inside in table["inside"].items() if not inside]
    lines += [f"note: {name} is outside the range of the fitted runs, where {FORM}" for name in outside]
    return "\n".join(lines + [f"note: {warning}" for warning in table["warnings"]])


def format_prediction(table: dict[str, Any]) -> str:
    """The text of a `predict_table`."""
    rows = [["", "value"] + ([f"{percent(table['level'])} interval"] if table["level"] else [])]
    for name, label in UNITS:
        row = [f"{table[name]:.6g}"]
        if table["level"]:
            row = [*by_width(table[name], table[f"{name}_interval"])]
        rows.append([label, *row])
    lines = [f"{table['law']} at {table['flops']:.4g} FLOPs, {table['times_largest_budget']:.3g}× the largest fitted"]
    lines += [*align(rows), f"FLOPs per token: {table['flops_per_token']}"]
    return "\n".join(lines + [f"note: {warning}" for warning in table["warnings"]])


def _inside(fitted: FittedLaw, name: str, value: float) -> bool:
    column = fitted.runs.column(name)
    return float(column.min()) <= value <= float(column.max())
