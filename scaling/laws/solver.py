"""Levenberg–Marquardt on reweighted residuals, many problems at once, in float64.

Every problem is one lane: a start, or a bootstrap resample given as count weights. Lanes run 64 at a time through
one compiled program whose arrays stay in the cache; points are padded to a multiple of 16 with weight 0, so that
tables of similar length share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.forms import Form
from scaling.laws.objectives import Loss, Residual

if TYPE_CHECKING:
    import jax

Array = NDArray[np.float64]
LANES = 64
POINTS = 16
MAX_ITERATIONS = 400
"""of one stage"""


@dataclass(frozen=True)
class Solution:
    """Where the lanes ended."""

    theta: Array
    """[lanes, k]"""
    objective: Array
    """[lanes], Σ w·ρ(r) at theta"""
    iterations: NDArray[np.int64]
    """[lanes]"""


def solve(
    form: Form,
    loss: Loss,
    residual: Residual,
    theta: Array,
    x: Array,
    y: Array,
    weights: Array,
    tolerance: float = 1e-13,
) -> Solution:
    """Minimise Σ w·ρ(r) from every start.

    theta: starts [lanes, k]; x: log columns [c, points]; y: log losses [points] or [lanes, points];
    weights: [points] or [lanes, points], 0 for a point that takes no part.
    tolerance: a lane ends when a step changes its objective by less than this share.
    """
    lanes, points = len(theta), x.shape[1]
    extra = -points % POINTS
    x = np.pad(x, ((0, 0), (0, extra)))
    y = np.pad(np.broadcast_to(y, (lanes, points)), ((0, 0), (0, extra)))
    weights = np.pad(np.broadcast_to(weights, (lanes, points)), ((0, 0), (0, extra)))
    stages = np.array(loss.stages())
    parts = []
    with _float64_on_cpu():
        program = _program(form, residual)
        for first in range(0, lanes, LANES):
            # A short last block is filled up with its own first lane, whose answers are dropped again.
            take = np.minimum(np.arange(first, first + LANES), lanes - 1)
            parts.append(program(theta[take], x, y[take], weights[take], stages, tolerance))
        theta, iterations = (np.concatenate([np.asarray(p[i]) for p in parts])[:lanes] for i in (0, 1))
    r = _residuals(form, residual, theta, x, y)
    objective = np.array([loss(r_lane, w_lane) for r_lane, w_lane in zip(r, weights, strict=True)])
    return Solution(theta, objective, iterations)


def normal_equations(
    form: Form, loss: Loss, residual: Residual, theta: Array, x: Array, y: Array, weights: Array
) -> tuple[Array, Array]:
    """Gradient [k] and the reweighted Gauss–Newton matrix [k, k] of the objective at one theta."""
    with _float64_on_cpu():
        delta = loss.stages()[-1]
        _, gradient, matrix = _evaluator(form, residual)(theta, x, y, weights, delta)
        scale = 1.0 / delta if loss.kind == "l1" else 1.0
        return np.asarray(gradient) * scale, np.asarray(matrix) * scale


def _residuals(form: Form, residual: Residual, theta: Array, x: Array, y: Array) -> Array:
    """[lanes, points] in numpy."""
    log_loss = form.log_loss(list(theta.T[:, :, None]), list(x), np)
    return log_loss - y if residual == "log" else np.exp(log_loss) - np.exp(y)


@contextmanager
def _float64_on_cpu() -> Iterator[None]:
    """float64 whatever the caller's settings, on the processor: accelerators are slow or inexact in float64."""
    import jax

    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = jax.local_devices()[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield


@cache
def _evaluator(form: Form, residual: Residual) -> Any:
    """(θ, x, y, w, δ) -> objective, gradient, reweighted Gauss–Newton matrix, by Huber's ρ of half-width δ."""
    import jax
    import jax.numpy as jnp

    def residuals(theta: "jax.Array", x: "jax.Array", y: "jax.Array") -> "jax.Array":
        log_loss = form.log_loss(list(theta), list(x), jnp)
        return log_loss - y if residual == "log" else jnp.exp(log_loss) - jnp.exp(y)

    def evaluate(theta: Any, x: Any, y: Any, w: Any, delta: Any) -> tuple[Any, Any, Any]:
        theta = jnp.asarray(theta)
        r, push = jax.linearize(lambda t: residuals(t, x, y), theta)
        jacobian = jax.vmap(push)(jnp.eye(theta.shape[0]))
        size = jnp.abs(r)
        inside = size < delta
        value = jnp.sum(w * jnp.where(inside, 0.5 * r * r, delta * (size - 0.5 * delta)))
        weight = w * jnp.where(inside, 1.0, delta / size)
        return value, jacobian @ (weight * r), (jacobian * weight) @ jacobian.T

    return evaluate


@cache
def _program(form: Form, residual: Residual) -> Any:
    """The compiled solver of one form: (θ, x, y, w, stages, tolerance) -> θ, iterations; lanes in front."""
    import jax
    import jax.numpy as jnp

    evaluate = _evaluator(form, residual)

    def stage(carry: Any, delta: Any, x: Any, y: Any, w: Any, tolerance: Any) -> Any:
        theta, total = carry

        def step(state: Any) -> Any:
            theta, value, gradient, matrix, damping, iteration, _ = state
            diagonal = jnp.diag(matrix)
            # The floor keeps the matrix regular when the data say nothing about a parameter (E driven to 0).
            damped = matrix + jnp.diag(damping * diagonal + 1e-14 * diagonal.max() + 1e-300)
            new = theta - jnp.linalg.solve(damped, gradient)
            there = evaluate(new, x, y, w, delta)
            better = there[0] < value
            still = jnp.abs(value - there[0]) <= tolerance * value
            damping = jnp.where(better, jnp.maximum(damping * 0.2, 1e-12), damping * 5.0)
            done = (still & (damping < 1e3)) | (damping > 1e12)
            kept = [jnp.where(better, a, b) for a, b in zip((new, *there), state[:4], strict=True)]
            return (*kept, damping, iteration + 1, done)

        start = (theta, *evaluate(theta, x, y, w, delta), jnp.array(1e-2), jnp.array(0), jnp.array(False))
        end = jax.lax.while_loop(lambda s: ~s[-1] & (s[-2] < MAX_ITERATIONS), step, start)
        return (end[0], total + end[-2]), None

    def lane(theta: Any, x: Any, y: Any, w: Any, stages: Any, tolerance: Any) -> Any:
        run = lambda carry, delta: stage(carry, delta, x, y, w, tolerance)  # noqa: E731
        return jax.lax.scan(run, (theta, jnp.array(0)), stages)[0]

    return jax.jit(jax.vmap(lane, in_axes=(0, None, 0, 0, None, None)))
