"""Linear least squares of the same rows on many bases, with the posterior quantities under flat priors."""

from dataclasses import dataclass

import numpy as np

from scaling.laws.arrays import Array

ROUNDING = 1e-13
"""residuals of an exact fit: rounding of numbers near 1 in float64, after some sums"""


@dataclass(frozen=True, eq=False)
class LinearFits:
    """y ≈ basis · flat, for each basis."""

    flat: Array
    """[bases, unknowns]"""
    root: Array
    """[bases, unknowns, unknowns]: a root of the covariance at unit noise, which is root rootᵀ"""
    squares: Array
    """[bases]: residual sums of squares"""

    def noise(self, freedom: int) -> Array:
        """[bases]: standard deviation of one row."""
        return np.asarray(np.sqrt(self.squares / freedom))

    def cost(self, freedom: int) -> Array:
        """[bases]: −log of the likelihood of y, integrated over unknowns and noise with flat priors."""
        spread = np.log(np.abs(np.diagonal(self.root, axis1=1, axis2=2))).sum(1)
        return np.asarray(freedom / 2 * np.log(self.squares) - spread)


def fit_linear(basis: Array, y: Array) -> LinearFits:
    """Least squares of y [rows] on basis [bases, rows, unknowns]."""
    q, r = np.linalg.qr(basis)
    along = np.swapaxes(q, 1, 2) @ y
    left = np.sum((y - (q @ along[..., None])[..., 0]) ** 2, 1)
    root = np.linalg.inv(r)
    return LinearFits((root @ along[..., None])[..., 0], root, np.maximum(left, len(y) * ROUNDING**2))
