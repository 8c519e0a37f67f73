"""Damped Newton on the residuals' linearisation, many problems at once, in float64.

Every problem is one lane: a start, or a bootstrap resample given as count weights. Lanes run 32 at a time through
one compiled program whose arrays stay in the cache; points are padded to a multiple of 16 with weight 0, so that
tables of similar length share it.

A step solves (M + λ·diag) step = gradient with M between two Gauss–Newton matrices: with the weights ψ(r)/r of
reweighted least squares, which converge from anywhere but slowly at the end, and with the weights ψ'(r) of Newton's
method, which converge in a few steps but only from nearby. A step that fails moves M and λ towards the first.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.arrays import Array
from scaling.laws.forms import Form
from scaling.laws.forms.float64 import float64_on_cpu
from scaling.laws.solve.objectives import Residual, student_scale, transform
from scaling.laws.solve.problem import Problem, Traced

LANES = 32
POINTS = 16
MAX_ITERATIONS = 400
"""of one stage"""
LONGEST_STEP = 2.0
"""of any of the solver's numbers: a factor of 7 in a positive parameter. With longer steps a first step may throw an
amplitude to where its gradient is 0, from which it does not return."""
COMPILER_OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
"""With these the program is as fast and compiles in half the time."""


@dataclass(frozen=True)
class Solution:
    """The results of all lanes."""

    theta: Array
    """[lanes, free]"""
    objective: Array
    """[lanes], without priors, at theta"""
    penalty: Array
    """[lanes], the priors' share"""
    gradient: Array
    """[lanes, free], of what was minimised, |r| rounded as in the last stage"""
    matrix: Array
    """[lanes, free, free], reweighted Gauss–Newton matrix of the last stage"""
    iterations: NDArray[np.int64]
    """[lanes]"""

    @property
    def total(self) -> Array:
        """The minimised function without a pull; infinite where a lane ended in NaN."""
        total = self.objective + self.penalty
        return np.where(np.isfinite(total), total, np.inf)

    @property
    def best(self) -> Array:
        """[free], parameters of the lowest total."""
        return np.asarray(self.theta[int(self.total.argmin())])


@dataclass(frozen=True)
class _Kind:
    """The static properties that a program is compiled for."""

    form: Form
    residual: Residual
    student: bool
    fixed: tuple[str, ...]
    priors: bool
    pull: Traced | None = None

    @property
    def n_penalised(self) -> int:
        """Number of quantities that the priors and the pull penalise."""
        return len(self.form.params) * self.priors + (self.pull is not None)

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
    mean, precision = _penalty_targets(problem, prior_mean, lanes)
    shared = _shared(problem, kind, precision)
    stages = problem.loss.stages()
    blocks = []
    with float64_on_cpu():
        program = _program(kind, x.shape[1], len(stages), tuple(part.shape for part in shared[4]))
        for first in range(0, lanes, LANES):
            # A short last block is filled up with its own last lane, whose answers are dropped again.
            take = np.minimum(np.arange(first, first + LANES), lanes - 1)
            lanes_of_block = (part[take] for part in (y_padded, w_padded, mean))
            blocks.append(program(theta[take], x, *lanes_of_block, shared, stages, tolerance))
        theta, gradient, matrix, iterations = (
            np.concatenate([np.asarray(part) for part in parts])[:lanes] for parts in zip(*blocks, strict=True)
        )
    penalty = problem.penalty(theta, prior_mean)
    return Solution(theta, problem.objective(theta, y, weights), penalty, gradient, matrix, iterations)


def slopes(problem: Problem, theta: Array) -> tuple[Array, Array]:
    """Derivatives at one theta: of the residuals [points, free], and of the priors' penalty [free]."""
    kind = _kind(problem)
    mean, precision = _penalty_targets(problem, None, 1)
    shared = _shared(problem, kind, precision)
    with float64_on_cpu():
        of_fitted, of_penalty = _slopes(kind)(np.asarray(theta, np.float64), problem.x, mean[0], shared)
        return np.asarray(of_fitted), np.asarray(of_penalty)


def _kind(problem: Problem) -> _Kind:
    student = problem.loss.kind == "student_t"
    fixed = tuple(name for name in problem.form.params if name in problem.fixed)
    pull = problem.pull.quantity if problem.pull else None
    return _Kind(problem.form, problem.residual, student, fixed, problem.prior_precision is not None, pull)


def _shared(problem: Problem, kind: _Kind, precision: Array) -> Any:
    """What lanes share: units, values of what is fixed, precisions, 1 for what is held [free], the pull's table."""
    fixed = np.array([problem.fixed[name] for name in kind.fixed], np.float64)
    held = np.array([name == problem.held for name in kind.free], np.float64)
    return problem.units, fixed, precision, held, problem.pull.table if problem.pull else ()


def _penalty_targets(problem: Problem, mean: Array | None, lanes: int) -> tuple[Array, Array]:
    """Means [lanes, penalised] and precisions [penalised] of the priors, then of the pull."""
    means, precisions = [np.zeros((lanes, 0))], [np.zeros(0)]
    if problem.prior_precision is not None and problem.prior_mean is not None:
        mean = problem.prior_mean if mean is None else mean
        means.append(np.broadcast_to(mean, (lanes, len(problem.prior_mean))))
        precisions.append(problem.prior_precision)
    if problem.pull is not None:
        means.append(np.broadcast_to(problem.pull.target, lanes)[:, None])
        precisions.append(np.array([problem.pull.strength]))
    return np.concatenate(means, 1), np.concatenate(precisions)


def _scaled(kind: _Kind, theta: Any, shared: Any) -> dict[str, Any]:
    """Parameters in units of the data."""
    import jax.numpy as jnp

    units, fixed, _, held, _ = shared
    free, flags = (dict(zip(kind.free, values, strict=True)) for values in (theta, held))
    return kind.form.scaled(free, dict(zip(kind.fixed, fixed, strict=True)), units, jnp, flags)


@cache
def _functions(kind: _Kind) -> tuple[Any, Any]:
    """t(L̂) [points], from (θ, x, shared); the quantities that priors and pull penalise [penalised], from (θ,
    shared)."""
    import jax.numpy as jnp

    def fitted(theta: Any, x: Any, shared: Any) -> Any:
        columns = dict(zip(kind.form.columns, x, strict=True))
        return transform(kind.form.value(_scaled(kind, theta, shared), columns, jnp), kind.residual, jnp)

    def penalised(theta: Any, shared: Any) -> Any:
        natural = jnp.stack(kind.form.natural(_scaled(kind, theta, shared), shared[0], jnp))
        pulled = [] if kind.pull is None else [kind.pull(natural, shared[4])[None]]
        return jnp.concatenate([natural[: kind.n_penalised - len(pulled)], *pulled])

    return fitted, penalised


@cache
def _slopes(kind: _Kind) -> Any:
    import jax
    import jax.numpy as jnp

    fitted, penalised = _functions(kind)

    def slopes(theta: Any, x: Any, mean: Any, shared: Any) -> Any:
        of_penalty = jnp.zeros_like(theta)
        if kind.n_penalised:
            of_penalty = (shared[2] * (penalised(theta, shared) - mean)) @ jax.jacfwd(penalised)(theta, shared)
        return jax.jacfwd(fitted)(theta, x, shared), of_penalty

    return jax.jit(slopes)


def _held(kind: _Kind) -> Any:
    """(θ, shared) -> whether float64 can represent the parameters; always true where a parameter or pull is held."""
    import jax.numpy as jnp

    def held(theta: Any, shared: Any) -> Any:
        holds = kind.form.holds(_scaled(kind, theta, shared), shared[0], jnp)
        return jnp.stack(list(holds.values())).all() | (shared[3].sum() > 0)

    return (lambda theta, shared: True) if kind.pull else held


def _evaluator(kind: _Kind) -> Any:
    """(θ, x, y, w, means, shared, stage) -> value, gradient, matrices [2, k, k] of Newton and of reweighting."""
    import jax
    import jax.numpy as jnp

    fitted, penalised = _functions(kind)

    def evaluate(theta: Any, x: Any, y: Any, w: Any, mean: Any, shared: Any, stage: Any) -> tuple[Any, Any, Any]:
        out, push = jax.linearize(lambda t: fitted(t, x, shared), theta)
        jacobian = jax.vmap(push)(jnp.eye(theta.shape[0]))
        # A point of weight 0 is padding or was not drawn; its values must not matter.
        there = w > 0
        r = jnp.where(there, out - y, 0.0)
        rho, newton, weight = _student(r, w, stage[0]) if kind.student else _rounded(r, stage)
        value, gradient = jnp.sum(w * rho), jacobian @ (w * weight * r)
        matrices = jnp.einsum("ip,mp,jp->mij", jacobian, w * jnp.stack([newton, weight]), jacobian)
        if kind.n_penalised:
            precision = shared[2]
            away = penalised(theta, shared) - mean
            slope = jax.jacfwd(penalised)(theta, shared)
            value = value + 0.5 * jnp.sum(precision * away**2)
            gradient = gradient + slope.T @ (precision * away)
            matrices = matrices + (slope.T * precision) @ slope
        free = 1.0 - shared[3]
        return value, free * gradient, free[:, None] * free * matrices

    def _rounded(r: Any, stage: Any) -> tuple[Any, Any, Any]:
        delta, over, under, unit = stage
        size = jnp.abs(r)
        inside = size < delta
        side = jnp.where(r > 0, over, under) / unit
        rho = jnp.where(inside, 0.5 * r * r, delta * (size - 0.5 * delta))
        return side * rho, jnp.where(inside, side, 0.0), side * jnp.where(inside, 1.0, delta / size)

    def _student(r: Any, w: Any, nu: Any) -> tuple[Any, Any, Any]:
        s = student_scale(r, w, nu, jnp, lambda n, step, first: jax.lax.fori_loop(0, n, lambda _, u: step(u), first))
        rho = 0.5 * (nu + 1.0) * jnp.log1p((r / s) ** 2 / nu) + jnp.log(s)
        weight = (nu + 1.0) / (nu * s**2 + r**2)
        return rho, weight, weight

    return evaluate


@cache
def _program(kind: _Kind, points: int, stages: int, table: tuple[tuple[int, ...], ...]) -> Any:
    """The compiled solver: (θ, x, y, w, means, shared, stages, tolerance) -> θ, gradient, matrix, iterations.

    Lanes in front, LANES of them. table: shapes of the pull's.
    """
    import jax

    number = lambda *shape: jax.ShapeDtypeStruct(shape, np.float64)  # noqa: E731
    free, columns = len(kind.free), len(kind.form.columns)
    traced = jax.jit(jax.vmap(_lane(kind), in_axes=(0, None, 0, 0, 0, None, None, None))).lower(
        number(LANES, free),
        number(columns, points),
        number(LANES, points),
        number(LANES, points),
        number(LANES, kind.n_penalised),
        (
            number(columns),
            number(len(kind.fixed)),
            number(kind.n_penalised),
            number(free),
            tuple(number(*s) for s in table),
        ),
        number(stages, 4),
        number(),
    )
    try:
        return traced.compile(compiler_options=COMPILER_OPTIONS)  # type: ignore[arg-type]
    except jax.errors.JaxRuntimeError:  # a jaxlib that does not know the option
        return traced.compile()


def _lane(kind: _Kind) -> Any:
    """One problem's descent, stage by stage. Lanes wait for each other only at the very end."""
    import jax
    import jax.numpy as jnp

    evaluate, held = _evaluator(kind), _held(kind)

    def propose(theta: Any, gradient: Any, matrices: Any, damping: Any) -> Any:
        newton, reweighted = matrices
        share = jnp.minimum(1.0, damping**0.2)
        diagonal = jnp.diag(reweighted)
        # The floor keeps the matrix regular when the data say nothing about a parameter (E driven to 0).
        extra = jnp.diag(damping * diagonal + 1e-14 * diagonal.max() + 1e-300)
        step = _solve_positive((1.0 - share) * newton + share * reweighted + extra, gradient)
        return theta - step * jnp.minimum(1.0, LONGEST_STEP / jnp.abs(step).max())

    def lane(theta: Any, x: Any, y: Any, w: Any, mean: Any, shared: Any, stages: Any, tolerance: Any) -> Any:
        size, last = theta.shape[0], stages.shape[0] - 1

        def step(state: dict[str, Any]) -> dict[str, Any]:
            at, damping = state["at"], state["damping"]
            there = evaluate(state["next"], x, y, w, mean, shared, stages[state["stage"]])
            first = state["spent"] == 0
            better = _once(((there[0] < at[1]) & held(state["next"], shared)) | first)
            change = jnp.abs(at[1] - there[0])
            still = ~first & (change <= tolerance * jnp.abs(at[1]) + 1e-27)
            damping = jnp.where(better, jnp.maximum(damping * 0.3, 1e-12), damping * 3.0)
            done = _once((still & (damping < 1e3)) | (damping > 1e12) | (state["spent"] >= MAX_ITERATIONS))
            at = [jnp.where(better, new, old) for new, old in zip((state["next"], *there), at, strict=True)]
            return {
                "at": at,
                "next": jnp.where(done, at[0], propose(at[0], at[2], at[3], damping)),
                "damping": jnp.where(done, 1e-2, damping),
                "stage": jnp.where(done, jnp.minimum(state["stage"] + 1, last), state["stage"]),
                "spent": jnp.where(done, 0, state["spent"] + 1),
                "iterations": state["iterations"] + 1,
                "end": done & (state["stage"] == last),
            }

        begin = {
            "at": [theta, jnp.inf, jnp.zeros(size), jnp.zeros((2, size, size))],
            "next": theta,
            "damping": 1e-2,
            "stage": 0,
            "spent": 0,
            "iterations": 0,
            "end": False,
        }
        final = jax.lax.while_loop(lambda s: ~s["end"], step, jax.tree.map(jnp.asarray, begin))
        theta, _, gradient, matrices = final["at"]
        return theta, gradient, matrices[1], final["iterations"]

    return lane


def _once(true: Any) -> Any:
    """The same value, computed once: XLA duplicates cheap operations into all kernels that read them, but not a
    square root."""
    import jax.numpy as jnp

    return jnp.sqrt(true.astype(jnp.float64)) > 0.5


def _solve_positive(matrix: Any, right: Any) -> Any:
    """x with matrix·x = right by Cholesky; NaN, which no descent accepts, where the matrix has no such root."""
    from jax.lax.linalg import cholesky, triangular_solve

    lower = cholesky(matrix, symmetrize_input=False)
    half = triangular_solve(lower, right[:, None], left_side=True, lower=True)
    return triangular_solve(lower, half, left_side=True, lower=True, transpose_a=True)[:, 0]
