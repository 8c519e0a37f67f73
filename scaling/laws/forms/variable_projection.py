"""Starts by variable projection (Golub and Pereyra 1973): what enters a law linearly is solved for.

The search then has little left to find.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.forms.starts import spread_starts

Numbers = Mapping[str, float]
Solve = Callable[[Numbers, Mapping[str, Array], Array, Array], Mapping[str, float]]
"""(spread parameters, log(column / unit) by name, L, weights of the rows) -> the other parameters"""


def variable_projection(
    columns: Sequence[str],
    params: Sequence[str],
    spans: Mapping[str, tuple[float, float]],
    solve: Solve,
    literature: Sequence[Numbers] = (),
) -> Callable[[Array, Array, int], Array]:
    """Starts of a law of which `solve` finds most parameters by least squares once those in `spans` are given.

    spans: least and greatest start of each of the others, as `spread_starts` spreads them.
    literature: published values of these, tried first.

    The first start weighs all rows alike, each further one by weights of its own (a Bayesian bootstrap), so that
    starts differ where nothing is spread and some of them pass by an outlier.
    """

    def starts(x: Array, y: Array, count: int) -> Array:
        drawn = spread_starts(count, spans, literature) if spans else {}
        own = [{name: float(values[i]) for name, values in drawn.items()} for i in range(count)]
        weights = np.random.default_rng(0).exponential(size=(count, len(y)))
        weights[0] = 1.0
        logs = dict(zip(columns, x, strict=True))
        found = [{**given, **solve(given, logs, y, w)} for given, w in zip(own, weights, strict=True)]
        return np.array([[values[name] for name in params] for values in found])

    return starts


def least_squares(terms: Sequence[Array | float], y: Array, weights: Array) -> list[float]:
    """Coefficients, of either sign, of Σ coefficient · term that come nearest to y."""
    root = np.sqrt(weights)
    basis = np.stack([np.broadcast_to(term, y.shape) for term in terms], -1)
    return [float(value) for value in np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]]


def logarithm(y: Array) -> Array:
    """log y; a value that is not positive, which a law of positive values cannot meet, counts as very small."""
    return np.log(np.maximum(y, 1e-300))
