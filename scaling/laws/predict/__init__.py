"""What a law says of runs not made: forecasts that are frozen, models that will be used, costs."""

from scaling.laws.predict.chain import Chain
from scaling.laws.predict.cost import chip_hours
from scaling.laws.predict.forecast import Forecast, Outcome, freeze, outcome, read_forecast
from scaling.laws.predict.forecaster import Forecaster
from scaling.laws.predict.inference import InferenceOptimum, inference_optimum

__all__ = [
    "Chain",
    "Forecast",
    "Forecaster",
    "InferenceOptimum",
    "Outcome",
    "chip_hours",
    "freeze",
    "inference_optimum",
    "outcome",
    "read_forecast",
]
