"""The last step of an L1 or quantile fit, and the certificate that it is a minimum.

Such a fit passes exactly through some of its points, about as many as it has parameters. The solver comes within
1e-10 of them, and Newton's method on r = 0 at these points does the rest. The result is a minimum (to first order)
exactly if each of these points can be assigned a pull between those of its two sides so that all pulls cancel.
"""

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.solve.objectives import STAGES
from scaling.laws.solve.problem import Problem
from scaling.laws.solve.solver import slopes

PASSED = 20 * STAGES[-1]
"""|r| below which a point counts as passed through: the solver leaves such points within its last rounding"""


def polish(problem: Problem, theta: Array) -> Array:
    """θ [free] moved so that the fit passes exactly through points it nearly meets, unless the objective gets
    worse."""
    best, least = theta, _total(problem, theta)
    for _ in range(3):
        r = problem.residuals(best)
        passed = (np.abs(r) < PASSED) & (problem.weights > 0)
        if not passed.any():
            break
        jacobian = slopes(problem, best)[0][passed]
        scale = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-300)
        moved = best - np.linalg.lstsq(jacobian / scale, r[passed], rcond=1e-10)[0] / scale
        total = _total(problem, moved)
        if not (total <= least and all(problem.holds(moved).values())):
            break
        best, least = moved, total
    return best


def least_subgradient(problem: Problem, theta: Array) -> float:
    """Norm of the smallest subgradient at θ, 0 at a minimum.

    A bounded least squares over the pulls s of the points passed through, −under·w ≤ s ≤ over·w. Each component is
    divided by what it would be if all points pulled the same way (Σ w·|∂r/∂θ|), so the norm has no units.
    """
    from scipy.optimize import lsq_linear

    r, w = problem.residuals(theta), problem.weights
    jacobian, pull = slopes(problem, theta)
    over, under = problem.loss.sides()
    passed = (np.abs(r) < PASSED) & (w > 0)
    sign = np.where(r > 0, over, -under) * w
    pull = pull + jacobian[~passed].T @ sign[~passed]
    scale = w @ np.abs(jacobian)
    known = scale > 1e-12 * scale.max()  # a parameter driven to 0 pulls no longer
    pull, pulls = pull[known] / scale[known], jacobian[passed][:, known].T / scale[known][:, None]
    if not passed.any():
        return float(np.linalg.norm(pull))
    # In shares of the weights: the variables are then of one size.
    found = lsq_linear(pulls * w[passed], -pull, bounds=(-under, over), tol=1e-14)
    return float(np.linalg.norm(found.fun))


def _total(problem: Problem, theta: Array) -> float:
    return float(problem.objective(theta) + problem.penalty(theta))
