"""Power laws of N*, D* and L* in training FLOPs, through the optima of several budgets."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.forms import Form, power_law
from scaling.laws.intervals.interval import Interval, interval
from scaling.laws.solve.objectives import l2
from scaling.laws.solve.problem import Problem
from scaling.laws.solve.solver import solve
from scaling.text import range_of


@dataclass(frozen=True, eq=False)
class FittedPowerLaw:
    """offset + coefficient · (C / unit)^exponent."""

    coefficient: float
    exponent: float
    exponent_interval: Interval
    unit: float
    """FLOPs"""
    offset: float = 0.0
    draws: Array | None = None
    """[n, 3]: offset, coefficient, exponent"""

    def __call__(self, C: float) -> float:
        """The value at C FLOPs."""
        return float(self.offset + self.coefficient * (C / self.unit) ** self.exponent)

    def drawn(self, C: float) -> Array:
        """The value at C FLOPs by each draw."""
        assert self.draws is not None
        return self.draws[:, 0] + self.draws[:, 1] * (C / self.unit) ** self.draws[:, 2]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws as JSON values."""
        return {
            "coefficient": self.coefficient,
            "unit": self.unit,
            "exponent": self.exponent,
            "exponent_interval": list(self.exponent_interval),
            "offset": self.offset,
        }


def power_law_line(name: str, law: dict[str, Any]) -> str:
    """A line with the law that `name` follows; law: from `FittedPowerLaw.to_dict`."""
    offset = f"{law['offset']:.4g} + " if law["offset"] else ""
    return (
        f"{name} = {offset}{law['coefficient']:.4g} · (C/{law['unit']:.3g})^{law['exponent']:.4f}, "
        f"exponent {range_of(law['exponent_interval'])}"
    )


def straight_law(C: Array, y: Array, weights: Array, level: float) -> FittedPowerLaw:
    """A straight line through log values y [1 + draws, points], the first row of them the estimate.

    NaN marks a point that a draw does not have; its line omits it. Draws with fewer than two points are left out.
    """
    unit = float(np.exp(np.log(C).mean()))
    c = np.log(C / unit)
    there = np.isfinite(y)
    enough = there.sum(1) >= 2
    y, there = y[enough], there[enough]
    w = weights * there
    y = np.where(there, y, 0.0)
    total = w.sum(1)
    c_mean, y_mean = w @ c / total, (w * y).sum(1) / total
    apart = c - c_mean[:, None]
    slope = (w * y * apart).sum(1) / (w * apart**2).sum(1)
    at_unit = np.exp(y_mean - slope * c_mean)
    draws = np.stack([np.zeros(len(y) - 1), at_unit[1:], slope[1:]], 1)
    return FittedPowerLaw(float(at_unit[0]), float(slope[0]), interval(slope[1:], level), unit, 0.0, draws)


def straight_slopes(C: Array) -> Array:
    """[points, unknowns]: derivatives of the log values of a straight law by its unknowns."""
    return np.stack([np.ones(len(C)), np.log(C) - np.log(C).mean()], 1)


def offset_slopes(law: FittedPowerLaw, C: Array) -> Array:
    """[points, unknowns]: derivatives of the log values of a law with an offset by its unknowns."""
    power = (C / law.unit) ** law.exponent
    total = law.offset + law.coefficient * power
    return np.stack([1 / total, power / total, law.coefficient * power * np.log(C / law.unit) / total], 1)


def offset_law(C: Array, y: Array, weights: Array, level: float) -> FittedPowerLaw:
    """L* = E + K·(C/unit)^−γ through log L* [1 + draws, points], least squares in log.

    NaN as in `straight_law`; draws with fewer than four points are left out.
    """
    there = np.isfinite(y)
    enough = there.sum(1) >= 4
    y, there = y[enough], there[enough]
    y = np.where(there, y, y[0])
    form = _saturating()
    units = form.log_units([C])
    x = np.log(C)[None] - units[:, None]
    problem = Problem(form, l2(), "log", units, x, y[0], weights, {})
    first = solve(problem, form.theta(form.starts(x, np.exp(y[0]), 32), np.zeros(1)))
    starts = np.broadcast_to(first.theta[int(first.total.argmin())], (len(y), 3))
    theta = solve(problem, starts, y, weights * there, tolerance=1e-10).theta
    values = np.stack([np.exp(theta[:, 0]), np.exp(theta[:, 1]), -theta[:, 2]], 1)
    E, K, exponent = (float(v) for v in values[0])
    return FittedPowerLaw(K, exponent, interval(values[1:, 2], level), float(np.exp(units[0])), E, values[1:])


@cache
def _saturating() -> Form:
    """The form; a single object, so that the solver compiles its program once."""
    return power_law("C", offset=True)
