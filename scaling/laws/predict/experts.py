"""What experts gain: the dense model that equals a mixture of experts, the compute saved, and the best mixture.

All functions take a fit of any law that reads experts. Intervals are over the fit's last draws and assume that the
form is right. For several sweeps that share exponents pass `fit[sweep]` of the pooled fit: its draws use all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, isnan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount
from scaling.laws.forms import Form
from scaling.laws.intervals.interval import Interval
from scaling.laws.pooled import FURTHEST, HALVINGS, Gain
from scaling.laws.predict.equal_size import ends_of, equal_sizes, require, samples_of
from scaling.laws.quantities import bisect, least_loss
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.table.flops_per_token import FlopsSurface
from scaling.names import offered

SPARSITY, GRANULARITY = ("A", "E"), ("G", "K")
"""letters of sparsity and of granularity; the first one that the law reads is used"""
REACH = 16.0
"""factor beyond the runs' values up to which the best is searched for"""
DRAWS, GRID, ROUNDS = 400, 25, 4
"""most draws of a best value; points of the grid it is searched on; rounds, each between the last best's
neighbours"""

PerToken = Callable[[Mapping[str, Any]], ArrayLike]
"""training FLOPs per token of models with columns by letter, N among them and D not"""


@dataclass(frozen=True)
class DenseWorth:
    """The dense model that is as good as a mixture of experts: its effective parameter count."""

    N: float
    """parameters of the dense model, counted as the law does; inf where none is as good"""
    times: float
    """N over the mixture's own N"""
    loss: float
    interval: Interval | None
    """of N; None before any draws"""
    level: float
    note: str
    """warnings: a mixture outside the runs, parameters that they leave open; empty without any"""


@dataclass(frozen=True)
class BestMixture:
    """The sparsity or granularity of the least loss (of the largest leverage), by a law."""

    column: str
    """letter: A, the share K/E of the experts that a token meets; E; G; or K"""
    value: float
    """inf or 0 where the loss still falls at the end of the search"""
    interval: Interval | None
    """None before any draws"""
    level: float
    seen: tuple[float, float]
    """least and largest of the runs"""
    outside: float | None
    """share of the draws whose best lies outside `seen`; None before any"""
    N: float | None
    """the best N at the budget, or the given one; None where the law does not read N"""
    D: float | None
    loss: float
    """the law's prediction there"""
    note: str
    """warnings: an optimum outside the runs, parameters that they leave open; empty without any"""

    @property
    def sparsity(self) -> float | None:
        """(E − K)/E, for a law of K/E."""
        return 1.0 - self.value if self.column == "A" else None


def dense_worth(fit: FittedLaw, *, level: float = 0.9, **columns: float) -> DenseWorth:
    """How large a dense model a mixture of experts is worth, trained on the same tokens.

    columns: of the mixture by letter, all that the law reads, such as N=1e9, D=2e10, E=64.
    Raises UserError for a law without dense models, where a column is missing, and for an impossible mixture.
    """
    target, sizes = equal_sizes(fit, columns, _dense(fit.form))
    _require_possible(fit.form, columns)
    times = float(sizes[0] / columns["N"])
    ends, note = ends_of(fit, sizes, level), _told(fit, _beyond(fit, columns))
    return DenseWorth(float(sizes[0]), times, float(target[0]), ends, level, note)


def compute_saving(
    fit: FittedLaw,
    C: float | None = None,
    *,
    level: float = 0.9,
    flops_per_token: PerToken | None = None,
    **mixture: float,
) -> Gain:
    """How many times less compute a mixture of experts needs than the best dense model of `C` FLOPs for its loss.

    C: None: the largest of the runs. mixture: its columns by letter, such as E=8, without N and D, which are optimal
    at each budget. flops_per_token: of columns by letter; None: a smooth function through the runs' own FLOPs.
    Raises UserError for a law without dense models, or of other sizes than N and D, where a column is missing, and
    for a mixture that there is not.
    """
    form, dense = fit.form, _dense(fit.form)
    _require(form, mixture, [letter for letter in form.columns if letter not in ("N", "D")], sizes=True)
    _require_possible(form, mixture)
    C = float(fit.runs.flops.max()) if C is None else amount(C)
    samples, per_token = samples_of(fit), flops_per_token or flops_per_token_of(fit)

    def least(kind: Mapping[str, float], log_C: Array) -> Array:
        return _least(form, samples, kind, log_C, per_token)[2]

    at = np.full(len(samples), np.log(C))
    target = least(dense, at)
    needed = bisect(lambda c: least(mixture, c) < target, at - FURTHEST, at + FURTHEST, np, HALVINGS)
    never, always = needed > at + FURTHEST - 1e-6, needed < at - FURTHEST + 1e-6
    times = np.where(never, 0.0, np.where(always, inf, np.exp(at - needed)))
    label = ", ".join(f"{letter} = {value:g}" for letter, value in mixture.items())
    ends, note = ends_of(fit, times, level), _told(fit, _beyond(fit, mixture))
    return Gain(label, "dense", C, float(target[0]), float(times[0]), ends, level, note)


def best_sparsity(
    fit: FittedLaw,
    C: float | None = None,
    *,
    level: float = 0.9,
    flops_per_token: PerToken | None = None,
    **given: float,
) -> BestMixture:
    """How sparse a mixture of experts should be at a budget of `C` training FLOPs: the best K/E, or number of them.

    given: columns by letter that are fixed, such as N, or G; otherwise N and D are optimal at the budget, and a
    column with one value in all runs has that value. flops_per_token: as in `compute_saving`.
    Raises UserError for a law that reads neither A nor E, and where a column is missing.
    """
    return _best(fit, SPARSITY, C, level, flops_per_token, given)


def best_granularity(
    fit: FittedLaw,
    C: float | None = None,
    *,
    level: float = 0.9,
    flops_per_token: PerToken | None = None,
    **given: float,
) -> BestMixture:
    """How fine the experts should be at a budget of `C` training FLOPs: the best G, or number of experts per token.

    The cost of a finer router counts if the runs' own FLOPs include it. given, flops_per_token: as in
    `best_sparsity`.
    Raises UserError for a law that reads neither G nor K, and where a column is missing.
    """
    return _best(fit, GRANULARITY, C, level, flops_per_token, given)


def _best(
    fit: FittedLaw,
    letters: tuple[str, ...],
    C: float | None,
    level: float,
    flops_per_token: PerToken | None,
    given: Mapping[str, float],
) -> BestMixture:
    form, runs = fit.form, fit.runs
    letter = next((each for each in letters if each in form.columns), None)
    if letter is None:
        raise UserError(f"{form.name} reads {', '.join(form.columns)}: it says nothing of {' or '.join(letters)}")
    C = None if C is None else amount(C)
    fixed = _held(fit, letter, C, given)
    natural = samples_of(fit)
    samples = natural[np.unique(np.linspace(0, len(natural) - 1, DRAWS + 1).astype(int))]
    sized = {"N", "D"} <= {*form.columns} and "D" not in fixed
    per_token = (flops_per_token or flops_per_token_of(fit)) if sized else None
    sign = 1.0 if form.predicts.in_unit else -1.0

    def tried(x: Array) -> tuple[Array, Array, Array]:
        kind: dict[str, Any] = {**fixed, letter: np.exp(x)}
        many = np.broadcast_to(samples[:, None, :], (*x.shape, samples.shape[-1]))
        if per_token is None:
            loss = form.loss(many, [np.broadcast_to(kind[c], x.shape) for c in form.columns])
            return np.full(x.shape, kind.get("N", np.nan)), np.full(x.shape, kind.get("D", np.nan)), loss
        return _least(form, many, kind, np.full(x.shape, np.log(C or np.nan)), per_token)

    seen = float(runs.column(letter).min()), float(runs.column(letter).max())
    feed = form.feed(letter)
    sought = max(seen[0] / REACH, feed.least), min(seen[1] * REACH, feed.most)
    x = _least_by_grids(lambda x: sign * tried(x)[2], np.log(sought), len(samples))
    N, D, loss = (float(values[0, 0]) for values in tried(x[:, None]))
    values = np.exp(x)
    values = np.where(np.isclose(values, sought[1]) & (sought[1] < feed.most), inf, values)
    values = np.where(np.isclose(values, sought[0]) & (sought[0] > feed.least), 0.0, values)
    beyond = (values < seen[0] / 1.001) | (values > seen[1] * 1.001)
    return BestMixture(
        column=letter,
        value=float(values[0]),
        interval=ends_of(fit, values, level),
        level=level,
        seen=seen,
        outside=None if fit.draws is None else float(beyond[1:].mean()),
        N=None if isnan(N) else N,
        D=None if isnan(D) else D,
        loss=loss,
        note=_told(fit, _note(letter, float(values[0]), seen, sought) if beyond[0] else ""),
    )


def _told(fit: FittedLaw, note: str) -> str:
    """`note`, and those of the draws: what the runs leave open."""
    return "; ".join(filter(None, [note, *(fit.draws.notes if fit.draws else ())]))


def _note(letter: str, value: float, seen: tuple[float, float], sought: tuple[float, float]) -> str:
    runs = f"outside the runs' {seen[0]:.3g} to {seen[1]:.3g}"
    if value in (0.0, inf):
        return f"by this law the loss still falls at {letter} = {sought[value > 0]:.3g}, the search's end, {runs}"
    return f"the best {letter} = {value:.3g} lies {runs}: make runs there before relying on it"


def _held(fit: FittedLaw, letter: str, C: float | None, given: Mapping[str, float]) -> dict[str, float]:
    """The columns that are not optimised: the given ones, C, and those with one value in all runs.

    Raises UserError for an unknown column, and for a missing budget.
    """
    form, held = fit.form, dict(given)
    if unknown := [name for name in given if name not in form.columns or name == letter]:
        raise UserError(
            f"{form.name}: {', '.join(unknown)} cannot be given; {offered(unknown[0], form.columns, 'it reads ')}"
        )
    _require_possible(form, given)
    if C is not None:
        held |= {"C": C} if "C" in form.columns else {}
    elif "D" in form.columns and "D" not in given:
        raise UserError(f"{form.name}: the best {letter} depends on the budget: give C=…, in FLOPs, or N=… and D=…")
    for other in form.columns:
        if other in held or other == letter or other == "D" or (other == "N" and "D" in form.columns and C):
            continue
        values = np.unique(fit.runs.column(other))
        if len(values) > 1:
            raise UserError(
                f"{form.name}: give {other}=…; the runs have {values[0]:.3g} to {values[-1]:.3g} of it "
                f"({form.feed(other).about})"
            )
        held[other] = float(values[0])
    return held


def _least(
    form: Form, samples: Array, kind: Mapping[str, Any], log_C: Array, per_token: PerToken
) -> tuple[Array, Array, Array]:
    """N*, D*, L* [...] at log FLOPs [...] for parameters [..., k]; kind: the other columns, and N if it is fixed."""

    def tokens(n: Array) -> Array:
        return np.asarray(np.exp(log_C) / per_token({**kind, "N": np.exp(n)}), np.float64)

    def loss(n: Array) -> Array:
        columns = {**kind, "N": np.exp(n), "D": tokens(n)}
        return form.loss(samples, [np.broadcast_to(columns[letter], n.shape) for letter in form.columns])

    if "N" in kind:
        best = np.full(log_C.shape, np.log(kind["N"]))
    else:
        middle = 0.5 * (log_C - np.log(6.0))
        best = least_loss(loss, middle - 2 * FURTHEST, middle + 2 * FURTHEST)
    return np.exp(best), tokens(best), loss(best)


def best_sizes(form: Form, samples: Array, log_C: Array, per_token: PerToken) -> tuple[Array, Array, Array]:
    """N*, D*, L* [...] of a law of N and D at log FLOPs [...] for parameters [..., k]."""
    return _least(form, samples, {}, log_C, per_token)


def _least_by_grids(function: Callable[[Array], Array], ends: Array, samples: int) -> Array:
    """[samples]: the minimiser between the ends of a function of [samples, GRID], by successively finer grids."""
    low, high = (np.full(samples, end) for end in ends)
    for _ in range(ROUNDS):
        x = np.linspace(low, high, GRID, axis=-1)
        best = np.argmin(function(x), axis=-1)
        rows = np.arange(len(x))
        low, high = x[rows, np.maximum(best - 1, 0)], x[rows, np.minimum(best + 1, GRID - 1)]
    return np.asarray(x[rows, best])


def _dense(form: Form) -> dict[str, float]:
    """A dense model's values of the mixture columns. Raises UserError for a law that has no dense models."""
    known = {letter: dense for letter in form.columns if (dense := form.feed(letter).dense) is not None}
    if not known or any(map(isnan, known.values())):
        raise UserError(
            f"{form.name} is a law of {', '.join(form.columns)} and has no dense models to compare with; "
            "take one that has, such as ludziejewski"
        )
    return known


def _require_possible(form: Form, columns: Mapping[str, float]) -> None:
    """Raises UserError for a value that no model can have."""
    for letter, value in columns.items():
        form.require_possible(letter, value)


def _beyond(fit: FittedLaw, columns: Mapping[str, float]) -> str:
    """The warning for more or fewer experts than in the runs."""
    for letter, value in columns.items():
        seen = fit.runs.column(letter)
        about_experts = fit.form.feed(letter).dense is not None
        if about_experts and not seen.min() / 1.001 <= value <= seen.max() * 1.001:
            runs = f"outside the runs' {seen.min():.3g} to {seen.max():.3g}"
            return f"{letter} = {value:.3g} lies {runs}: it rests on the law's form alone"
    return ""


def _require(form: Form, given: Mapping[str, float], required: Any, sizes: bool = False) -> None:
    """Raises UserError unless exactly the required columns are given; sizes: also unless the law has N and D."""
    if sizes and not {"N", "D"} <= {*form.columns}:
        raise UserError(f"{form.name} is a law of {', '.join(form.columns)}: no best N and D follow from it")
    require(form, given, required)


def flops_per_token_of(fit: FittedLaw) -> PerToken:
    """Training FLOPs per token from the runs' own, or 6·N where N counts active parameters. Raises UserError else."""
    form, runs = fit.form, fit.runs
    if runs.C is not None:
        letters = [letter for letter in form.columns if letter not in ("D", "C")]
        return FlopsSurface.through({letter: runs.column(letter) for letter in letters}, runs.flops / runs.D)
    if form.feed("N").column != "params_active":
        raise UserError(
            f"{form.name} counts {form.feed('N').about}: FLOPs do not follow from them; name the runs' column of "
            "FLOPs (C) or give flops_per_token="
        )
    return lambda columns: 6.0 * np.asarray(columns["N"], np.float64)
