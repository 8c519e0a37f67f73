"""Scaling laws: fit them to runs, ask them for optima and forecasts, with intervals."""

from scaling.laws.approaches import Approach, Approaches, approaches
from scaling.laws.backtest import Backtest, backtest
from scaling.laws.chain import Chain
from scaling.laws.comparison import Comparison, compare
from scaling.laws.cost import chip_hours
from scaling.laws.covariance import Covariance
from scaling.laws.curves import cut_curves
from scaling.laws.envelope import Envelope, envelope
from scaling.laws.fit import Fit, fit, load
from scaling.laws.forecast import Forecast, Forecaster, Outcome, freeze, outcome
from scaling.laws.forecast import read as read_forecast
from scaling.laws.forms import FORMS, Form, Parameter, Power, power_law
from scaling.laws.forms.custom import form
from scaling.laws.forms.precision import precision_equivalent
from scaling.laws.forms.routed import dense_equivalent
from scaling.laws.identify import Identification
from scaling.laws.inference import InferenceOptimum, inference_optimum
from scaling.laws.influence import Influence, influence
from scaling.laws.isoflop import Isoflop, isoflop
from scaling.laws.objectives import Loss, huber, l1, l2, parse_loss, quantile, student_t
from scaling.laws.priors import Prior
from scaling.laws.profile import Profile
from scaling.laws.results import from_results
from scaling.laws.runs import Runs, read_csv
from scaling.laws.sensitivity import Sensitivity, sensitivity
from scaling.laws.suggestion import SuggestedRun, Suggestion, default_candidates, suggest
from scaling.laws.table import (
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
from scaling.laws.uncertainty import Draws

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
    "read_csv",
    "read_forecast",
    "sensitivity",
    "student_t",
    "suggest",
    "try_isoflop",
]
