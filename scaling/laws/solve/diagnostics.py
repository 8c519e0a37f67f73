"""What a search says about its own result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.files import number, texts
from scaling.laws.arrays import Array
from scaling.laws.solve.objectives import untransform
from scaling.laws.solve.optimality import least_subgradient
from scaling.laws.solve.problem import Problem
from scaling.laws.solve.solver import Solution, slopes

CERTIFIED = 1e-5
"""gradient norm up to which a result counts as a minimum: what is left to gain is 1e-10 of the objective"""
BEYOND = float(np.log(1e6))
"""how far a positive parameter (or the odds of a share) is moved to see whether the data would notice"""
UNNOTICED = 1e-3
"""change that goes unnoticed: of L̂ in shares of the least loss, of the objective in shares of itself"""


NUMBERS = ("gradient_norm", "starts", "starts_at_optimum", "condition")
EDGE = 0.9
"""share of the range of `forms.form.WIDEST` beyond which a parameter counts as unbounded"""


@dataclass(frozen=True)
class Diagnostics:
    """What the search says about its own result."""

    gradient_norm: float
    """0 at an exact minimum. Smooth objectives: √(gᵀ H⁻¹ g / 2 objective) with the Gauss–Newton curvature H, whose
    square is the share of the objective that is left to gain. L1 and quantiles: the norm of the least subgradient
    (`optimality.least_subgradient`)."""
    starts: int
    starts_at_optimum: float
    """share of starts that end within 1e-6 of the least objective"""
    condition: float
    """of the curvature matrix (for L1 and quantiles JᵀWJ) scaled to a unit diagonal: large where parameters cannot be
    told apart"""
    at_bounds: tuple[str, ...]
    """positive parameters and shares at an end of their range, which the data do not identify: a millionth of the
    parameter, or a million times it, changes no L̂ by 1e-3 of the least loss, nor the objective by 1e-3 of itself"""
    certified: bool
    """whether the conditions of a local minimum hold: gradient_norm ≤ 1e-5, or nothing left of the residuals; not
    where a parameter is unbounded"""
    unbounded: tuple[str, ...] = ()
    """parameters that the search drove to the limit of float64 (a factor N^alpha, or an amplitude, of e^±600): the
    data do not determine them, and quantities derived from them are meaningless"""

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Diagnostics":
        """The diagnostics of a saved fit; an old fit without a certificate is not certified. None stands for a number
        that was not finite.

        Raises ValueError for anything else.
        """
        open_ = [name for name in ("gradient_norm", "condition") if values[name] is None]
        numbers = {name: np.inf if name in open_ else number(values[name], name) for name in NUMBERS}
        names = {name: texts(values.get(name, []), name) for name in ("at_bounds", "unbounded")}
        return Diagnostics(**{"certified": False, **values, **numbers, **names})


def diagnose(problem: Problem, solution: Solution, winner: int, starts: int, theta: Array) -> Diagnostics:
    """Diagnostics of the fit that ended at `theta` [free]; `winner` is its lane, the last `starts` lanes the
    search."""
    total, least = solution.total, float(solution.total[winner])
    if problem.loss.rounded:
        jacobian = slopes(problem, theta)[0]
        norm, matrix = least_subgradient(problem, theta), jacobian.T @ (problem.weights[:, None] * jacobian)
    else:
        matrix = solution.matrix[winner]
        norm = _scaled_gradient(solution.gradient[winner], matrix, least)
    exact = problem.loss.kind != "student_t" and np.abs(problem.residuals(theta)).max() < 1e-11
    unbounded = _unbounded(problem, theta)
    return Diagnostics(
        gradient_norm=norm,
        starts=starts,
        starts_at_optimum=float(np.mean(total[-starts:] <= least + abs(least) * 1e-6 + 1e-20)),
        condition=_condition(matrix),
        at_bounds=_at_bounds(problem, theta),
        certified=bool(norm <= CERTIFIED or exact) and not unbounded,
        unbounded=unbounded,
    )


def _unbounded(problem: Problem, theta: Array) -> tuple[str, ...]:
    """The parameters at the end of the search's range, and the exponents in their powers that caused it."""
    held = problem.holds(theta, EDGE)
    powers = {p.name: [power.exponent for power in p.powers] for p in problem.form.parameters}
    ended = {name for name, there in held.items() if not there}
    ended |= {exponent for name in ended for exponent in powers[name] if exponent}
    return tuple(name for name in problem.free if name in ended)


def _at_bounds(problem: Problem, theta: Array) -> tuple[str, ...]:
    return tuple(name for name, ends in without_effect(problem, theta).items() if any(ends))


def without_effect(problem: Problem, theta: Array) -> dict[str, tuple[bool, bool]]:
    """Whether the data would not notice a millionth of each positive parameter, and a million times it; of a share,
    of its odds."""
    kinds = {parameter.name: parameter.kind for parameter in problem.form.parameters}
    bounded = [i for i, name in enumerate(problem.free) if kinds[name] in ("positive", "share")]
    if not bounded:
        return {}
    moves = np.eye(len(theta))[bounded] * BEYOND
    moved = theta + np.concatenate([-moves, moves])
    with np.errstate(all="ignore"):  # a million times an amplitude may be beyond float64: the data would notice
        here, there = problem.fitted(theta), problem.fitted(moved)
        change = np.abs(there - here).max(-1) < UNNOTICED * np.abs(untransform(problem.y, problem.residual, np)).min()
        worse = problem.objective(moved) - problem.objective(theta)
    still = change & (np.abs(worse) <= UNNOTICED * np.abs(problem.objective(theta)) + 1e-24)
    ends = zip(*np.split(still, 2), strict=True)
    return {problem.free[i]: (bool(low), bool(high)) for i, (low, high) in zip(bounded, ends, strict=True)}


def _scaled_gradient(gradient: Array, matrix: Array, objective: float) -> float:
    step = np.linalg.lstsq(matrix, gradient, rcond=None)[0]
    return float(np.sqrt(max(float(gradient @ step), 0.0) / max(2 * abs(objective), 1e-300)))


def _condition(matrix: Array) -> float:
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    return float(np.linalg.cond(matrix / np.outer(scale, scale)))
