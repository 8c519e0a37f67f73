"""A forecast for a run that has not been trained: frozen in a file, and later compared with the outcome.

`laws.predict.forecaster` makes it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.files import path_of, read_json, reading
from scaling.result import write_text_atomically
from scaling.strict_json import finite, to_json
from scaling.text import percent


@dataclass(frozen=True)
class Forecast:
    """The loss that a single run is predicted to reach, with the interval for that run (not only for the law)."""

    date: str
    """UTC, when it was made"""
    flops: float
    """exact training FLOPs of the run"""
    N: float
    D: float
    loss: float
    """same unit as the losses fitted"""
    low: float
    high: float
    level: float
    """probability that the run's loss lies between low and high"""
    law: str
    """name of the law, or of the one with the largest weight"""
    params: dict[str, float]
    """its parameters"""
    spread: dict[str, float]
    """relative standard deviations: "law" (error of its parameters), "run" (a single run's scatter), "discrepancy"
    (error of the law's form at this distance beyond the runs), "models" (between laws, where there are several)"""
    notes: tuple[str, ...]
    """how it was made, and caveats"""
    exponent: float
    """the law's exponent a of N* ∝ C^a at that budget"""
    runs: int
    data_hash: str
    conventions: dict[str, str]
    hash: str = ""
    """SHA-256 of all other fields"""
    laws: dict[str, float] = field(default_factory=dict)
    """weight of each law in the forecast"""
    counted: dict[str, float] = field(default_factory=dict)
    """how much each run counted in the fit, between 0 and 1, by the row's label"""
    recipe: dict[str, Any] = field(default_factory=dict)
    """what was fitted and why, the discrepancy and where it was learned, and the record on published runs"""
    doubt: str = ""
    """evidence in the runs themselves against the law, empty where there is none"""

    def sealed(self) -> "Forecast":
        """A copy with its hash filled in."""
        return replace(self, hash=self.digest())

    def digest(self) -> str:
        """SHA-256 of the contents, 64 hexadecimal digits."""
        return _digest(asdict(self), leave_out=("hash",))

    def text(self) -> str:
        """The forecast in one line."""
        return (
            f"N {self.N:.4g}, D {self.D:.4g}, {self.flops:.3g} FLOPs: loss {self.loss:.4f} "
            f"[{self.low:.4f}, {self.high:.4f}] at {percent(self.level)}"
        )


@dataclass(frozen=True)
class Outcome:
    """A forecast compared with the run, or runs, that tested it."""

    forecast_hash: str
    predicted: float
    low: float
    high: float
    level: float
    losses: dict[str, float]
    """by run"""
    errors: dict[str, float]
    """predicted / actual − 1"""
    inside: dict[str, bool]
    """whether each run's loss lies in the interval"""

    @property
    def mean_error(self) -> float:
        """Mean of the relative errors."""
        return float(np.mean(list(self.errors.values())))


def outcome(forecast: Forecast, losses: Mapping[str, float]) -> Outcome:
    """Compare the forecast with the losses of the test runs, by name. Raises UserError where there are none."""
    losses = dict(losses)
    if not losses:
        raise UserError("no test run has finished, so there is no outcome to compare the forecast with")
    return Outcome(
        forecast_hash=forecast.hash,
        predicted=forecast.loss,
        low=forecast.low,
        high=forecast.high,
        level=forecast.level,
        losses=losses,
        errors={name: forecast.loss / loss - 1.0 for name, loss in losses.items()},
        inside={name: bool(forecast.low <= loss <= forecast.high) for name, loss in losses.items()},
    )


def freeze(forecast: Forecast, path: str | Path) -> Forecast:
    """Write the forecast once, read-only; returns what is on file.

    A file that already holds the same forecast stays, with its own date.
    Raises UserError where it holds another one, since a forecast is never edited, and for numbers that are not
    finite.
    """
    path = path_of(path)
    if finite(asdict(forecast)) != asdict(forecast):
        raise UserError(f"the forecast has numbers that are not finite ({forecast.text()}); add runs")
    if path.exists():
        old = read_forecast(path)
        if _digest(asdict(old), ("hash", "date")) != _digest(asdict(forecast), ("hash", "date")):
            raise UserError(
                f"{path} holds another forecast, frozen {old.date} ({old.text()}); a forecast is never edited: "
                "give the sweep another name"
            )
        return old
    write_text_atomically(path, to_json(asdict(forecast.sealed()), ascii_only=False))
    os.chmod(path, 0o444)
    return read_forecast(path)


def read_forecast(path: str | Path) -> Forecast:
    """Read a frozen forecast. Raises UserError where the file is not one, or was edited since it was frozen."""
    path = path_of(path)
    try:
        with reading(path, "a forecast", "put it back from a backup"):
            values = read_json(path)
            forecast = Forecast(**{**values, "notes": tuple(values["notes"])})
            digest = _digest(values, leave_out=("hash",))  # of the file's own entries: older files have fewer
    except FileNotFoundError:
        raise UserError(f"no forecast {path}") from None
    if digest != forecast.hash:
        raise UserError(
            f"{path} was edited after it was frozen on {forecast.date}: its contents do not give its hash"
        )
    return forecast


def _digest(values: dict[str, Any], leave_out: tuple[str, ...]) -> str:
    kept = {key: value for key, value in values.items() if key not in leave_out}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
