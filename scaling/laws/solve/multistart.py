"""Multistart search for a problem's optimum; priors are weighted by the noise of a fit without them."""

from collections.abc import Mapping

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.solve.noise import noise_of
from scaling.laws.solve.priors import Prior, with_priors
from scaling.laws.solve.problem import Problem
from scaling.laws.solve.solver import Solution, solve


def starts_of(problem: Problem, losses: Array, count: int) -> Array:
    """The law's first `count` starts as the solver's numbers [count, free]; losses: L of the rows [points]."""
    drawn = problem.form.given(problem.form.starts(problem.x, losses, count), problem.fixed, problem.units)
    return problem.form.theta(drawn, np.zeros(len(problem.units)), problem.free)[:, problem.where]


def multistart(problem: Problem, theta: Array, priors: Mapping[str, Prior]) -> tuple[Problem, Solution]:
    """The problem with its priors, and the solution from the starts [lanes, free]; with priors, the last lanes are
    the search with them.

    Rows of weight 0 are ignored.
    """
    solution = solve(problem, theta)
    if not priors:
        return problem, solution
    rows = problem.rows(problem.weights > 0)
    noise = noise_of(rows.residuals(solution.best), rows)
    problem = with_priors(problem, priors, noise)
    return problem, solve(problem, np.concatenate([theta, solution.theta]))
