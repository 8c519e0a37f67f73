"""The law of runs that were designed together, a sweep's: fitted one way, whoever asks."""

from typing import Any

from scaling.laws.fit import Fit, fit
from scaling.laws.forms import Form
from scaling.laws.solve import Loss, huber
from scaling.laws.solve.draws import BootstrapKind
from scaling.laws.table.runs import Runs

DELTA = 1e-2
"""Huber's δ: small runs differ by about 1 % from seed to seed, and those within count in full. Hoffmann et al.'s
.001, the default of `fit`, is for tables of smooth losses of large runs."""
DRAWS = 2000
"""refits for the intervals"""


def fit_design(
    runs: Runs,
    form: str | Form = "chinchilla",
    *,
    loss: Loss | None = None,
    draws: int = DRAWS,
    kind: BootstrapKind = "noise",
    seed: int = 0,
    **options: Any,
) -> Fit:
    """A law of a sweep's runs with intervals: what a launch freezes and what `scaling fit SWEEP` says.

    loss: huber(DELTA) where None. draws: 0 for none. kind: a sweep is a design of few runs, of which a resample of
    rows would lose whole budgets; so fresh noise of the residuals' size is drawn. options: of `laws.fit`.
    """
    fitted = fit(runs, form, loss=loss or huber(DELTA), **options)
    if draws:
        fitted.bootstrap(draws, seed=seed, kind=kind)
    return fitted
