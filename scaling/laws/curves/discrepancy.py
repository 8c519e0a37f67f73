"""How far off a law of curves is under schedules that it was not fitted to; see `laws.intervals.discrepancy`.

The form's error is expressed in units of the fit's own residuals: a law that is off by s where it was fitted is off
by κ·s under another schedule, and by √(1 + ln(t/t_last)) times as much beyond the last fitted step. κ is learned on
published curves (experiments/curves; `learned.json` lists them) and updated with the curves' own schedules, each
predicted by a fit of the others.
"""

from collections.abc import Sequence

import numpy as np

from scaling.laws.arrays import Array, Labels
from scaling.laws.curves.curve import LossCurve
from scaling.laws.intervals.discrepancy import Learned, shipped

SAME = 1e-3
"""share of the peak: rates closer than this belong to the same schedule"""
ONE_SIGMA = 0.6827


def learned() -> Learned:
    """The discrepancies that ship with the package."""
    return shipped("scaling.laws.curves")


def ahead(fitted: Sequence[LossCurve], schedule: LossCurve) -> Array:
    """How far the schedule's checkpoints [points] are from those of the fitted curves, as `Errors.ahead` measures it.

    1 where the schedule up to there was fitted; else e, times the factor by which the step is beyond the last fitted.
    """
    last = max(int(curve.steps[-1]) for curve in fitted)
    known = max(_together(curve, schedule) for curve in fitted)
    return np.where(schedule.steps <= known, 1.0, np.e * np.maximum(schedule.steps / last, 1.0))


def _together(curve: LossCurve, schedule: LossCurve) -> int:
    """The step up to which a schedule agrees with that of a curve, at most its last checkpoint."""
    end = min(int(curve.steps[-1]), len(schedule.rates))
    apart = np.flatnonzero(np.abs(curve.rates[:end] - schedule.rates[:end]) > SAME * curve.peak)
    return int(apart[0]) if len(apart) else end


def schedules(curves: Sequence[LossCurve]) -> Labels:
    """Number of each curve's schedule; schedules are the same if their rates agree at all checkpoints' steps."""
    found: list[LossCurve] = []
    labels = []
    for curve in curves:
        same = [i for i, other in enumerate(found) if _same(other, curve)]
        labels.append(same[0] if same else len(found))
        found += [] if same else [curve]
    return np.array(labels, np.int64)


def _same(one: LossCurve, other: LossCurve) -> bool:
    ends = int(one.steps[-1]), int(other.steps[-1])
    return ends[0] == ends[1] and _together(one, other) == ends[0]
