"""The law made linear in its parameters, by central differences (exact to about 1e-10)."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scaling.laws.problem import Problem

Array = NDArray[np.float64]
_STEP = 1e-5


def jacobian(problem: Problem, theta: Array, x: Array | None = None) -> Array:
    """d t(L̂) / dθ: [points, free].

    x: [c, points], log(column / unit) of other points than the problem's.
    """
    if x is not None:
        problem = replace(problem, x=x, y=np.zeros(x.shape[1]))
    steps = _STEP * np.eye(len(theta))
    rise = problem.residuals(theta + steps) - problem.residuals(theta - steps)
    return rise.T / (2 * _STEP)


def natural_slope(problem: Problem, theta: Array) -> Array:
    """d parameters in own units / dθ: [k, free]."""
    steps = _STEP * np.eye(len(theta))
    return (problem.natural(theta + steps) - problem.natural(theta - steps)).T / (2 * _STEP)
