"""How much steeper a budget's curve is on one side of its minimum than on the other.

Under L = E + A/N^α + B/D^β a budget is E + a·e^(−αn) + b·e^(βn) in n = log N, whose third derivative at the minimum
is β − α times the second; so is that of log L. A parabola has no third derivative, and is pulled to one side on a
wide grid. The curve with that skew δ and nothing else is c0 + c1·n + c2·g(n), g = 2(e^(δn) − 1 − δn)/δ². Its family
does not depend on the centre, it becomes the parabola without skew, and the remainder of log L is of fourth order and
symmetric: a twelfth of αβ·(1 − 3(1 − E/L)), which is zero where E is two thirds of the loss.

δ is not known, and the few runs of most grids hardly determine it: minima are drawn over its posterior, given the
prior `SKEW` and the runs. All budgets have one δ, as they have one α and β. experiments/isoflop_coverage measures the
coverage of the resulting intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.arrays import Array

SKEW = 0.2
"""standard deviation of β − α before the runs are seen: published laws have 0 (Muennighoff et al. 2023, Gadre et al.
2024), .02 to .06 (Hoffmann et al. 2022, Besiroglu et al. 2024, MiniCPM), .2 (Hernandez et al. 2021)"""
WIDEST = 0.8
"""largest skew considered"""
NODES = 41
"""number of values of δ that represent its posterior"""
NEGLIGIBLE = 1e-5
"""probability, relative to the likeliest δ, below which a δ is left out"""
FURTHEST = 7.0
"""distance in log N from the middle of the sizes beyond which a minimum is meaningless"""


@dataclass(frozen=True, eq=False)
class Shape:
    """log L = c0 + c1·n + c2·g(n) of one budget, n = log N − center; beside a spline, the parabola of its runs."""

    center: float
    coefficients: Array
    skew: float = 0.0
    spline: Any = None
    """log N -> log L: the curve itself"""

    def __call__(self, log_N: Array) -> Array:
        """The curve's log L."""
        if self.spline is not None:
            return np.asarray(self.spline(log_N))
        n, (level, slope, bend) = log_N - self.center, self.coefficients
        return np.asarray(level + slope * n + bend * skewed_square(n, self.skew))


@dataclass(frozen=True, eq=False)
class Skews:
    """Values of δ and their probabilities."""

    values: Array
    share: Array

    @property
    def mean(self) -> float:
        """The mean of δ, its estimate."""
        return float(self.share @ self.values)

    @property
    def sd(self) -> float:
        """The standard deviation of δ."""
        return float(np.sqrt(self.share @ (self.values - self.mean) ** 2))


STRAIGHT = Skews(np.zeros(1), np.ones(1))
"""parabolas"""


def likely_skews(minus_log_likelihood: Callable[[Array], Array]) -> Skews:
    """The posterior of δ on `NODES` nodes, whose range shrinks from the largest considered until half of the nodes
    have a probability that matters.

    minus_log_likelihood: of many δ.
    """
    low, high = -WIDEST, WIDEST
    while True:
        values = np.linspace(low, high, NODES)
        cost = minus_log_likelihood(values) + (values / SKEW) ** 2 / 2
        share = np.exp(cost.min() - cost)
        matter = np.flatnonzero(share > NEGLIGIBLE)
        if len(matter) > NODES // 2 or high - low < 1e-9:
            return Skews(values, share / share.sum())
        low, high = values[max(matter[0] - 1, 0)], values[min(matter[-1] + 1, NODES - 1)]


def skewed_square(n: Array, skew: Array | float) -> Array:
    """g of n = log N − centre, n² where there is no skew."""
    t = skew * n
    near = np.abs(t) < 1e-3  # the closed form loses digits there
    safe = np.where(near, 1.0, t)
    return np.asarray(n**2 * np.where(near, 1 + t / 3 + t**2 / 12, 2 * (np.expm1(safe) - safe) / safe**2))


def lowest(center: Array, c: NDArray[Any], skew: Array | float) -> tuple[Array, Array]:
    """log N* and log L* of curves c [..., budgets, 3] with skew [..., 1]; without a minimum ±∞, on the side where the
    curve falls, and NaN; both NaN where it does not fall."""
    convex = c[..., 2] > 0
    slope = -c[..., 1] / (2 * np.where(convex, c[..., 2], 1.0))
    t = skew * slope
    near = np.abs(t) < 1e-8
    with np.errstate(divide="ignore", invalid="ignore"):
        n = slope * np.where(near, 1.0, np.log1p(t) / np.where(near, 1.0, t))
    found = convex & (t > -1) & (np.abs(n) < FURTHEST)
    n = np.where(found, n, 0.0)
    least = c[..., 0] + c[..., 1] * n + c[..., 2] * skewed_square(n, skew)
    with np.errstate(invalid="ignore"):
        away = -np.sign(c[..., 1]) * np.inf
    return np.where(found, center + n, away), np.where(found, least, np.nan)
