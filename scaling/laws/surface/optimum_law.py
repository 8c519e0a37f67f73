"""Best learning rate and batch size as power laws of N and D, through the optima of points."""

from dataclasses import dataclass

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.intervals.interval import Interval, interval
from scaling.laws.isoflop.scatter import scatter_of

SAME_LINE = 0.99
"""correlation of ln N and ln D over the points beyond which their exponents cannot be separated"""


@dataclass(frozen=True, eq=False)
class OptimumLaw:
    """coefficient · N^a · D^b, and the scatter of the points' optima about it."""

    names: tuple[str, ...]
    """names of the exponents that the points determine"""
    values: Array
    """ln of the law at N₀, D₀, then the exponents"""
    draws: Array
    """[n, 1 + exponents]"""
    scatter: float
    """standard deviation of a point's ln optimum beyond its own error"""
    scatter_draws: Array
    """[n]"""

    def at(self, size: Array) -> float:
        """ln of the law at ln N/N₀, ln D/D₀ [2]."""
        return float(self.values @ self._row(size))

    def drawn(self, size: Array, rng: np.random.Generator) -> Array:
        """[n]: ln of the optimum of a new point, which scatters about the law."""
        shift = self.scatter_draws * rng.standard_normal(len(self.draws))
        return np.asarray(self.draws @ self._row(size) + shift)

    def exponents(self, level: float) -> dict[str, tuple[float, Interval]]:
        """Exponents by name, with intervals."""
        return {
            name: (float(self.values[1 + i]), interval(self.draws[:, 1 + i], level))
            for i, name in enumerate(self.names)
        }

    def _row(self, size: Array) -> Array:
        return np.array([1.0, *(size["ND".index(name)] for name in self.names)])


def determined(size: Array) -> tuple[str, ...]:
    """Which exponents the points [points, 2] determine: of N and D where they vary, of N alone if both rise
    together."""
    names = tuple(name for name, column in zip("ND", size.T, strict=True) if column.std() > 0.05)
    together = len(names) == 2 and abs(np.corrcoef(size[:, 0], size[:, 1])[0, 1]) > SAME_LINE
    return ("N",) if together else names


def optimum_law(y: Array, size: Array, rng: np.random.Generator) -> OptimumLaw | None:
    """The law through log optima y [1 + draws, points], the first row the estimate, by random-effects regression.

    None without at least two points more than unknowns, which estimating the scatter needs (`isoflop.scatter`).
    """
    names = determined(size)
    slopes = np.stack([np.ones(len(size)), *(size[:, "ND".index(name)] for name in names)], 1)
    if len(size) < slopes.shape[1] + 2:
        return None
    variance = y[1:].var(0)
    scatter = scatter_of(y[0], slopes, variance, len(y) - 1, rng)
    weights = 1 / (variance + scatter.sd**2 + 1e-12)
    solve = np.linalg.inv(slopes.T @ (weights[:, None] * slopes)) @ (slopes.T * weights)
    drawn = y[1:] + scatter.shifts(len(size), rng)
    return OptimumLaw(names, solve @ y[0], drawn @ solve.T, scatter.sd, scatter.drawn)
