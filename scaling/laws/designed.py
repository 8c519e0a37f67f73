"""The law of a designed set of runs, such as a sweep: fitted the same way for every caller."""

from typing import Any

from scaling.laws.fit import Fit, fit
from scaling.laws.forms import Form
from scaling.laws.solve import Loss, huber
from scaling.laws.solve.draws import BootstrapKind
from scaling.laws.solve.objectives import objective_of
from scaling.laws.table.runs import Runs

DELTA = 1e-2
"""Huber's δ: small runs differ by about 1 % from seed to seed, and residuals within that have full influence.
Hoffmann et al.'s .001, the default of `fit`, suits tables of smooth losses of large runs."""
DRAWS = 2000
"""refits for the intervals"""


def fit_design(
    runs: Runs,
    law: str | Form = "chinchilla",
    *,
    loss: Loss | str | None = None,
    n: int = DRAWS,
    kind: BootstrapKind = "noise",
    seed: int = 0,
    **options: Any,
) -> Fit:
    """A law of a sweep's runs with intervals: the one that a launch freezes and that `scaling fit SWEEP` reports.

    loss: huber(DELTA) where None. n: 0 for none. kind: by default fresh noise of the residuals' size, because a
    sweep has few runs and a resample of rows would lose whole budgets. options: of `laws.fit`.
    """
    fitted = fit(runs, law, loss=objective_of(loss, huber(DELTA)), **options)
    if n:
        fitted.bootstrap(n, seed=seed, kind=kind)
    return fitted
