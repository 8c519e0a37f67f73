"""Parabolas of log L in log N, one for each budget, fitted together (Hoffmann et al. 2022, approach 2).

The budgets share one curvature unless told otherwise: under a Chinchilla law it changes slowly with C, and five
points with half a percent of noise do not determine it alone.

The scatter of the points around the parabolas, pooled over the budgets, is the noise; a linear least-squares fit with
that noise has a known distribution (Student's t through a drawn noise level), and every interval comes from draws of
it. With five sizes at three budgets a resampling of rows would lose the shape of a parabola in most draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.runs import Runs

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Parabolas:
    """The parabolas of all budgets."""

    centers: Array
    """[budgets], log N"""
    coefficients: NDArray[Any]
    """[budgets, 3]: log L = c0 + c1·n + c2·n², n = log N − center"""
    convex: NDArray[np.bool_]
    """[budgets]: by the common curvature, and by a parabola fitted to that budget alone"""
    flat: NDArray[Any]
    """[unknowns], all coefficients, shared ones once"""
    where: NDArray[np.int64]
    """[budgets, 3], positions of the coefficients in `flat`"""
    root: NDArray[Any]
    """[unknowns, unknowns], of the covariance at unit noise: root rootᵀ"""
    noise_sd: float
    freedom: int

    @property
    def min_spread(self) -> Array:
        """[budgets]: none, for a parabola's own spread is all there is."""
        return np.zeros(len(self.centers))

    def shape(self, i: int) -> tuple[float, Array, None]:
        """Centre and coefficients of the parabola of budget i; there is no spline."""
        return float(self.centers[i]), self.coefficients[i], None

    def minima(self, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """log N* and log L*, each [1 + count, budgets]: the estimate, then draws of what it could have been.

        Without a minimum log N* is ±∞, whichever way the curve falls, and log L* NaN.
        """
        sd = self.noise_sd * np.sqrt(self.freedom / rng.chisquare(self.freedom, (count, 1)))
        drawn = (self.flat + sd * (rng.standard_normal((count, len(self.flat))) @ self.root.T))[:, self.where]
        return _vertex(self.centers, np.concatenate([self.coefficients[None], drawn]))


def fit_parabolas(runs: Runs, groups: Sequence[NDArray[np.int64]], shared: bool) -> Parabolas:
    """Parabolas through the rows of each group, weighted by 1/σ² where the runs have σ.

    shared: whether all have the same curvature. Raises UserError where nothing is left to estimate the noise from.
    """
    rows = np.concatenate(list(groups))
    group = np.repeat(np.arange(len(groups)), [len(members) for members in groups])
    root_weight = np.ones(len(rows))
    if runs.sigma is not None:
        relative = (runs.sigma / runs.loss)[rows]
        root_weight = np.median(relative) / relative
    y = np.log(runs.loss[rows]) * root_weight
    logs = np.log(runs.N)
    centers = np.array([logs[members].mean() for members in groups])
    n = logs[rows] - centers[group]
    powers = np.stack([np.ones(len(n)), n, n**2], 1) * root_weight[:, None]
    index = np.arange(len(groups))
    where = np.stack([index, len(groups) + index, 2 * len(groups) + (0 if shared else 1) * index], 1)
    basis = np.zeros((len(rows), int(where.max()) + 1))
    for power in range(3):
        basis[np.arange(len(rows)), where[group, power]] = powers[:, power]
    freedom = len(rows) - basis.shape[1]
    if freedom < 1:
        raise UserError(
            f"isoflop: {len(rows)} runs determine {basis.shape[1]} coefficients and leave the noise unknown; "
            "add a size at each budget"
        )
    flat = np.linalg.lstsq(basis, y, rcond=None)[0]
    noise = float(np.sqrt(np.sum((y - basis @ flat) ** 2) / freedom))
    own = np.array([np.linalg.lstsq(powers[group == i], y[group == i], rcond=None)[0][2] for i in index])
    convex = (own > 0) & (flat[where[:, 2]] > 0)
    root = np.linalg.cholesky(np.linalg.inv(basis.T @ basis))
    return Parabolas(centers, flat[where], convex, flat, where, root, noise, freedom)


def _vertex(center: Array, c: Array) -> tuple[Array, Array]:
    """log N* and log L* of parabolas [..., 3]; one a factor of e⁷ and more away, where no parabola means anything,
    is no minimum."""
    convex = (c[..., 2] > 0) & (np.abs(c[..., 1]) < 14 * np.abs(c[..., 2]))
    bend = np.where(convex, c[..., 2], 1.0)
    where = np.where(convex, center - c[..., 1] / (2 * bend), -np.sign(c[..., 1]) * np.inf)
    return where, np.where(convex, c[..., 0] - c[..., 1] ** 2 / (4 * bend), np.nan)
