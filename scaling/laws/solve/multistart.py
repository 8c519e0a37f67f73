"""Multistart search for a problem's optimum.

Rows are weighted by their standard errors as far as the residuals support it, priors by the noise of a fit without
them.
"""

from collections.abc import Mapping

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.solve.common_variance import CANDIDATES, common_variance
from scaling.laws.solve.linear import jacobian
from scaling.laws.solve.noise import noise_of
from scaling.laws.solve.priors import Prior, with_priors
from scaling.laws.solve.problem import Problem
from scaling.laws.solve.solver import Solution, solve

ROUNDS = 6
"""solutions at most, while the variance common to all rows and the law are estimated in turn"""


def starts_of(problem: Problem, losses: Array, count: int) -> Array:
    """The law's first `count` starts as the solver's numbers [count, free]; losses: L of the rows [points]."""
    drawn = problem.form.given(problem.form.starts(problem.x, losses, count), problem.fixed, problem.units)
    return problem.form.theta(drawn, np.zeros(len(problem.units)), problem.free)[:, problem.where]


def multistart(problem: Problem, theta: Array, priors: Mapping[str, Prior]) -> tuple[Problem, Solution]:
    """The problem with its final weights and its priors, and the solution from the starts [lanes, free]; with priors,
    the last lanes are the search with them.

    Rows of weight 0 are ignored.
    """
    problem, solution = _weighted(problem, theta)
    if not priors:
        return problem, solution
    rows = problem.rows(problem.weights > 0)
    noise = noise_of(rows.residuals(solution.best), rows)
    problem = with_priors(problem, priors, noise)
    return problem, solve(problem, np.concatenate([theta, solution.theta]))


def _weighted(problem: Problem, theta: Array) -> tuple[Problem, Solution]:
    """The problem with the variance common to its rows, from equal weights on, and its solution."""
    seen = problem.weights > 0
    variances = 1.0 / problem.weights[seen]
    if np.ptp(variances) < 1e-9:
        return problem, solve(problem, theta)
    common = float(CANDIDATES[-1])
    for _ in range(ROUNDS):
        trial = problem.sharing(common)
        solution = solve(trial, theta)
        known = trial.rows(seen)
        found = common_variance(variances, known.residuals(solution.best), jacobian(known, solution.best))
        if found == common:
            break
        common, theta = found, solution.theta
    return trial, solution
