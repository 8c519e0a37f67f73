"""A fit of whole curves, and its predictions, as dictionaries for machines and as aligned text for people."""

from dataclasses import asdict
from typing import Any

import numpy as np

from scaling.laws.curves.fitted import FittedCurves, PredictedCurve
from scaling.laws.curves.laws import CURVE_LAWS
from scaling.laws.intervals.discrepancy import Discrepancy
from scaling.laws.text.fit import DRAWN, objective_line, parameter_rows, warnings_of
from scaling.text import align, percent


def curve_laws_table() -> list[dict[str, Any]]:
    """What `scaling fit --list --json` prints for the laws of whole curves, with the keys of `laws.laws_table`."""
    return [
        {
            "law": law.name,
            "formula": law.formula,
            "columns": ["η", *(["N"] if law.reads_N else [])],
            "records": {"η": "learning rate of every step", "loss": "eval_loss of every checkpoint"}
            | ({"N": "params_total"} if law.reads_N else {}),
            "params": [parameter.name for parameter in law.all_parameters()],
            "source": law.source,
        }
        for law in CURVE_LAWS.values()
    ]


def curve_table(fitted: FittedCurves, discrepancy: Discrepancy | None, level: float = 0.9) -> dict[str, Any]:
    """What `scaling fit --law multi_power --json` prints; discrepancy: None before any draws."""
    fit, residuals = fitted.fit, fitted.residuals()
    drawn = {name: list(fitted.interval(name, level)) for name in fitted.params} if fit.draws else {}
    return {
        "law": fitted.law.name,
        "formula": fitted.law.formula,
        "source": fitted.law.source,
        "params": fitted.params,
        "fixed": list(fit.fixed),
        "priors": {name: asdict(prior) for name, prior in fit.priors.items()},
        "intervals": drawn,
        "level": level if drawn else None,
        "bootstrap": None if fit.draws is None else {"kind": fit.draws.kind, "draws": len(fit.draws)},
        "objective": {"value": fit.objective, "residual": fit.residual, **fit.loss.to_dict()},
        "residual_sd": fit.residual_sd,
        "checkpoints": len(fit.runs),
        "data_hash": fit.runs.hash,
        "conventions": dict(fit.runs.conventions),
        "curves": [
            {
                "run": curve.run,
                "cluster": curve.cluster,
                "peak": curve.peak,
                "steps": len(curve.rates),
                "checkpoints": len(curve.steps),
                "final": float(curve.loss[-1]),
                "rms": float(np.sqrt(np.mean(residuals[curve.run] ** 2))),
            }
            for curve in fitted.curves
        ],
        "discrepancy": None if discrepancy is None else asdict(discrepancy),
        "warnings": [*warnings_of(fit), *_warnings(fitted, discrepancy)],
    }


def _warnings(fitted: FittedCurves, discrepancy: Discrepancy | None) -> list[str]:
    peaks = [curve.peak for curve in fitted.curves]
    clusters = {curve.cluster for curve in fitted.curves}
    peak = f"{min(peaks):g}" if np.ptp(peaks) < 1e-9 * max(peaks) else f"{min(peaks):g} to {max(peaks):g}"
    size = "" if fitted.law.reads_N else ", of this size"
    notes = [f"this law holds only for schedules with a peak rate of {peak}{size}, and this batch and data"]
    if discrepancy is not None:
        own = (
            f", changed by factor {discrepancy.widened:.2f} by {len(discrepancy.own)} own schedules, left out in turn"
        )
        notes.append(
            "these intervals assume that the form is right; that of a run under another schedule includes the form's "
            f"error, {discrepancy.kappa * discrepancy.widened:.3g} times the residual sd"
            + (own if discrepancy.own else " by published curves")
        )
        ends = {p.name: fitted.interval(p.name) for p in fitted.law.all_parameters() if p.kind == "positive"}
        if wide := [name for name, (low, high) in ends.items() if high > 10 * low and name not in fitted.fit.fixed]:
            notes.append(
                f"the curves do not determine {' and '.join(wide)} (an interval of more than a decade): forecasts of "
                "schedules unlike theirs depend on it; add a curve with a cooldown or an abrupt fall"
            )
    if len(clusters) < 4:
        notes.append(f"intervals rest on {len(clusters)} independent runs: the true uncertainty may be larger")
    return notes


def format_curve_table(table: dict[str, Any]) -> str:
    """The text of a `curve_table`."""
    lines = [
        f"{table['law']}: {table['formula']}",
        f"{len(table['curves'])} curves, {table['checkpoints']} checkpoints; data {table['data_hash']}",
        objective_line(table),
        "",
    ]
    lines += align(parameter_rows(table | {"derived": {}}))
    if table["bootstrap"]:
        kind = table["bootstrap"]["kind"]
        lines.append(f"intervals: {table['bootstrap']['draws']} draws, {DRAWN.get(kind, kind)}")
    lines.append(f"units: loss {table['conventions']['loss']}; rates by step of optimizer updates")
    curves = [["curve", "peak rate", "steps", "checkpoints", "last loss", "rms residual"]]
    curves += [
        [c["run"], f"{c['peak']:.3g}", str(c["steps"]), str(c["checkpoints"]), f"{c['final']:.4f}", f"{c['rms']:.2%}"]
        for c in table["curves"]
    ]
    return "\n".join([*lines, "", *align(curves), *(f"note: {warning}" for warning in table["warnings"])])


def predicted_curve_table(fit: FittedCurves, predicted: PredictedCurve) -> dict[str, Any]:
    """What `scaling predict FIT.json --schedule … --json` prints."""
    names = ("steps", "loss", "low", "high", "run_low", "run_high")
    points = {
        name: None if (part := getattr(predicted, name)) is None else np.asarray(part).tolist() for name in names
    }
    return {"law": fit.law.name, "level": predicted.level, **points, "notes": list(predicted.notes)}


def format_predicted_curve(table: dict[str, Any]) -> str:
    """The text of a `predicted_curve_table`: some of the steps, the last among them."""
    count = len(table["steps"])
    shown = sorted({round(i) for i in np.linspace(0, count - 1, min(count, 12))})
    rows = [["step", "loss", *([f"{percent(table['level'])} of the law", "of a single run"] if table["low"] else [])]]
    for i in shown:
        ends = [("low", "high"), ("run_low", "run_high")] if table["low"] else []
        intervals = [f"[{table[low][i]:.4f}, {table[high][i]:.4f}]" for low, high in ends]
        rows.append([str(table["steps"][i]), f"{table['loss'][i]:.4f}", *intervals])
    notes = [f"note: {note}" for note in table["notes"]]
    kinds = "; of the law if its form is right, of a single run with what the form is off by" if table["low"] else ""
    return "\n".join([f"by {table['law']}{kinds}", *align(rows), *notes])
