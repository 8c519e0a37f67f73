"""A law made linear in its parameters, by central differences (exact to about 1e-10).

Compiled derivatives (`solver.slopes`) are exact, which certificates need, but take a quarter of a second to compile.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.solve.problem import Problem

_STEP = 1e-5
"""in the solver's numbers, which are of order 1"""


def derivative(function: Callable[[Array], Array], theta: Array, step: float = _STEP) -> Array:
    """d f / dθ [values, free] at θ [free] of a function from lanes [lanes, free] to values [lanes, values].

    nan where the function is infinite.
    """
    steps = step * np.eye(len(theta))
    ahead, behind = np.split(function(np.concatenate([theta + steps, theta - steps])), 2)
    with np.errstate(invalid="ignore"):
        return np.asarray((ahead - behind).T / (2 * step))


def jacobian(problem: Problem, theta: Array, x: Array | None = None) -> Array:
    """d t(L̂) / dθ: [points, free].

    x: [c, points], log(column / unit) of other points than the problem's.
    """
    if x is not None:
        problem = replace(problem, x=x, y=np.zeros(x.shape[1]))
    return derivative(problem.residuals, theta)


def natural_slope(problem: Problem, theta: Array) -> Array:
    """d parameters in own units / dθ: [k, free]."""
    return derivative(problem.natural, theta)
