"""The noise of the data in units of the objective, which converts differences of objectives into evidence.

For an M-estimator min Σ w·ρ(r) of a smooth law, with ψ = ρ', the estimate scatters by τ²·(JᵀWJ)⁻¹ with
τ² = E ψ² / (E ψ')² (Huber 1981, ch. 7), and 2·ΔΣwρ / s with s = E ψ² / E ψ' is distributed as χ² with one degree of
freedom for each parameter that is fixed at its true value (Schrader and Hettmansperger 1980). Least squares: s is the
variance of the residuals; |r|: 1/(2 f(0)), f the density of the residuals. The noise may have any shape.
"""

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.solve.objectives import Loss, student_scale
from scaling.laws.solve.problem import Problem


def psi(loss: Loss, residuals: Array, scale: float = 1.0) -> Array:
    """ψ = dρ/dr, the influence function, at residuals of any shape; scale: Student's."""
    r = residuals
    if loss.kind == "l2":
        return r
    if loss.kind == "huber":
        assert loss.delta is not None
        return np.clip(r, -loss.delta, loss.delta)
    if loss.kind == "student_t":
        assert loss.nu is not None
        return (loss.nu + 1.0) * r / (loss.nu * scale**2 + r**2)
    over, under = loss.sides()
    return np.where(r > 0, over, -under) * (r != 0)


def scale_of(problem: Problem, residuals: Array) -> float:
    """Student's scale at residuals [points]; 1 for the other losses."""
    if problem.loss.kind != "student_t":
        return 1.0
    return float(student_scale(residuals, problem.weights, problem.loss.nu, np))


def slope_of(problem: Problem, residuals: Array) -> float:
    """E ψ', from residuals [points].

    ψ' of |r| is a spike at 0, so ψ is differenced over ±h (Powell 1991), h = 1.06·s·n^(−1/5) with s from the median
    |r| (1e-4 of that for Student's t, which is smooth). As many of the least |r| as there are parameters are left
    out: an L1 fit goes through that many points exactly, which says nothing about the noise.
    """
    if problem.loss.kind == "l2":
        return 1.0
    size = np.abs(residuals)
    kept = np.argsort(size, kind="stable")[min(len(problem.free), len(size) - 2) :]
    w = problem.weights[kept]
    return max(float(np.sum(w * _rise(problem, residuals, residuals[kept], 1.06)) / np.sum(w)), 1e-12)


def slopes_of(problem: Problem, residuals: Array) -> Array:
    """ψ' at each residual [points], for sums over many; with the mean of `slope_of` and twice its h.

    Where rows differ in scatter, it is small where they scatter most.
    """
    if problem.loss.kind == "l2":
        return np.ones(len(residuals))
    rise = np.maximum(_rise(problem, residuals, residuals, 2.12), 0.0)
    mean = max(float(np.sum(problem.weights * rise) / np.sum(problem.weights)), 1e-12)
    return np.asarray(rise * slope_of(problem, residuals) / mean)


def _rise(problem: Problem, residuals: Array, r: Array, width: float) -> Array:
    """[ψ(r + h) − ψ(r − h)]/2h; residuals: all of them, for the scale."""
    width = 1e-4 if problem.loss.kind == "student_t" else width * len(r) ** -0.2
    h = max(width * 1.4826 * float(np.median(np.abs(r))), 1e-14)
    scale = scale_of(problem, residuals)
    return (psi(problem.loss, r + h, scale) - psi(problem.loss, r - h, scale)) / (2 * h)


def noise_of(residuals: Array, problem: Problem) -> float:
    """s = E ψ² / E ψ', corrected for degrees of freedom: the divisor that puts the objective in nats.

    Student's t is a −log likelihood already: s is near 1 where the noise is as heavy-tailed as its ν says.
    """
    w, freedom = problem.weights, max(len(residuals) - len(problem.free), 1)
    if problem.loss.kind == "l2":
        return float(np.sum(w * residuals**2) / freedom)
    square = np.sum((w * psi(problem.loss, residuals, scale_of(problem, residuals))) ** 2) / np.sum(w)
    return float(square * len(residuals) / freedom / slope_of(problem, residuals))
