"""Linear least squares of the same rows on many bases, and what a Bayesian with flat priors makes of them."""

from dataclasses import dataclass

import numpy as np

from scaling.laws.arrays import Array

ROUNDING = 1e-13
"""residuals that are none: of numbers near 1 in float64, after some sums"""


@dataclass(frozen=True, eq=False)
class LinearFits:
    """y ≈ basis · flat, for each basis."""

    flat: Array
    """[bases, unknowns]"""
    root: Array
    """[bases, unknowns, unknowns], of the covariance at unit noise: root rootᵀ"""
    squares: Array
    """[bases], sums of squares that are left"""

    def noise(self, freedom: int) -> Array:
        """[bases]: standard deviation of one row."""
        return np.asarray(np.sqrt(self.squares / freedom))

    def cost(self, freedom: int) -> Array:
        """[bases]: −log of the likelihood of y, over all unknowns and noises alike."""
        spread = np.log(np.abs(np.diagonal(self.root, axis1=1, axis2=2))).sum(1)
        return np.asarray(freedom / 2 * np.log(self.squares) - spread)


def fit_linear(basis: Array, y: Array) -> LinearFits:
    """Of y [rows] on basis [bases, rows, unknowns]."""
    q, r = np.linalg.qr(basis)
    along = np.swapaxes(q, 1, 2) @ y
    left = np.sum((y - (q @ along[..., None])[..., 0]) ** 2, 1)
    root = np.linalg.inv(r)
    return LinearFits((root @ along[..., None])[..., 0], root, np.maximum(left, len(y) * ROUNDING**2))
