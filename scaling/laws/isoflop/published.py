"""Minima as publications determine them: for each budget alone, a least-squares parabola of the loss in log tokens.

They serve for comparison with published exponents. They are no better than `parabola` and `akima`: a parabola in log
tokens is one in log N where C = 6·N·D, and a minimum counts here as soon as its parabola opens upwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.isoflop.skew import Shape
from scaling.laws.table.runs import Runs

Poly = np.polynomial.polynomial


@dataclass(frozen=True, eq=False)
class TokenParabolas:
    """Parabolas of the loss in log tokens, each budget's own."""

    centers: Array
    """[budgets], log D"""
    coefficients: Array
    """[budgets, 3]: L = c0 + c1·t + c2·t², t = log D − center"""
    roots: Array
    """[budgets, 3, 3]: a root of the covariance at unit noise, which is root rootᵀ"""
    log_N: Array
    """[points], rising: sizes at which the tokens of each budget are known"""
    log_D: Array
    """[budgets, points]: the tokens that spend the budget on those sizes"""
    levels: Array
    """[budgets], mean losses"""
    sd: float
    """noise of the loss"""
    freedom: int

    @property
    def convex(self) -> NDArray[np.bool_]:
        """[budgets]: whether the parabola opens upwards."""
        return np.asarray(self.coefficients[:, 2] > 0)

    @property
    def noise_sd(self) -> float:
        """Noise of log L."""
        return self.sd / float(self.levels.mean())

    @property
    def min_spread(self) -> Array:
        """[budgets]: zero."""
        return np.zeros(len(self.centers))

    def shape(self, i: int) -> Shape:
        """log L as a function of log N at budget i, and the nearest parabola in log N."""

        def log_loss(n: Array) -> Array:
            t = np.interp(n, self.log_N, self.log_D[i]) - self.centers[i]
            return np.asarray(np.log(np.maximum(Poly.polyval(t, self.coefficients[i]), 1e-12)))

        center = float(self._sizes(i, self.centers[i]))
        n = center + np.linspace(-1, 1, 21)
        return Shape(center, np.asarray(Poly.polyfit(n - center, log_loss(n), 2), np.float64), spline=log_loss)

    def minima(self, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """log N* and log L*, each [1 + count, budgets]; see `Parabolas.minima`."""
        sd = self.sd * np.sqrt(self.freedom / rng.chisquare(self.freedom, (count, 1, 1)))
        noise = np.einsum("bij,dbj->dbi", self.roots, sd * rng.standard_normal((count, len(self.centers), 3)))
        c = np.concatenate([self.coefficients[None], self.coefficients + noise])
        opens = c[..., 2] > 0
        bend = np.where(opens, c[..., 2], 1.0)
        t = self.centers - c[..., 1] / (2 * bend)
        n = np.stack([self._sizes(i, t[:, i]) for i in range(len(self.centers))], 1)
        loss = np.where(opens, c[..., 0] - c[..., 1] ** 2 / (4 * bend), np.nan)
        return np.where(opens, n, np.sign(c[..., 1]) * np.inf), np.log(np.where(loss > 0, loss, np.nan))

    def _sizes(self, i: int, log_D: Array | float) -> Array:
        return np.interp(-np.asarray(log_D), -self.log_D[i], self.log_N)


def fit_token_parabolas(runs: Runs, groups: Sequence[NDArray[np.int64]]) -> TokenParabolas:
    """Parabolas through the rows of each group. Raises UserError where nothing is left to estimate the noise from."""
    freedom = sum(len(rows) - 3 for rows in groups)
    if freedom < 1 or min(len(np.unique(runs.D[rows])) for rows in groups) < 3:
        raise UserError("isoflop: weights='ols' needs three numbers of tokens at each budget, four at one")
    centers, coefficients, roots, squares = [], [], [], 0.0
    for rows in groups:
        t = np.log(runs.D[rows])
        centers.append(float(t.mean()))
        powers = (t - centers[-1])[:, None] ** np.arange(3)
        coefficients.append(np.linalg.lstsq(powers, runs.loss[rows], rcond=None)[0])
        roots.append(np.linalg.cholesky(np.linalg.inv(powers.T @ powers)))
        squares += float(np.sum((runs.loss[rows] - powers @ coefficients[-1]) ** 2))
    sizes = np.log(runs.N)
    log_N = np.linspace(sizes.min() - 10, sizes.max() + 10, 4000)
    budgets = np.array([np.log(runs.flops[rows]).mean() for rows in groups])
    return TokenParabolas(
        centers=np.array(centers),
        coefficients=np.array(coefficients),
        roots=np.array(roots),
        log_N=log_N,
        log_D=budgets[:, None] - np.log(runs.per_token(np.exp(log_N))),
        levels=np.array([runs.loss[rows].mean() for rows in groups]),
        sd=float(np.sqrt(squares / freedom)),
        freedom=freedom,
    )
