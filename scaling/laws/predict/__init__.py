"""What a law says of runs not made: forecasts that are frozen, models that will be used, costs."""

from scaling.laws.predict.capabilities import Capabilities, capabilities
from scaling.laws.predict.chain import Chain
from scaling.laws.predict.cost import chip_hours
from scaling.laws.predict.downstream import Benchmarks, benchmarks
from scaling.laws.predict.forecast import Forecast, Outcome, freeze, outcome, read_forecast
from scaling.laws.predict.forecaster import Forecaster
from scaling.laws.predict.inference import InferenceOptimum, inference_optimum
from scaling.laws.predict.mixture import MixtureLaw, mixture

__all__ = [
    "Benchmarks",
    "Capabilities",
    "Chain",
    "Forecast",
    "Forecaster",
    "InferenceOptimum",
    "MixtureLaw",
    "Outcome",
    "benchmarks",
    "capabilities",
    "chip_hours",
    "freeze",
    "inference_optimum",
    "mixture",
    "outcome",
    "read_forecast",
]
