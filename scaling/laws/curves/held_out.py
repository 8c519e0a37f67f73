"""How far off a law is at curves that it was not fitted to."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.curves.curve import LossCurve
from scaling.laws.curves.fit import CurveFit, fit_curves
from scaling.laws.curves.reading import AnyCurves, as_curves


@dataclass(frozen=True)
class HeldOutCurve:
    """Forecast and outcome of one curve; relative errors are forecast over outcome less 1."""

    run: str
    final: float
    """the loss at its last checkpoint"""
    forecast: float
    """the forecast of that loss"""
    error: float
    """relative error of that forecast"""
    mean_error: float
    """mean absolute error over all checkpoints"""
    inside: bool | None
    """whether the last loss lies in a single run's interval; None before any draws"""
    width: float | None
    """width of that interval: log of its upper over its lower end"""


def hold_out_curves(
    curves: AnyCurves, fit: CurveFit | None = None, level: float = 0.9, **options: Any
) -> list[HeldOutCurve]:
    """Forecasts of curves, each from its schedule alone, compared with their outcomes.

    fit: the fit that predicts them all. None: each cluster of runs is predicted by a fit of all the others, with
    `options` as in `fit_curves`.
    Raises UserError for fewer than two clusters without `fit`.
    """
    curves = as_curves(curves)
    if fit is not None:
        return [_held_out(fit, curve, level) for curve in curves]
    clusters = dict.fromkeys(curve.cluster for curve in curves)
    if len(clusters) < 2:
        raise UserError("hold_out_curves needs two runs or more that are independent, or a fit of other curves")
    found = []
    for cluster in clusters:
        others = fit_curves([curve for curve in curves if curve.cluster != cluster], **options)
        found += [_held_out(others, curve, level) for curve in curves if curve.cluster == cluster]
    return found


def _held_out(fitted: CurveFit, curve: LossCurve, level: float) -> HeldOutCurve:
    seen = curve.after(curve.warmup + 1)
    predicted = fitted.predict(curve.rates, seen.steps, curve.N, level)
    errors = predicted.loss / seen.loss - 1
    final, inside, width = float(seen.loss[-1]), None, None
    if predicted.run_low is not None and predicted.run_high is not None:
        inside = bool(predicted.run_low[-1] <= final <= predicted.run_high[-1])
        width = float(np.log(predicted.run_high[-1] / predicted.run_low[-1]))
    mean_error = float(np.abs(errors).mean())
    return HeldOutCurve(curve.run, final, float(predicted.loss[-1]), float(errors[-1]), mean_error, inside, width)
