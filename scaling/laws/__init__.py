"""Scaling laws: fit them to runs, and get optima and forecasts with intervals.

Layers, from the bottom up; a file imports from its own folder and from those above it in this list only:

    forms          the laws: parameters, starting points, registry
    table          the runs that laws are fitted to
    solve          objective, solver and search; `FittedLaw`, the value that everything below works on
    quantities.py  quantities derived from the parameters: exponents, N*, D*, L*
    intervals      uncertainty of the parameters and of derived quantities
    isoflop        minima at budgets and the power laws through them
    surface        the loss around the best learning rate and batch size
    text           fits and predictions as dictionaries and text
    fit.py         `fit` and `Fit`, a FittedLaw with all of the above as methods
    designed.py    the law of a sweep's runs, fitted the same way for every caller
    curves         laws of whole loss curves: every checkpoint, under any learning-rate schedule
    predict        forecasts, models chosen for their use, costs
    validate       backtests, comparisons of laws and of approaches
    next_runs      which runs to train next
"""

from scaling.laws.curves import (
    CURVE_LAWS,
    CurveFit,
    CurveLaw,
    HeldOutCurve,
    LossCurve,
    PredictedCurve,
    curve_laws_table,
    fit_curves,
    format_predicted_curve,
    hold_out_curves,
    load_curve_fit,
    predicted_curve_table,
    read_curves,
)
from scaling.laws.designed import fit_design
from scaling.laws.fit import Fit, fit, load
from scaling.laws.forms import (
    FORMS,
    Form,
    Parameter,
    Power,
    dense_equivalent,
    form,
    get_form,
    power_law,
    precision_equivalent,
)
from scaling.laws.intervals import Covariance, Identification, Influence, Profile, Sensitivity, influence, sensitivity
from scaling.laws.isoflop import Envelope, Isoflop, envelope, isoflop, try_isoflop
from scaling.laws.next_runs import SuggestedRun, Suggestion, default_candidates, suggest
from scaling.laws.predict import (
    Benchmarks,
    BestContext,
    BestMixture,
    Capabilities,
    Chain,
    ContextWorth,
    DenseWorth,
    Forecast,
    Forecaster,
    InferenceOptimum,
    MixtureLaw,
    Outcome,
    benchmarks,
    best_context,
    best_granularity,
    best_sparsity,
    capabilities,
    chip_hours,
    compute_saving,
    context_worth,
    dense_worth,
    freeze,
    inference_optimum,
    mixture,
    outcome,
    read_forecast,
    with_leverage,
)
from scaling.laws.read_again import read_again
from scaling.laws.records import from_results
from scaling.laws.solve import Draws, Loss, Prior, huber, l1, l2, parse_loss, quantile, student_t
from scaling.laws.surface import BestSetting, ResponseSurface, TunedPoint, response_surface
from scaling.laws.table import Runs, cut_curves, read_csv
from scaling.laws.text import (
    fit_table,
    format_laws,
    format_loss,
    format_prediction,
    format_table,
    laws_table,
    loss_table,
    predict_table,
)
from scaling.laws.validate import Approach, Approaches, Backtest, Comparison, approaches, backtest, compare

__all__ = [
    "CURVE_LAWS",
    "FORMS",
    "Approach",
    "Approaches",
    "Backtest",
    "Benchmarks",
    "BestContext",
    "BestMixture",
    "BestSetting",
    "Capabilities",
    "Chain",
    "Comparison",
    "ContextWorth",
    "Covariance",
    "CurveFit",
    "CurveLaw",
    "DenseWorth",
    "Draws",
    "Envelope",
    "Fit",
    "Forecast",
    "Forecaster",
    "Form",
    "HeldOutCurve",
    "Identification",
    "InferenceOptimum",
    "Influence",
    "Isoflop",
    "Loss",
    "LossCurve",
    "MixtureLaw",
    "Outcome",
    "Parameter",
    "Power",
    "PredictedCurve",
    "Prior",
    "Profile",
    "ResponseSurface",
    "Runs",
    "Sensitivity",
    "SuggestedRun",
    "Suggestion",
    "TunedPoint",
    "approaches",
    "backtest",
    "benchmarks",
    "best_context",
    "best_granularity",
    "best_sparsity",
    "capabilities",
    "chip_hours",
    "compare",
    "compute_saving",
    "context_worth",
    "curve_laws_table",
    "cut_curves",
    "default_candidates",
    "dense_equivalent",
    "dense_worth",
    "envelope",
    "fit",
    "fit_curves",
    "fit_design",
    "fit_table",
    "form",
    "format_laws",
    "format_loss",
    "format_predicted_curve",
    "format_prediction",
    "format_table",
    "freeze",
    "from_results",
    "get_form",
    "hold_out_curves",
    "huber",
    "inference_optimum",
    "influence",
    "isoflop",
    "l1",
    "l2",
    "laws_table",
    "load",
    "load_curve_fit",
    "loss_table",
    "mixture",
    "outcome",
    "parse_loss",
    "power_law",
    "precision_equivalent",
    "predict_table",
    "predicted_curve_table",
    "quantile",
    "read_again",
    "read_csv",
    "read_curves",
    "read_forecast",
    "response_surface",
    "sensitivity",
    "student_t",
    "suggest",
    "try_isoflop",
    "with_leverage",
]
