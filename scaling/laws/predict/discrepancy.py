"""How far off a forecaster's law is at runs beyond those fitted; see `laws.intervals.discrepancy`.

What published runs say of it is learned by experiments/forecasting (`learned.json` says which). The user's own runs
sharpen that: the law is fitted up to budgets within the runs and held against those beyond.
"""

from collections.abc import Mapping

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.forms import Form
from scaling.laws.intervals.discrepancy import Errors, Learned, shipped
from scaling.laws.predict.near_law import NearLaw, near_law, nearness
from scaling.laws.solve.priors import Prior
from scaling.laws.table.runs import Runs
from scaling.laws.validate.backtest import default_cuts

FEWEST, CUTS = 8, 4
"""runs at the first own cut, and most own cuts"""
BEYOND = 1.5
"""how many times a cut's FLOPs a run is at least to test it"""


def learned() -> Learned:
    """What was shipped."""
    return shipped("scaling.laws.predict")


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
