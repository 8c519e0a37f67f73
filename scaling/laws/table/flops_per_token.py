"""Training FLOPs per token as a function of model size."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.laws.arrays import Array

FlopsPerToken = Callable[[Any], Array]
"""N -> training FLOPs per token"""


def six_n(N: ArrayLike) -> Array:
    """Training FLOPs per token, 6·N."""
    return 6.0 * np.asarray(N, np.float64)


@dataclass(frozen=True)
class FlopsRelation:
    """Training FLOPs per token as a smooth function of N: log k = c0 + c1·n + c2·n², n = log(N / unit).

    Beyond the sizes it was fitted to it continues as a straight line in log-log, so that it stays monotonic.
    """

    coefficients: tuple[float, ...]
    unit: float
    """parameters: geometric mean of the runs' N"""
    span: tuple[float, float]
    """least and largest n of the runs"""
    max_error: float
    """largest relative error over the runs that it was fitted to"""

    def __call__(self, N: ArrayLike) -> Array:
        """FLOPs per token of a model of N parameters."""
        n = np.log(np.asarray(N, np.float64) / self.unit)
        inside = np.clip(n, *self.span)
        slope = np.polynomial.polynomial.polyval(inside, np.polynomial.polynomial.polyder(self.coefficients))
        return np.exp(np.polynomial.polynomial.polyval(inside, self.coefficients) + slope * (n - inside))


def flops_relation(N: Array, per_token: Array) -> FlopsRelation:
    """The relation of sizes N [rows] to their training FLOPs per token [rows].

    Between sizes of one ladder the exact count is smooth in N, so a quadratic in log-log approximates it closely;
    `max_error` says how closely. With fewer than three sizes the curve is a line or a constant ratio to N.
    """
    unit = float(np.exp(np.log(N).mean()))
    n, k = np.log(N / unit), np.log(per_token)
    degree = min(2, len(np.unique(np.round(n, 9))) - 1)
    if degree == 0:
        coefficients: tuple[float, ...] = (float(k.mean()), 1.0)
    else:
        coefficients = tuple(float(c) for c in np.polynomial.polynomial.polyfit(n, k, degree))
    error = np.abs(np.expm1(np.polynomial.polynomial.polyval(n, coefficients) - k)).max()
    return FlopsRelation(coefficients, unit, (float(n.min()), float(n.max())), float(error))


@dataclass(frozen=True, eq=False)
class FlopsSurface:
    """Training FLOPs per token as a smooth function of several columns: log k is a quadratic in their logarithms and
    linear in them (a router's cost grows with the number of experts).

    Beyond the values it was fitted to it continues as a straight line, as `FlopsRelation` does.
    """

    letters: tuple[str, ...]
    center: Array
    """[c], of log columns"""
    span: tuple[Array, Array]
    """least and largest of log columns less the center, each [c]"""
    value: float
    slope: Array
    """[c]"""
    bend: Array
    """[c, c], symmetric"""
    linear: Array
    """[c], of columns in units of their geometric mean"""
    max_error: float
    """largest relative error over the runs"""

    def __call__(self, columns: Mapping[str, ArrayLike]) -> Array:
        """FLOPs per token at columns by letter, broadcast together."""
        logs = np.broadcast_arrays(*(np.log(np.asarray(columns[letter], np.float64)) for letter in self.letters))
        x = np.stack(logs, -1) - self.center
        inside = np.clip(x, *self.span)
        bent, plain = inside @ self.bend, self.linear * np.exp(inside)
        straight = (x - inside) * (self.slope + 2 * bent + plain)
        return np.asarray(np.exp(self.value + (inside * (self.slope + bent) + plain + straight).sum(-1)))

    @staticmethod
    def through(columns: Mapping[str, Array], per_token: Array) -> "FlopsSurface":
        """The surface fitted to the FLOPs per token [rows] of runs with columns by letter [rows]."""
        letters = tuple(columns)
        x = np.log(np.stack([columns[letter] for letter in letters], -1))
        center = x.mean(0)
        x = x - center
        i, j = np.triu_indices(len(letters))
        basis = np.concatenate([np.ones((len(x), 1)), x, np.exp(x), x[:, i] * x[:, j]], -1)
        found, count = np.zeros(basis.shape[1]), len(letters)
        for terms in (1 + count, basis.shape[1]):  # a line first, for what few values do not determine
            left = np.log(per_token) - basis @ found
            found[:terms] += np.linalg.lstsq(basis[:, :terms], left, rcond=1e-8)[0]
        slope, linear, products = found[1 : 1 + count], found[1 + count : 1 + 2 * count], found[1 + 2 * count :]
        bend = np.zeros((count, count))
        bend[i, j] = products
        bend = (bend + bend.T) / 2
        error = float(np.abs(np.expm1(basis @ found - np.log(per_token))).max())
        return FlopsSurface(letters, center, (x.min(0), x.max(0)), float(found[0]), slope, bend, linear, error)
