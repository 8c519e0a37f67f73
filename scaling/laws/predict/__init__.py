"""Predictions for runs that have not been trained: frozen forecasts, models chosen for their use, costs."""

from scaling.laws.predict.capabilities import Capabilities, capabilities
from scaling.laws.predict.chain import Chain
from scaling.laws.predict.context import BestContext, ContextWorth, best_context, context_worth
from scaling.laws.predict.cost import chip_hours
from scaling.laws.predict.downstream import Benchmarks, benchmarks
from scaling.laws.predict.experts import (
    BestMixture,
    DenseWorth,
    best_granularity,
    best_sparsity,
    compute_saving,
    dense_worth,
)
from scaling.laws.predict.forecast import Forecast, Outcome, freeze, outcome, read_forecast
from scaling.laws.predict.forecaster import Forecaster
from scaling.laws.predict.inference import InferenceOptimum, inference_optimum
from scaling.laws.predict.leverage import with_leverage
from scaling.laws.predict.mixture import MixtureLaw, mixture

__all__ = [
    "Benchmarks",
    "BestContext",
    "BestMixture",
    "Capabilities",
    "Chain",
    "ContextWorth",
    "DenseWorth",
    "Forecast",
    "Forecaster",
    "InferenceOptimum",
    "MixtureLaw",
    "Outcome",
    "benchmarks",
    "best_context",
    "best_granularity",
    "best_sparsity",
    "capabilities",
    "chip_hours",
    "compute_saving",
    "context_worth",
    "dense_worth",
    "freeze",
    "inference_optimum",
    "mixture",
    "outcome",
    "read_forecast",
    "with_leverage",
]
