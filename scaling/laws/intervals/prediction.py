"""Predictions of a fitted law with intervals: losses of untrained runs, and the best N and D at a budget."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount, real
from scaling.laws.forms.form import GROUP
from scaling.laws.forms.pooled import group_numbers
from scaling.laws.intervals.interval import Interval, interval
from scaling.laws.quantities import compute_optimal, quantity
from scaling.laws.solve.diagnostics import without_effect
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.objectives import transform, untransform
from scaling.laws.table.flops_per_token import FlopsPerToken
from scaling.laws.table.given import array_of, require_same_rows


@dataclass(frozen=True)
class PredictedLoss:
    """A loss, or an array of losses, with two intervals: one for the law and one for a single run.

    Both assume that the law's form is right; `laws.Forecaster` does not. They are None before any draws.
    """

    loss: Any
    low: Any = None
    """end of the law's own interval"""
    high: Any = None
    level: float | None = None
    """coverage of both intervals"""
    run_low: Any = None
    """end of the interval of a single run, which scatters around the law as the fitted runs do"""
    run_high: Any = None

    def __float__(self) -> float:
        return float(self.loss)


@dataclass(frozen=True)
class Optimum:
    """The compute-optimal model at a budget; intervals are None before any draws."""

    C: float
    N: float
    D: float
    loss: float
    level: float | None = None
    N_interval: Interval | None = None
    D_interval: Interval | None = None
    loss_interval: Interval | None = None
    tokens_per_param_interval: Interval | None = None

    @property
    def tokens_per_param(self) -> float:
        """D*/N*."""
        return self.D / self.N


def predicted_loss(fit: FittedLaw, columns: dict[str, ArrayLike], level: float) -> PredictedLoss:
    """L at columns by letter, each of any shape; see `Fit.predict`."""
    form = fit.form
    missing = [name for name in form.columns if columns.get(name) is None]
    if missing:
        got = f"; got {', '.join(columns)}" if columns else ""
        raise UserError(f"predict: {form.name} needs {' and '.join(missing)}{got}")
    require_same_rows(columns)
    if form.pooling is not None:
        columns = {**columns, GROUP: group_numbers(form.pooling, columns[GROUP])}
    numbers = {name: _numbers(name, columns[name]) for name in form.columns}
    try:
        given = np.broadcast_arrays(*numbers.values())
    except ValueError:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in numbers.items())
        raise UserError(
            f"predict: the shapes of {shapes} do not fit together; for every pair, give one as a column: N[:, None]"
        ) from None
    if any((column <= 0).any() or not np.isfinite(column).all() for column in given):
        raise UserError(f"predict: {' and '.join(form.columns)} must be positive and finite")
    for name, column in numbers.items():
        form.require_possible(name, column)
    value = form.loss(fit.natural, given)
    loss = float(value) if np.ndim(value) == 0 else value
    if fit.draws is None:
        return PredictedLoss(loss)
    samples = fit.draws.samples
    drawn = form.loss(samples.reshape(len(samples), *(1,) * given[0].ndim, samples.shape[1]), given)
    low, high = interval(np.moveaxis(drawn, 0, -1), level)
    return PredictedLoss(loss, low, high, level, *interval(np.moveaxis(single_runs(fit, drawn), 0, -1), level))


def _numbers(name: str, values: ArrayLike) -> Array:
    """A column [...] as float64; texts such as 7B are numbers, as in tables."""
    given = array_of(values)
    if given.dtype.kind in "iuf":
        return given.astype(np.float64)
    found = [real(value, f"predict: {name} must be numbers") for value in given.ravel().tolist()]
    return np.array(found, np.float64).reshape(given.shape)


def single_runs(fit: FittedLaw, drawn: Array, seed: int = 0) -> Array:
    """Losses [draws, …] of single runs of weight 1 around those of the drawn laws."""
    rng = np.random.default_rng(seed)
    shape = (-1, *(1,) * (drawn.ndim - 1))
    scatter = (fit.residual_sd * rng.standard_t(fit.freedom, len(drawn))).reshape(shape)
    with np.errstate(invalid="ignore", over="ignore"):  # a draw may have no loss there
        return np.asarray(untransform(transform(drawn, fit.residual, np) + scatter, fit.residual, np))


def optimum_at(fit: FittedLaw, C: float, level: float, flops_per_token: FlopsPerToken | None) -> Optimum:
    """See `Fit.optimal`."""
    C = amount(C)
    N, D, loss = (float(v) for v in compute_optimal(fit.form, fit.natural, C, flops_per_token))
    if fit.draws is None:
        return Optimum(C, N, D, loss)
    drawn = compute_optimal(fit.form, fit.draws.samples, C, flops_per_token)
    ends = [interval(values, level) for values in (*drawn, drawn[1] / drawn[0])]
    return Optimum(C, N, D, loss, level, *ends)


def interval_of(
    fit: FittedLaw, name: str, level: float, C: float | None = None, flops_per_token: FlopsPerToken | None = None
) -> Interval:
    """See `Fit.interval`.

    A draw leaves a parameter without effect where the search ended, so that end of its interval is open.
    """
    if fit.draws is None:
        raise UserError("no interval yet: call fit.bootstrap() or fit.draw() first")
    low, high = interval(quantity(fit.form, fit.draws.samples, name, C, flops_per_token), level)
    if name not in fit.diagnostics.at_bounds or name not in fit.problem.free:
        return low, high
    share = next(p.kind == "share" for p in fit.form.parameters if p.name == name)
    down, up = without_effect(fit.problem, fit.theta)[name]
    return 0.0 if down else low, (1.0 if share else np.inf) if up else high
