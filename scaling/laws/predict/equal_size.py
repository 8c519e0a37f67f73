"""The size at which another kind of model has the loss of a given one, by a fitted law and its draws."""

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.forms import Form
from scaling.laws.intervals.interval import Interval, interval
from scaling.laws.pooled import FURTHEST, HALVINGS
from scaling.laws.quantities import bisect
from scaling.laws.solve.fitted_law import FittedLaw


def samples_of(fit: FittedLaw) -> Array:
    """The parameters of the fit, then those of its draws [1 + draws, k]."""
    return fit.natural[None] if fit.draws is None else np.vstack([fit.natural, fit.draws.samples])


def ends_of(fit: FittedLaw, values: Array, level: float) -> Interval | None:
    """The interval of what was computed of `samples_of`; None before any draws."""
    return None if fit.draws is None else interval(values[1:], level)


def equal_sizes(fit: FittedLaw, model: Mapping[str, float], other: Mapping[str, float]) -> tuple[Array, Array]:
    """(loss of `model`, N at which a model with `other`'s columns in place of its own has it), each [1 + draws].

    model: columns by letter, all that the law reads. N is inf where no size within e^FURTHEST is as good.
    Raises UserError where a column is missing.
    """
    form = fit.form
    require(form, model, form.columns)
    samples, own = samples_of(fit), float(np.log(model["N"]))
    target = form.loss(samples, [np.float64(model[letter]) for letter in form.columns])

    def enough(n: Array) -> Any:
        return form.loss(samples, [np.exp(n) if c == "N" else {**model, **other}[c] for c in form.columns]) < target

    found = bisect(enough, np.full(len(samples), own - FURTHEST), np.full(len(samples), own + FURTHEST), np, HALVINGS)
    return target, np.where(found > own + FURTHEST - 1e-6, inf, np.exp(found))


def require(form: Form, given: Mapping[str, float], required: Any) -> None:
    """Raises UserError unless all that is asked for is given, and nothing else."""
    if {*given} != {*required}:
        asked = f"positive {', '.join(required)}" if required else "no column here"
        raise UserError(f"{form.name} asks for {asked}; got {', '.join(given) or 'nothing'}")
    for letter, value in given.items():
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{form.name} asks for positive {', '.join(required)}; got {letter}={value:g}")
