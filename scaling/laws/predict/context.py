"""What a longer context is worth, in parameters that would lower the loss as much; and the best context."""

from dataclasses import dataclass
from math import inf

import numpy as np

from scaling.errors import UserError
from scaling.laws.intervals.interval import Interval, check_level
from scaling.laws.predict.equal_size import ends_of, equal_sizes, require, samples_of
from scaling.laws.solve.fitted_law import FittedLaw


@dataclass(frozen=True)
class ContextWorth:
    """How much larger a model of the shorter context must be to equal one of the longer, on the same tokens."""

    longer: float
    """tokens of the longer context"""
    times: float
    """factor of parameters that a model of the shorter context needs; inf where none is as good"""
    loss: float
    """of the longer context, in the unit of the runs"""
    interval: Interval | None
    """of `times`; None before any draws"""
    level: float
    seen: tuple[float, float]
    """least and largest context of the runs"""
    notes: tuple[str, ...] = ()
    """of the draws: what the data leave open"""


def context_worth(
    fit: FittedLaw, *, T: float, times: float = 2.0, level: float = 0.9, **columns: float
) -> ContextWorth:
    """By what factor a model with a context of `T` tokens must grow to equal one with `times` as long a context.

    fit: of a law that reads N and T, such as `chinchilla_context`. columns: the law's other columns by letter, such
    as N=1e9, D=2e10; both models share all but N. The interval is over the fit's last draws and assumes that the form
    is right; each run's loss is measured on windows as long as its own context.
    Raises UserError for a law that lacks N or T, and where a column is missing or out of range.
    """
    check_level(level)
    if not {"N", "T"} <= {*fit.form.columns}:
        raise UserError(
            f"{fit.form.name} reads {', '.join(fit.form.columns)}: what context is worth in parameters takes a law "
            "of N and T, such as chinchilla_context"
        )
    if not times > 1:
        raise UserError(f"context_worth: times={times:g} is how many times longer the context is, more than 1")
    require(fit.form, columns | {"T": T}, fit.form.columns)
    target, sizes = equal_sizes(fit, columns | {"T": T * times}, {"T": T})
    more = np.where(np.isinf(sizes), inf, sizes / columns["N"])
    return ContextWorth(T * times, float(more[0]), float(target[0]), ends_of(fit, more, level), level, *_about(fit))


@dataclass(frozen=True)
class BestContext:
    """The context of the least loss, by a law that has one."""

    T: float
    """tokens; inf where a longer one is always better, 0 where a shorter one is"""
    interval: Interval | None
    """None before any draws"""
    level: float
    seen: tuple[float, float]
    """least and largest of the runs"""
    notes: tuple[str, ...] = ()
    """of the draws: what the data leave open"""


def best_context(fit: FittedLaw, *, level: float = 0.9, D: float | None = None) -> BestContext:
    """The context at which the gain from a longer one and its cost are in balance:

        T* = (γK·D^β / δB)^(1/(γ + δ))    of L = … + K/T^γ + B·T^δ/D^β, where the slopes of both terms cancel.

    fit: of `context_optimum`, or of `chinchilla_context_optimum` at `D` tokens; under the latter T* grows as
    D^(β/(γ + δ)) and is the same at every size. The interval is as that of `context_worth`.
    Raises UserError for another law, and for D that the law does not read or that is missing.
    """
    check_level(level)
    form = fit.form
    if not {"K", "gamma", "B", "delta"} <= {*form.params}:
        raise UserError(
            f"{form.name} has no best context: take context_optimum, or chinchilla_context_optimum of several sizes"
        )
    require(form, {} if D is None else {"D": D}, [letter for letter in form.columns if letter == "D"])
    p = dict(zip(form.params, samples_of(fit).T, strict=True))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        data = 0.0 if D is None else p["beta"] * np.log(D)
        log_T = np.log(p["gamma"] / p["delta"]) + np.log(p["K"]) - np.log(p["B"]) + data
        balanced = np.exp(log_T / (p["gamma"] + p["delta"]))
    one_way = np.where((p["gamma"] > 0) | (p["delta"] < 0), inf, 0.0)
    best = np.where(p["gamma"] * p["delta"] > 0, balanced, one_way)  # both below 0: the terms change places
    return BestContext(float(best[0]), ends_of(fit, best, level), level, *_about(fit))


def _about(fit: FittedLaw) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Least and largest context of the runs; the notes of the draws."""
    contexts = fit.runs.column("T")
    return (float(contexts.min()), float(contexts.max())), () if fit.draws is None else fit.draws.notes
