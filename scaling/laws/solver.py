"""Levenberg–Marquardt on reweighted residuals, many problems at once, in float64.

Every problem is one lane: a start, or a bootstrap resample given as count weights. Lanes run 64 at a time through
one compiled program whose arrays stay in the cache; points are padded to a multiple of 16 with weight 0, so that
tables of similar length share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms import Form
from scaling.laws.objectives import Residual, student_scale, transform
from scaling.laws.problem import Problem

Array = NDArray[np.float64]
LANES = 64
POINTS = 16
MAX_ITERATIONS = 400
"""of one stage"""


@dataclass(frozen=True)
class Solution:
    """Where the lanes ended."""

    theta: Array
    """[lanes, free]"""
    objective: Array
    """[lanes], without priors, at theta"""
    penalty: Array
    """[lanes], the priors' share"""
    iterations: NDArray[np.int64]
    """[lanes]"""

    @property
    def total(self) -> Array:
        """What was minimised; infinite where a lane found no number."""
        total = self.objective + self.penalty
        return np.where(np.isfinite(total), total, np.inf)


@dataclass(frozen=True)
class _Kind:
    """What a compiled program is made for."""

    form: Form
    residual: Residual
    student: bool
    fixed: tuple[str, ...]
    priors: bool

    @property
    def free(self) -> tuple[str, ...]:
        return tuple(name for name in self.form.params if name not in self.fixed)


def solve(
    problem: Problem,
    theta: Array,
    y: Array | None = None,
    weights: Array | None = None,
    prior_mean: Array | None = None,
    tolerance: float = 1e-13,
) -> Solution:
    """Minimise from every start.

    theta: starts [lanes, free]; y, weights, prior_mean: those of each lane ([lanes, points], [lanes, k]) in place of
    the problem's own.
    tolerance: a lane ends when a step changes its objective by less than this share.
    """
    lanes, points = len(theta), problem.x.shape[1]
    y = np.broadcast_to(problem.y if y is None else y, (lanes, points))
    weights = np.broadcast_to(problem.weights if weights is None else weights, (lanes, points))
    extra = ((0, 0), (0, -points % POINTS))
    x, y_padded, w_padded = np.pad(problem.x, extra, mode="edge"), np.pad(y, extra), np.pad(weights, extra)
    kind = _kind(problem)
    mean, precision = _priors(problem, prior_mean, lanes)
    shared = (problem.units, np.array([problem.fixed[name] for name in kind.fixed]), precision)
    stages = problem.loss.stages()
    parts = []
    with float64_on_cpu():
        program = _program(kind)
        for first in range(0, lanes, LANES):
            # A short last block is filled up with its own first lane, whose answers are dropped again.
            take = np.minimum(np.arange(first, first + LANES), lanes - 1)
            parts.append(
                program(theta[take], x, y_padded[take], w_padded[take], mean[take], shared, stages, tolerance)
            )
        theta, iterations = (np.concatenate([np.asarray(p[i]) for p in parts])[:lanes] for i in (0, 1))
    penalty = np.zeros(lanes)
    if kind.priors:
        penalty = 0.5 * np.sum(precision * (problem.natural(theta) - mean) ** 2, -1)
    return Solution(theta, problem.objective(theta, y, weights), penalty, iterations)


def normal_equations(problem: Problem, theta: Array) -> tuple[Array, Array]:
    """Gradient [free] and the reweighted Gauss–Newton matrix [free, free] of what is minimised, at one theta."""
    kind = _kind(problem)
    mean, precision = _priors(problem, None, 1)
    shared = (problem.units, np.array([problem.fixed[name] for name in kind.fixed]), precision)
    with float64_on_cpu():
        data = (problem.x, problem.y, problem.weights, mean[0], shared)
        _, gradient, matrix = _evaluator(kind)(theta, *data, problem.loss.stages()[-1])
        return np.asarray(gradient), np.asarray(matrix)


@contextmanager
def float64_on_cpu() -> Iterator[None]:
    """float64 whatever the caller's settings, on the processor: accelerators are slow or inexact in float64."""
    import jax

    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = jax.local_devices()[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield


def _kind(problem: Problem) -> _Kind:
    student = problem.loss.kind == "student_t"
    fixed = tuple(name for name in problem.form.params if name in problem.fixed)
    return _Kind(problem.form, problem.residual, student, fixed, problem.prior_precision is not None)


def _priors(problem: Problem, mean: Array | None, lanes: int) -> tuple[Array, Array]:
    if problem.prior_precision is None or problem.prior_mean is None:
        return np.zeros((lanes, 0)), np.zeros(0)
    mean = problem.prior_mean if mean is None else mean
    return np.broadcast_to(mean, (lanes, len(problem.prior_mean))), problem.prior_precision


@cache
def _evaluator(kind: _Kind) -> Any:
    """(θ, x, y, w, prior means, shared, stage) -> objective, gradient, reweighted Gauss–Newton matrix."""
    import jax
    import jax.numpy as jnp

    def scaled(theta: Any, shared: Any) -> dict[str, Any]:
        units, fixed, _ = shared
        free = dict(zip(kind.free, theta, strict=True))
        return kind.form.scaled(free, dict(zip(kind.fixed, fixed, strict=True)), units, jnp)

    def residuals(theta: Any, x: Any, y: Any, shared: Any) -> Any:
        columns = dict(zip(kind.form.columns, x, strict=True))
        return transform(kind.form.value(scaled(theta, shared), columns, jnp), kind.residual, jnp) - y

    def natural(theta: Any, shared: Any) -> Any:
        return jnp.stack(kind.form.natural(scaled(theta, shared), shared[0], jnp))

    def evaluate(theta: Any, x: Any, y: Any, w: Any, mean: Any, shared: Any, stage: Any) -> tuple[Any, Any, Any]:
        theta = jnp.asarray(theta)
        r, push = jax.linearize(lambda t: residuals(t, x, y, shared), theta)
        jacobian = jax.vmap(push)(jnp.eye(theta.shape[0]))
        rho, weight = _student(r, w, stage[0]) if kind.student else _rounded(r, stage)
        # A point of weight 0 is padding or was not drawn; what it holds must not matter.
        value = jnp.sum(jnp.where(w > 0, w * rho, 0.0))
        weight = jnp.where(w > 0, w * weight, 0.0)
        r = jnp.where(w > 0, r, 0.0)
        gradient, matrix = jacobian @ (weight * r), (jacobian * weight) @ jacobian.T
        if kind.priors:
            precision = shared[2]
            away = natural(theta, shared) - mean
            slope = jax.jacfwd(natural)(theta, shared)
            value = value + 0.5 * jnp.sum(precision * away**2)
            gradient = gradient + slope.T @ (precision * away)
            matrix = matrix + (slope.T * precision) @ slope
        return value, gradient, matrix

    def _rounded(r: Any, stage: Any) -> tuple[Any, Any]:
        delta, over, under, unit = stage
        size = jnp.abs(r)
        inside = size < delta
        side = jnp.where(r > 0, over, under) / unit
        rho = jnp.where(inside, 0.5 * r * r, delta * (size - 0.5 * delta))
        return side * rho, side * jnp.where(inside, 1.0, delta / size)

    def _student(r: Any, w: Any, nu: Any) -> tuple[Any, Any]:
        s = student_scale(jnp.where(w > 0, r, 0.0), w, nu, jnp)
        rho = 0.5 * (nu + 1.0) * jnp.log1p((r / s) ** 2 / nu) + jnp.log(s)
        return rho, (nu + 1.0) / (nu * s**2 + r**2)

    return evaluate


@cache
def _program(kind: _Kind) -> Any:
    """The compiled solver: (θ, x, y, w, means, shared, stages, tolerance) -> θ, iterations; lanes in front."""
    import jax
    import jax.numpy as jnp

    evaluate = _evaluator(kind)

    def stage(carry: Any, settings: Any, data: Any, tolerance: Any) -> Any:
        theta, total = carry

        def step(state: Any) -> Any:
            theta, value, gradient, matrix, damping, iteration, _ = state
            diagonal = jnp.diag(matrix)
            # The floor keeps the matrix regular when the data say nothing about a parameter (E driven to 0).
            damped = matrix + jnp.diag(damping * diagonal + 1e-14 * diagonal.max() + 1e-300)
            new = theta - jnp.linalg.solve(damped, gradient)
            there = evaluate(new, *data, settings)
            better = there[0] < value
            still = jnp.abs(value - there[0]) <= tolerance * jnp.abs(value)
            damping = jnp.where(better, jnp.maximum(damping * 0.2, 1e-12), damping * 5.0)
            done = (still & (damping < 1e3)) | (damping > 1e12)
            kept = [jnp.where(better, a, b) for a, b in zip((new, *there), state[:4], strict=True)]
            return (*kept, damping, iteration + 1, done)

        start = (theta, *evaluate(theta, *data, settings), jnp.array(1e-2), jnp.array(0), jnp.array(False))
        end = jax.lax.while_loop(lambda s: ~s[-1] & (s[-2] < MAX_ITERATIONS), step, start)
        return (end[0], total + end[-2]), None

    def lane(theta: Any, x: Any, y: Any, w: Any, mean: Any, shared: Any, stages: Any, tolerance: Any) -> Any:
        run = lambda carry, settings: stage(carry, settings, (x, y, w, mean, shared), tolerance)  # noqa: E731
        return jax.lax.scan(run, (theta, jnp.array(0)), stages)[0]

    return jax.jit(jax.vmap(lane, in_axes=(0, None, 0, 0, 0, None, None, None)))
