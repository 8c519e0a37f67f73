"""Least squares for the surface of several points at once: an optimum and level for each, and one common shape."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.arrays import Array
from scaling.laws.surface.basin import PRIOR_MEAN, PRIOR_SD, Basin

SHAPES = len(PRIOR_MEAN)
REACH = 3.0
"""prior standard deviation of an optimum about the best run, in log settings: a factor of 20"""
KNOWN_NOISE, KNOWN_RUNS = 0.002, 2.0
"""prior noise of log loss (runs that differ only in their seed differ by .1 to .3 %), and its degrees of freedom"""
ROUNDS, STEP = 6, 1e-5


@dataclass(frozen=True, eq=False)
class Settings:
    """Log settings and log losses of runs, grouped into points."""

    x: Array
    """[runs, dims]: ln lr, and ln batch where it is varied, over those of the point's best run"""
    y: Array
    """[runs]: ln loss"""
    size: Array
    """[runs, 2]: ln N/N₀, ln D/D₀"""
    point: NDArray[np.int64]
    """[runs]"""
    weights: Array
    """[runs]: a run's variance is σ²/weight"""

    @property
    def points(self) -> int:
        """Number of points."""
        return int(self.point.max()) + 1

    def centred(self, values: Array) -> Array:
        """[runs, …] less the weighted mean of each point, which is its level."""
        w = self.weights.reshape(-1, *(1,) * (values.ndim - 1))
        total = np.zeros((self.points, *values.shape[1:]))
        np.add.at(total, self.point, w * values)
        mass = np.bincount(self.point, self.weights).reshape(-1, *(1,) * (values.ndim - 1))
        return np.asarray(values - (total / mass)[self.point])


@dataclass(frozen=True, eq=False)
class Found:
    """The result of a search."""

    theta: Array
    """shape [6], then the optimum of each point [points·dims]"""
    covariance: Array
    noise: float
    """standard deviation of the log loss of a run near the optimum"""
    freedom: float

    def draws(self, n: int, rng: np.random.Generator) -> Array:
        """Draws [n, k] from Student's t about the estimate."""
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        wide = np.sqrt(self.freedom / rng.chisquare(self.freedom, n))
        return np.asarray(self.theta + (rng.standard_normal((n, len(self.theta))) @ root.T) * wide[:, None])


def search(runs: Settings) -> Found:
    """Levenberg–Marquardt; the noise is estimated together with the surface, so that priors get their proper
    weight."""
    dims = runs.x.shape[1]
    centre = np.concatenate([PRIOR_MEAN, np.zeros(runs.points * dims)])
    tight = 1 / np.concatenate([PRIOR_SD, np.full(runs.points * dims, REACH)])
    theta, noise = centre, KNOWN_NOISE
    for _ in range(ROUNDS):
        theta = _minimise(runs, theta, centre, noise * tight)
        r, J = _residuals(runs, theta), _slopes(runs, theta)
        data = J.T @ J
        inverse = np.linalg.inv(data + np.diag((noise * tight) ** 2))
        spent = runs.points + float(np.trace(inverse @ data))
        freedom = KNOWN_RUNS + max(len(r) - spent, 0.0)
        last, noise = noise, float(np.sqrt((KNOWN_RUNS * KNOWN_NOISE**2 + r @ r) / freedom))
        if abs(np.log(noise / last)) < 0.02:
            break
    inverse = np.linalg.inv(data + np.diag((noise * tight) ** 2))
    return Found(theta, np.asarray(noise**2 * inverse), noise, freedom)


def _minimise(runs: Settings, theta: Array, centre: Array, pull: Array) -> Array:
    """Least squares of the residuals and of the deviations from the priors."""
    from scipy.optimize import least_squares

    def residuals(at: Array) -> Array:
        return np.concatenate([_residuals(runs, at), pull * (at - centre)])

    def slopes(at: Array) -> Array:
        return np.concatenate([-_slopes(runs, at), np.diag(pull)])

    return np.asarray(least_squares(residuals, theta, slopes, method="lm", x_scale="jac", xtol=1e-10).x)


def _rise(runs: Settings, theta: Array, moved: Any = 0.0) -> Array:
    best = theta[SHAPES:].reshape(runs.points, -1)
    return Basin(theta[:SHAPES]).rise(runs.x - best[runs.point] - moved, runs.size)


def _residuals(runs: Settings, theta: Array) -> Array:
    return np.asarray(np.sqrt(runs.weights) * runs.centred(runs.y - _rise(runs, theta)))


def _slopes(runs: Settings, theta: Array) -> Array:
    """Derivatives [runs, k] of the rise, by central differences: an optimum affects only its own point's runs."""
    dims = runs.x.shape[1]
    J = np.zeros((len(runs.y), len(theta)))
    for i in range(SHAPES):
        step = np.zeros(len(theta))
        step[i] = STEP
        J[:, i] = (_rise(runs, theta + step) - _rise(runs, theta - step)) / (2 * STEP)
    for j in range(dims):
        moved = np.eye(dims)[j] * STEP
        slope = (_rise(runs, theta, moved) - _rise(runs, theta, -moved)) / (2 * STEP)
        J[np.arange(len(J)), SHAPES + runs.point * dims + j] = slope
    return np.asarray(np.sqrt(runs.weights)[:, None] * runs.centred(J))
