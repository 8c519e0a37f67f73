"""Akima splines of log L through the sizes of each budget, and their minima (Porian et al. 2024, 2406.19146).

A spline interpolates the losses, so that a wide grid of sizes does no harm, whereas a parabola is pulled away from
the minimum by the far ends. In return, nothing averages out the noise of a loss.

The noise is σ where the runs have it. Otherwise its variance is the mean square misfit of parabolas through four
neighbouring sizes, pooled over the budgets. The scatter around parabolas over the whole budget is not usable: on
Porian et al.'s own grids it is 2 to 10 times as large, because it is mostly misfit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.isoflop.skew import Shape
from scaling.laws.table.runs import Runs

SAME_SIZE = 0.01
"""sizes closer than this in log N are one point of the spline, at their mean: the slope between them is noise"""
MIN_SPREAD = 1 / 3
"""smallest spread of a minimum that power laws use, in mean distances between sizes (Porian et al. 2024): a minimum
that two sizes straddle can come out sharp by chance, which is no measure of how well it is known"""
NOISE = 4.0
"""standard errors by which a loss must deviate from a single valley before the curve counts as not convex"""


@dataclass(frozen=True, eq=False)
class Sizes:
    """The points of one budget's spline, in the order of log N."""

    n: Array
    """log N"""
    y: Array
    """log L, mean of the runs of this size"""
    sd: Array
    """standard deviations of y; without σ, in units of the noise of one run"""

    def spline(self, y: Array) -> Any:
        """The Akima spline through y [sizes, ...]; NaN outside the sizes."""
        from scipy.interpolate import Akima1DInterpolator

        return Akima1DInterpolator(self.n, y, axis=0)

    @property
    def parabola(self) -> Array:
        """Coefficients of the weighted least-squares parabola in log N − mean log N."""
        weights = 1 / np.maximum(self.sd, 1e-12)
        return np.polynomial.polynomial.polyfit(self.n - self.n.mean(), self.y, 2, w=weights)


@dataclass(frozen=True, eq=False)
class Splines:
    """The splines of all budgets."""

    sizes: tuple[Sizes, ...]
    """sd in units of log L"""
    convex: NDArray[np.bool_]
    """[budgets]: whether a parabola through all sizes opens upwards and a single valley fits every loss"""
    noise_sd: float
    """noise of one run's log L; with σ, its root mean square"""
    freedom: float
    """degrees of freedom of noise_sd; ∞ where σ is given"""

    @property
    def min_spread(self) -> Array:
        """[budgets], in log N: the smallest spread that the weights of power laws use."""
        return MIN_SPREAD * np.array([np.diff(sizes.n).mean() for sizes in self.sizes])

    def shape(self, i: int) -> Shape:
        """The spline of budget i, and the parabola fitted to that budget alone."""
        sizes = self.sizes[i]
        return Shape(float(sizes.n.mean()), sizes.parabola, spline=sizes.spline(sizes.y))

    def minima(self, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """log N* and log L*, each [1 + count, budgets]: the estimate, then those of the losses with fresh noise.

        Where the least loss is that of the smallest or largest size, log N* is −∞ or ∞ and log L* NaN.
        """
        scale = np.sqrt(self.freedom / rng.chisquare(self.freedom, count)) if np.isfinite(self.freedom) else 1.0
        found = []
        for sizes in self.sizes:
            noise = sizes.sd[:, None] * scale * rng.standard_normal((len(sizes.n), count))
            found.append(_lowest(sizes, np.concatenate([sizes.y[:, None], sizes.y[:, None] + noise], 1)))
        return np.stack([n for n, _ in found], 1), np.stack([y for _, y in found], 1)


def fit_splines(runs: Runs, groups: Sequence[NDArray[np.int64]]) -> Splines:
    """Splines through the rows of each group. Raises UserError where the noise is unknown."""
    sizes = [_sizes(runs, rows) for rows in groups]
    if runs.sigma is not None:
        rows = np.concatenate(list(groups))
        noise, freedom = float(np.sqrt(np.mean((runs.sigma / runs.loss)[rows] ** 2))), float("inf")
    else:
        noise, freedom = _noise(sizes)
        sizes = [Sizes(s.n, s.y, noise * s.sd) for s in sizes]
    return Splines(tuple(sizes), np.array([_convex(s) for s in sizes]), noise, freedom)


def _sizes(runs: Runs, rows: NDArray[np.int64]) -> Sizes:
    order = rows[np.argsort(runs.N[rows], kind="stable")]
    n, y = np.log(runs.N[order]), np.log(runs.loss[order])
    variance = np.ones(len(n)) if runs.sigma is None else (runs.sigma / runs.loss)[order] ** 2
    starts = [0]
    for i in range(1, len(n)):
        if n[i] > n[starts[-1]] + SAME_SIZE:
            starts.append(i)
    if len(starts) < 3:
        raise UserError(
            f"isoflop: at {runs.flops[rows].mean():.3g} FLOPs only {len(starts)} sizes differ by more than "
            f"{SAME_SIZE:.0%}; a spline needs three sizes: add some, or use method='parabola'"
        )
    total = np.add.reduceat(1 / variance, starts)
    n, y = (np.add.reduceat(values / variance, starts) / total for values in (n, y))
    return Sizes(n, y, 1 / np.sqrt(total))


def _noise(sizes: Sequence[Sizes]) -> tuple[float, float]:
    """Noise of log L, and its degrees of freedom, from the misfit of parabolas to every four neighbouring sizes.

    The misfits overlap and so are correlated; their mean square has the mean and variance of χ² with the degrees of
    freedom given back (Satterthwaite 1946).
    """
    squares, contrasts = [], []
    for s in sizes:
        rows = np.zeros((max(len(s.n) - 3, 0), len(s.n)))
        for i, row in enumerate(rows):
            four = s.n[i : i + 4]
            apart = four[:, None] - four[None]
            np.fill_diagonal(apart, 1.0)
            row[i : i + 4] = 1 / apart.prod(1)  # third divided difference: zero for every parabola
        rows /= np.linalg.norm(rows * s.sd, axis=1, keepdims=True)
        squares.append((rows @ s.y) ** 2)
        contrasts.append(rows * s.sd)
    mean_square = np.concatenate(squares)
    if not len(mean_square):
        raise UserError(
            "isoflop: no budget has four sizes, so a spline leaves the noise unknown; add a size, give sigma=, "
            "or use method='parabola'"
        )
    covariance = sum(float(np.sum((rows @ rows.T) ** 2)) for rows in contrasts)
    return float(np.sqrt(mean_square.mean())), len(mean_square) ** 2 / covariance


def _convex(sizes: Sizes) -> bool:
    if sizes.parabola[2] <= 0:
        return False
    lowest = int(sizes.y.argmin())
    for y, sd in (
        (sizes.y[: lowest + 1], sizes.sd[: lowest + 1]),
        (sizes.y[lowest:][::-1], sizes.sd[lowest:][::-1]),
    ):
        # No loss may exceed one further from the lowest point, beyond the noise.
        rise, error = y[None] - y[:, None], np.hypot(sd[None], sd[:, None])
        if (np.triu(rise - NOISE * error, 1) > 1e-12).any():
            return False
    return True


def _lowest(sizes: Sizes, y: Array) -> tuple[Array, Array]:
    """log N and log L [count] at the minima of splines through y [sizes, count], among the roots of their slopes."""
    c3, c2, c1, c0 = sizes.spline(y).c
    width = np.diff(sizes.n)[:, None]
    root = np.sqrt(np.maximum(c2**2 - 3 * c3 * c1, 0.0))
    # The minimum of a cubic is the stationary point where the slope grows: (−c2 + √…)/3c3, written without
    # cancellation for either sign of c2.
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(c2 > 0, -c1 / (c2 + root), (root - c2) / (3 * c3))
    slack = 1e-9 * width  # a minimum at a size itself must not fall between its two neighbours
    inside = (c2**2 > 3 * c3 * c1) & (t >= -slack) & (t <= width + slack)
    t = np.where(inside, t, 0.0)
    value = np.where(inside, ((c3 * t + c2) * t + c1) * t + c0, np.inf)
    best = value.argmin(0)[None]
    n = np.take_along_axis(sizes.n[:-1, None] + t, best, 0)[0]
    least = np.take_along_axis(value, best, 0)[0]
    at_end = np.minimum(y[0], y[-1]) <= least
    end = np.where(y[0] <= y[-1], -np.inf, np.inf)
    return np.where(at_end, end, n), np.where(at_end, np.nan, least)
