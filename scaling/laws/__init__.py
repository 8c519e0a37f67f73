"""Scaling laws: fit them to runs, ask them for optima and forecasts, with intervals."""

from scaling.laws.fit import Fit, fit, load
from scaling.laws.forms import FORMS, Form, Parameter, Power, get_form, power_law
from scaling.laws.forms.custom import form
from scaling.laws.forms.precision import precision_equivalent
from scaling.laws.forms.routed import dense_equivalent
from scaling.laws.intervals.covariance import Covariance
from scaling.laws.intervals.draws import Draws
from scaling.laws.intervals.identification import Identification
from scaling.laws.intervals.influence import Influence, influence
from scaling.laws.intervals.profile import Profile
from scaling.laws.intervals.sensitivity import Sensitivity, sensitivity
from scaling.laws.isoflop.analysis import Isoflop, isoflop
from scaling.laws.isoflop.envelope import Envelope, envelope
from scaling.laws.next_runs.suggestion import SuggestedRun, Suggestion, default_candidates, suggest
from scaling.laws.predict.chain import Chain
from scaling.laws.predict.cost import chip_hours
from scaling.laws.predict.forecast import Forecast, Forecaster, Outcome, freeze, outcome
from scaling.laws.predict.forecast import read as read_forecast
from scaling.laws.predict.inference import InferenceOptimum, inference_optimum
from scaling.laws.solve.objectives import Loss, huber, l1, l2, parse_loss, quantile, student_t
from scaling.laws.solve.priors import Prior
from scaling.laws.table.curves import cut_curves
from scaling.laws.table.results import from_results, read_again
from scaling.laws.table.runs import Runs, read_csv
from scaling.laws.text.tables import (
    fit_table,
    format_laws,
    format_loss,
    format_prediction,
    format_table,
    laws_table,
    loss_table,
    predict_table,
    try_isoflop,
)
from scaling.laws.validate.approaches import Approach, Approaches, approaches
from scaling.laws.validate.backtest import Backtest, backtest
from scaling.laws.validate.comparison import Comparison, compare

__all__ = [
    "FORMS",
    "Approach",
    "Approaches",
    "Backtest",
    "Chain",
    "Comparison",
    "Covariance",
    "Draws",
    "Envelope",
    "Fit",
    "Forecast",
    "Forecaster",
    "Form",
    "Identification",
    "InferenceOptimum",
    "Influence",
    "Isoflop",
    "Loss",
    "Outcome",
    "Parameter",
    "Power",
    "Prior",
    "Profile",
    "Runs",
    "Sensitivity",
    "SuggestedRun",
    "Suggestion",
    "approaches",
    "backtest",
    "chip_hours",
    "compare",
    "cut_curves",
    "default_candidates",
    "dense_equivalent",
    "envelope",
    "fit",
    "fit_table",
    "form",
    "format_laws",
    "format_loss",
    "format_prediction",
    "format_table",
    "freeze",
    "from_results",
    "get_form",
    "huber",
    "inference_optimum",
    "influence",
    "isoflop",
    "l1",
    "l2",
    "laws_table",
    "load",
    "loss_table",
    "outcome",
    "parse_loss",
    "power_law",
    "precision_equivalent",
    "predict_table",
    "quantile",
    "read_again",
    "read_csv",
    "read_forecast",
    "sensitivity",
    "student_t",
    "suggest",
    "try_isoflop",
]
