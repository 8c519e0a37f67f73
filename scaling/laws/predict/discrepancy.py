"""How far the world departs from a law, and the law from the world: what no fit to one table can say of itself.

A run's log loss is the law's, plus the error of its parameters, plus the run's own scatter, plus a discrepancy of the
form itself (Kennedy and O'Hagan 2001): a random walk in log FLOPs, of variance κ²·ln(C/C_max) beyond the largest run
fitted. κ, and how the parameters' own error compares with what came out, are learned on published runs
(experiments/forecasting; `learned.json` says which) and shipped. The user's own runs then sharpen them: the law is
fitted up to budgets within the runs and held against those beyond, and the variance is moved to what comes out there,
the published runs counting as `Learned.worth` such budgets.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.forms import Form
from scaling.laws.predict.near_law import NearLaw, near_law, nearness
from scaling.laws.solve.priors import Prior
from scaling.laws.table.runs import Runs
from scaling.laws.validate.backtest import default_cuts

FEWEST, CUTS = 8, 4
"""runs at the first own cut, and most own cuts"""
BEYOND = 1.5
"""how many times a cut's FLOPs a run is at least to test it"""
WILDEST = 9.0
"""a squared error counts as this many variances at most"""


@dataclass(frozen=True, eq=False)
class Errors:
    """Forecasts of single runs by a law, and what came out; all [points]."""

    error: Array
    """log(forecast / actual)"""
    law: Array
    """standard deviation that the parameters' error gives log L"""
    run: Array
    """a single run's scatter"""
    ahead: Array
    """C/C_max"""
    weight: Array
    """how much each counts"""


@dataclass(frozen=True)
class Discrepancy:
    """Variances of log loss around a forecast."""

    kappa: float
    """standard deviation of the form's error an e-fold of FLOPs beyond the runs"""
    law: float
    """the error of a law's parameters, in units of its own standard deviation"""
    widened: float = 1.0
    """factor on all standard deviations but a run's scatter, from the user's own runs"""
    own: tuple[float, ...] = ()
    """mean squared errors at the user's own cuts, in units of the variances expected"""

    def form_sd(self, ahead: ArrayLike) -> Array:
        """Of the form's own error; ahead: C/C_max."""
        return np.asarray(self.widened * self.kappa * np.sqrt(np.log(np.maximum(ahead, 1.0))))

    def law_sd(self, sd: ArrayLike) -> Array:
        """Of the parameters' error, from the law's own standard deviation."""
        return np.asarray(self.widened * self.law * np.asarray(sd))

    def variance(self, of: Errors) -> Array:
        """Of log loss around forecasts [points]."""
        return np.asarray(self.law_sd(of.law) ** 2 + self.form_sd(of.ahead) ** 2 + of.run**2)

    def sharpened(self, cuts: Sequence[Errors], worth: float) -> "Discrepancy":
        """Moved to the errors at the user's own cuts; worth: of how many of these the learned values are."""
        squares = [np.minimum(cut.error**2 / self.variance(cut), WILDEST) for cut in cuts]
        own = tuple(float(np.average(z, weights=cut.weight)) for z, cut in zip(squares, cuts, strict=True))
        return replace(self, widened=float(np.sqrt((worth + sum(own)) / (worth + len(own)))), own=own)


@dataclass(frozen=True)
class Learned:
    """What published runs say: experiments/forecasting learns it and writes it down."""

    provenance: dict[str, Any]
    """the sets, the protocol, the command"""
    freedom: float
    """degrees of freedom of the Student's t that errors follow"""
    worth: float
    """own cuts that it counts as beside a user's"""
    laws: dict[str, dict[str, float]]
    record: dict[str, Any]
    """how the default forecaster fared on each set, the values learned without the set's family"""

    def of(self, form: Form) -> Discrepancy:
        """A law's discrepancy; for one that was not tried, the largest of those that were."""
        of = self.laws.get(form.name) or {key: max(law[key] for law in self.laws.values()) for key in KEYS}
        return Discrepancy(of["kappa"], of["law"])


KEYS = ("kappa", "law")


@cache
def learned() -> Learned:
    """What was shipped."""
    text = files("scaling.laws.predict").joinpath("learned.json").read_text(encoding="utf-8")
    return Learned(**json.loads(text))


def errors(law: NearLaw, columns: Mapping[str, Array], loss: Array, weight: Array) -> Errors:
    """A law's forecasts at columns by letter, C among them, held against losses; all [points]."""
    return Errors(
        law.log_loss(columns) - np.log(loss),
        law.sd(columns),
        np.full(len(loss), law.noise),
        columns["C"] / law.runs.flops.max(),
        weight,
    )


def own_cuts(runs: Runs, form: Form, priors: Mapping[str, Prior]) -> list[Errors]:
    """The law fitted to the runs of no more FLOPs than a cut, held against those `BEYOND` times further.

    Weighted by their nearness. Empty where there are too few runs.
    """
    C, weights, found = runs.flops, nearness(runs), []
    columns = columns_of(runs)
    for cut in default_cuts(C, FEWEST // 2, CUTS):
        seen, tested = cut >= C, BEYOND * cut <= C
        if seen.sum() < FEWEST or not tested.any():
            continue
        try:
            law = near_law(runs, form, priors, seen)
        except UserError:  # so few runs, or all of one tokens per parameter
            continue
        there = {name: column[tested] for name, column in columns.items()}
        found.append(errors(law, there, runs.loss[tested], weights[tested]))
    return found


def columns_of(runs: Runs) -> dict[str, Array]:
    """N, D, C and M, tokens per parameter, of runs."""
    return {letter: runs.column(letter) for letter in ("N", "D", "C", "M")}
