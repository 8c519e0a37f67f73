"""A law of curves at its fitted parameters: what reports of a fit and predictions read."""

from dataclasses import dataclass

import numpy as np

from scaling.laws.arrays import Array, Labels
from scaling.laws.curves.curve import LossCurve
from scaling.laws.curves.laws import POINT, CurveLaw
from scaling.laws.fit import Fit
from scaling.laws.intervals.interval import Interval


@dataclass(frozen=True, eq=False)
class PredictedCurve:
    """The losses under a schedule, with two intervals: one for the law, and one for a single run's checkpoints.

    The first assumes that the form is right, the second includes the form's error (`CurveFit.discrepancy`). They are
    None before any draws.
    """

    steps: Labels
    loss: Array
    low: Array | None = None
    high: Array | None = None
    level: float | None = None
    run_low: Array | None = None
    run_high: Array | None = None
    notes: tuple[str, ...] = ()
    """where the schedule is outside the fitted range"""


@dataclass(frozen=True, eq=False)
class FittedCurves:
    """The law, the curves that it was fitted to, and the fit."""

    law: CurveLaw
    curves: tuple[LossCurve, ...]
    fit: Fit
    """the fit at the checkpoints; its rows are checkpoints, its runs are clusters of curves"""

    @property
    def params(self) -> dict[str, float]:
        """Parameters by name, in the units of the given learning rates and losses."""
        return self.fit.params

    def interval(self, name: str, level: float = 0.9) -> Interval:
        """Central interval of a parameter over the last draws."""
        return self.fit.interval(name, level)

    def residuals(self) -> dict[str, Array]:
        """log L̂ − log L at the checkpoints of each curve (L̂ − L for raw residuals), by its run's name."""
        rows = np.round(self.fit.runs.column(POINT)).astype(int) - 1
        ordered = np.empty(len(rows))
        ordered[rows] = self.fit.residuals
        ends = np.cumsum([len(curve.steps) for curve in self.curves])[:-1]
        return dict(zip([curve.run for curve in self.curves], np.split(ordered, ends), strict=True))
