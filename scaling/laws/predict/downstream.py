"""Several benchmarks as laws of one loss, and predictions for a model of N parameters on D tokens.

Fitted to the 70 % of Gadre et al.'s runs (2403.08540; RedPajama and C4) with the largest losses and compared with the
rest, 11 and 10 runs: mean error and mean |error| of the score, and how many the 90 % interval of a single run covers:

                              17 tasks                  46 tasks
    gadre_downstream   RPJ    -.007  .009  100 %        +.008  .010   91 %
                       C4     -.024  .024   90 %        -.008  .008   90 %
    error_of_loss      RPJ    +.053  .053   36 %        +.030  .030   27 %
                       C4     +.036  .037   80 %        +.011  .011  100 %

Runs far above the sigmoid's lower end do not determine it: the sigmoid forecasts too much error, which its interval
does not reflect. So the exponential is the default for averages of tasks; where a benchmark's own scores bend at both
ends (as for Llama 3, `accuracy_of_nll`), choose the sigmoid and compare `backtest`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.fit import Fit, fit
from scaling.laws.forms import Form, get_form
from scaling.laws.predict.chain import Chain
from scaling.laws.solve.objectives import l2
from scaling.laws.table.runs import Runs
from scaling.names import offered, several

if TYPE_CHECKING:
    import pandas as pd

LEAST = 8
"""fewest runs that a law of a benchmark is fitted to"""


@dataclass(frozen=True)
class Benchmarks:
    """A law of the loss for each benchmark, by the benchmark's column."""

    fits: Mapping[str, Fit]
    level: float

    def __getitem__(self, benchmark: str) -> Fit:
        return self.fits[benchmark]

    def predict(self, first: Fit, **columns: Any) -> "pd.DataFrame":
        """Each benchmark at the loss that `first`, a law of the loss, predicts at its columns (N=…, D=…): one row
        each.

        score; low and high of the two laws; run_low and run_high of a single run (see `Chain`).
        """
        import pandas as pd

        rows = {}
        for name, second in self.fits.items():
            predicted = Chain(first, second).predict(level=self.level, **columns)
            rows[name] = {
                "score": float(predicted.loss),
                **{end: getattr(predicted, end) for end in ("low", "high", "run_low", "run_high")},
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("benchmark")

    def to_frame(self) -> "pd.DataFrame":
        """Parameters and residual standard deviation of each law."""
        import pandas as pd

        return pd.DataFrame({name: {**own.params, "sd": own.residual_sd} for name, own in self.fits.items()}).T

    def backtest(self, share: float = 0.7, n: int = 400) -> "pd.DataFrame":
        """Fit the `share` of the runs with the largest losses and compare with the rest: one row for each of these.

        error: forecast less outcome, of the score; inside: whether a single run's interval covers the outcome.
        Raises UserError where either side has too few runs.
        """
        import pandas as pd

        found = []
        for name, whole in self.fits.items():
            (letter,) = whole.form.columns
            loss = whole.runs.column(letter)
            order = np.argsort(-loss)
            seen = np.zeros(len(loss), bool)
            seen[order[: round(share * len(loss))]] = True
            if seen.sum() < LEAST or seen.all():
                raise UserError(f"backtest: {name} has {seen.sum()} runs of {len(loss)} to fit; at least {LEAST}")
            before = fit(
                whole.runs.rows_where(seen), whole.form, loss=l2(), residual="raw", starts=16, fixed=whole.fixed
            )
            before.bootstrap(n)
            predicted = before.predict(**{letter: loss[~seen]}, level=self.level)
            outcome = whole.runs.loss[~seen]
            found.append(
                pd.DataFrame({"benchmark": name, "loss": loss[~seen], "score": outcome, "forecast": predicted.loss})
                .assign(error=predicted.loss - outcome)
                .assign(inside=(predicted.run_low <= outcome) & (outcome <= predicted.run_high))
            )
        return pd.concat(found, ignore_index=True)


def benchmarks(
    table: "pd.DataFrame",
    scores: Sequence[str],
    *,
    loss: str = "loss",
    law: str | Form = "gadre_downstream",
    fixed: Mapping[str, Mapping[str, float]] | None = None,
    level: float = 0.9,
    n: int = 1000,
    seed: int = 0,
) -> Benchmarks:
    """Fit each benchmark as a law of the loss, by raw least squares, with a bootstrap of `n` resamples.

    scores: columns of the table, errors for `error_of_loss` and `gadre_downstream`, accuracies for
    `accuracy_of_nll`: shares between 0 and 1. Rows without a score are left out of that benchmark's law.
    loss: column of the loss. law: one of a single column.
    fixed: known parameters by benchmark, such as {"arc_easy": {"high": 0.75}} for the error of guessing.

    Raises UserError for a law of several columns, and a benchmark with fewer than eight scores.
    """
    form, scores = get_form(law), several(scores)
    if len(form.columns) != 1:
        raise UserError(
            f"benchmarks: the law must read one column, the loss; {form.name} reads {', '.join(form.columns)}"
        )
    if unknown := [name for name in (fixed or {}) if name not in scores]:
        raise UserError(
            f"benchmarks: fixed names {unknown[0]!r}, which is {offered(unknown[0], list(scores), 'none of ')}"
        )
    fits = {}
    for name in scores:
        columns: dict[str, Any] = {form.columns[0]: loss}
        runs = Runs(table, N=None, D=None, loss=name, missing="drop", duplicates="keep", signed=True, **columns)
        if len(runs) < LEAST:
            raise UserError(f"benchmarks: {name} has {len(runs)} scores; a law needs at least {LEAST}")
        fits[name] = fit(runs, form, loss=l2(), residual="raw", starts=32, fixed=(fixed or {}).get(name))
        fits[name].bootstrap(n, seed=seed)
    return Benchmarks(fits, level)
