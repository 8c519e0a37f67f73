"""Laws of whole loss curves: the loss at every step of a run, as a function of the learning-rate schedule.

    curve.py     a run's learning rates and held-out losses
    reading.py   curves from a CSV
    trace.py     what a law reads of a schedule at a step
    laws.py      the laws: annealing, annealing_N, multi_power
    fitted.py    a fitted law and its residuals; text.py: as tables
    fit.py       `fit_curves` and `CurveFit`, which predicts the curve of another schedule
    discrepancy.py  how far off a law is under schedules that it was not fitted to; learned.json: on published curves
    held_out.py  errors at curves that were not fitted

A law of curves is fitted like any other: its `Form` is built for the given schedules.
"""

from scaling.laws.curves.curve import LossCurve
from scaling.laws.curves.fit import CurveFit, fit_curves, load_curve_fit
from scaling.laws.curves.fitted import PredictedCurve
from scaling.laws.curves.held_out import HeldOutCurve, hold_out_curves
from scaling.laws.curves.laws import CURVE_LAWS, CurveLaw
from scaling.laws.curves.reading import read_curves
from scaling.laws.curves.text import (
    curve_laws_table,
    format_predicted_curve,
    predicted_curve_table,
)

__all__ = [
    "CURVE_LAWS",
    "CurveFit",
    "CurveLaw",
    "HeldOutCurve",
    "LossCurve",
    "PredictedCurve",
    "curve_laws_table",
    "fit_curves",
    "format_predicted_curve",
    "hold_out_curves",
    "load_curve_fit",
    "predicted_curve_table",
    "read_curves",
]
