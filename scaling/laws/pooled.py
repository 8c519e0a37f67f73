"""Several groups of runs fitted as one law; the compute multiplier between groups, and a test of the shared
parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount, whole
from scaling.laws.forms import Form
from scaling.laws.forms.form import GROUP, Pooling
from scaling.laws.forms.pooled import pooled
from scaling.laws.intervals.interval import Interval, interval
from scaling.laws.quantities import BRACKET, bisect, least_loss
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.problem import Problem, make_problem, median_sigma
from scaling.laws.solve.solver import solve
from scaling.laws.table.given import UNSET, array_of, text_column
from scaling.laws.table.recipe import other_text_by
from scaling.laws.table.runs import Runs
from scaling.names import offered, several

FURTHEST = float(np.log(1e6))
"""a compute multiplier is searched for this far in log C on both sides of 1"""
HALVINGS = 40
SAME = "they share every parameter and count FLOPs as 6·N·D: 1 by that, whatever the runs say"
SIMULATIONS = 200
"""default number of simulations of a test of sharing"""


@dataclass(frozen=True)
class Gain:
    """The factor by which a group needs less compute than the first: its compute-equivalent gain."""

    group: str
    against: str
    C: float
    """training FLOPs of the first group"""
    loss: float
    """the loss that the first group reaches with C at its best N and D"""
    multiplier: float
    """the first group's FLOPs over the group's own for that loss: above 1, the group is better"""
    interval: Interval | None
    """over the last draws; None before any"""
    level: float
    note: str = ""
    """warning about a kind of model outside the runs"""


@dataclass(frozen=True)
class SharingTest:
    """Test of the shared parameters: how much better a law that shares nothing fits."""

    statistic: float
    """objective of the shared law over that of separate laws for each group, less 1"""
    p_value: float
    """share of simulations of the shared law, the runs themselves counted as one, that gain as much"""
    simulations: int
    parameters: tuple[int, int]
    """number of parameters of the shared law and of the separate laws"""


def pooling_of(fit: FittedLaw) -> Pooling:
    """The pooling of a fit. Raises UserError for a fit without groups."""
    if fit.form.pooling is None:
        raise UserError(f"{fit.form.name} is one law of all runs; fit several groups with group=… and shared=(…)")
    return fit.form.pooling


def group_of(fit: FittedLaw, group: str) -> tuple[Any, ...]:
    """Arguments for a `Fit` of one of the groups: its law, its runs, its parameters and its share of the draws.

    Raises UserError for an unknown group.
    """
    pooling, group = pooling_of(fit), str(group)
    if group not in pooling.groups:
        raise UserError(f"no group {group!r}; {offered(group, pooling.groups, 'there are ')}")
    runs, names = runs_of_group(fit, group), pooling.names(group)
    fixed = {name: fit.fixed[own] for name, own in zip(pooling.base.params, names, strict=True) if own in fit.fixed}
    common = fit.problem.common * (median_sigma(fit.runs, fit.residual) / median_sigma(runs, fit.residual)) ** 2
    problem = make_problem(runs, pooling.base, fit.loss, fit.residual, fixed, common)
    where = [fit.form.params.index(name) for name in names]
    draws = None if fit.draws is None else replace(fit.draws, samples=fit.draws.samples[:, where])
    freedom = fit.freedom * len(runs) / len(fit.runs)
    return problem, runs, fit.natural[where], fit.diagnostics, {}, np.arange(len(runs)), draws, freedom


def gains(fit: FittedLaw, C: float | None, level: float) -> dict[str, Gain]:
    """See `Fit.gain`."""
    pooling = pooling_of(fit)
    if why := other_text_by(fit.runs.conventions):
        raise UserError(f"no compute multiplier: {why}")
    runs = {group: runs_of_group(fit, group) for group in pooling.groups}
    C = min(float(own.flops.max()) for own in runs.values()) if C is None else amount(C)
    samples = fit.natural[None] if fit.draws is None else np.vstack([fit.natural, fit.draws.samples])

    def least(group: str, log_C: Array) -> Array:
        where = [fit.form.params.index(name) for name in pooling.names(group)]
        return least_at(pooling.base, samples[:, where], log_C, runs[group])

    first, at = pooling.groups[0], np.full(len(samples), np.log(C))
    target, found = least(first, at), {}
    note = SAME if fit.runs.C is None and not set(pooling.base.params) - set(pooling.shared) else ""
    for group in pooling.groups[1:]:
        enough = partial(_reaches, least, group, target)
        needed = bisect(enough, at - FURTHEST, at + FURTHEST, np, HALVINGS)
        never, always = needed > at + FURTHEST - 1e-6, needed < at - FURTHEST + 1e-6
        times = np.where(never, 0.0, np.where(always, np.inf, np.exp(at - needed)))
        ends = None if fit.draws is None else interval(times[1:], level)
        found[group] = Gain(group, first, C, float(target[0]), float(times[0]), ends, level, note)
    return found


def _reaches(least: Callable[[str, Array], Array], group: str, target: Array, log_C: Array) -> Any:
    return least(group, log_C) < target


def sharing(fit: FittedLaw, n: int, seed: int) -> SharingTest:
    """See `Fit.test_sharing`."""
    n, seed = whole(n, "test_sharing: n", 1), whole(seed, "test_sharing: seed")
    pooling = pooling_of(fit)
    if not pooling.shared:
        raise UserError("no parameter is shared, so there is nothing to test")
    form, apart = pooled(pooling.base, pooling.groups, ()), Pooling(pooling.base, pooling.groups, ())
    named: dict[str, str] = {}
    for group in pooling.groups:
        named |= dict(zip(apart.names(group), pooling.names(group), strict=True))
    fixed = {name: fit.fixed[own] for name, own in named.items() if own in fit.fixed}
    problem = make_problem(fit.runs, form, fit.loss, fit.residual, fixed, fit.problem.common)
    start = problem.theta(np.array([fit.params[named[name]] for name in form.params]))
    rng, weights = np.random.default_rng(seed), fit.problem.weights
    noise = fit.residual_sd / np.sqrt(weights) * rng.standard_normal((n, len(weights)))
    y = np.vstack([fit.problem.y, fit.problem.y + fit.residuals + noise])

    def objectives(problem: Problem, theta: Array) -> Array:
        return solve(problem, np.broadcast_to(theta, (len(y), len(theta))), y, tolerance=1e-9).objective

    gained = objectives(fit.problem, fit.theta) / objectives(problem, start) - 1
    p_value = (1 + int(np.sum(gained[1:] >= gained[0]))) / (n + 1)
    return SharingTest(float(gained[0]), p_value, n, (len(fit.problem.free), len(problem.free)))


def runs_of_group(fit: FittedLaw, group: str) -> Runs:
    """The rows of one group as a table."""
    return fit.runs.rows_where(rows_of_group(fit, group))


def rows_of_group(fit: FittedLaw, group: str) -> NDArray[np.bool_]:
    """Which rows belong to a group."""
    return np.asarray(fit.runs.column(GROUP) == pooling_of(fit).groups.index(group) + 1)


def trades_compute(form: Form) -> bool:
    """Whether groups of this law have compute multipliers."""
    return form.columns == ("C",) or set(form.columns) == {"N", "D"}


def least_at(form: Form, natural: Array, log_C: Array, runs: Runs) -> Array:
    """L* [n] for parameters [n, k], each at its own log FLOPs [n], with the FLOPs per token of these runs."""
    if form.columns == ("C",):
        return form.loss(natural, [np.exp(log_C)])
    if not trades_compute(form):
        raise UserError(f"{form.name} is a law of {', '.join(form.columns)}: its groups have no compute multipliers")

    def loss(n: Array) -> Array:
        sizes = {"N": np.exp(n), "D": np.exp(log_C) / runs.per_token(np.exp(n))}
        return form.loss(natural, [sizes[name] for name in form.columns])

    middle = 0.5 * (log_C - np.log(6.0))
    return loss(least_loss(loss, middle - BRACKET, middle + BRACKET))


def pool(runs: Runs, form: Form, group: str | ArrayLike, shared: Sequence[str]) -> tuple[Runs, Form]:
    """The runs with the number of each one's group, and the pooled law.

    group: name of a column of the table, or a label for each row in the order the rows were given.
    Raises UserError where there is no such column, where it has a single value, and where a group has too few runs.
    """
    if isinstance(group, str) and group not in runs.labels:
        raise UserError(
            f"group: the table has no column {group!r} of labels; it has {', '.join(runs.labels) or 'none'}: columns "
            "that sort the rows into a few groups; or give a label for each row"
        )
    names = text_column(runs.labels[group] if isinstance(group, str) else array_of(group))
    if names.shape != (len(runs),):
        raise UserError(f"group must hold a label for each of {len(runs)} rows; got {names.shape}")
    if lacking := sum(name in UNSET for name in names):
        raise UserError(f"group: {lacking} of {len(names)} rows have no label; leave them out or give them one")
    groups = tuple(dict.fromkeys(names.tolist()))
    if len(groups) < 2:
        raise UserError(f"group must tell two groups or more apart; all rows are {groups[0]!r}")
    shared = several(shared)
    law = pooled(form, groups, shared)
    own = sum(name not in shared for name in form.params)
    short = [f"{name} ({count})" for name in groups if (count := int(np.sum(names == name))) < own + 1]
    if short:
        raise UserError(f"each group has {own} parameters of its own and needs {own + 1} runs; too few: {short}")
    numbering = ", ".join(f"{i} {name}" for i, name in enumerate(groups, 1))
    codes = np.array([groups.index(name) + 1 for name in names], np.float64)
    return runs.with_column(GROUP, codes, numbering), law
