"""Two laws one after the other: what the first predicts is what the second reads."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.fit import Fit
from scaling.laws.intervals.interval import interval
from scaling.laws.intervals.prediction import PredictedLoss, single_runs


@dataclass(frozen=True)
class Chain:
    """From runs to a loss, from the loss to a downstream error.

    Gadre et al. 2024 (2403.08540): `gadre`, then `gadre_downstream`. Llama 3 (2407.21783, section 3.2.1): compute to
    NLL, then NLL to accuracy.

    first: any fit. second: the fit of a law of a single column, which receives the first's loss (its letter does not
    matter).
    Raises UserError where the second reads more than one column.
    """

    first: Fit
    second: Fit

    def __post_init__(self) -> None:
        if len(self.second.form.columns) != 1:
            raise UserError(
                f"chain: the second law must read one column, the first's loss; {self.second.form.name} reads "
                f"{', '.join(self.second.form.columns)}"
            )

    def __repr__(self) -> str:
        return f"Chain({self.first.form.name} → {self.second.form.name})"

    def predict(self, *, level: float = 0.9, **columns: ArrayLike) -> PredictedLoss:
        """The second law's prediction from the first's loss at columns of the first (C=…, M=…), broadcast together.

        The interval propagates the uncertainty of whichever fits have a bootstrap: each draw of the first goes
        through a draw of the second, paired at random, as if the two were fitted to independent data. `run_low`,
        `run_high` are of a single run, whose loss scatters about the first law, and whose error about the second.
        Raises UserError where a column is missing, and where the first predicts something that is not positive.
        """
        at: dict[str, Any] = {letter: np.asarray(values, np.float64) for letter, values in columns.items()}
        (letter,) = self.second.form.columns
        middle = self.second.predict(**{letter: self.first.predict(**at).loss}).loss
        if self.first.draws is None and self.second.draws is None:
            return PredictedLoss(middle)
        given = np.broadcast_arrays(*(at[name] for name in self.first.form.columns))
        first, second = self._pairs()
        shape = (-1, *(1,) * given[0].ndim)
        inner = self.first.form.loss(first.reshape(*shape, first.shape[-1]), list(given))
        outer = self.second.form.loss(second.reshape(*shape, second.shape[-1]), [inner])
        of_run = single_runs(self.first, inner)
        positive = np.where(of_run > 0, of_run, np.nan)  # raw scatter may go below 0, where no law is defined
        run = single_runs(self.second, self.second.form.loss(second.reshape(*shape, second.shape[-1]), [positive]), 1)
        ends = [interval(np.moveaxis(drawn, 0, -1), level) for drawn in (outer, run)]
        return PredictedLoss(middle, *ends[0], level, *ends[1])

    def _pairs(self) -> tuple[Array, Array]:
        """Parameters of both laws [draws, k]; a law without a bootstrap repeats its estimate."""
        draws = [None if fit.draws is None else fit.draws.samples for fit in (self.first, self.second)]
        count = min(len(samples) for samples in draws if samples is not None)
        first, second = (
            np.broadcast_to(fit.natural, (count, len(fit.natural))) if samples is None else samples[:count]
            for fit, samples in zip((self.first, self.second), draws, strict=True)
        )
        return first, np.random.default_rng(0).permutation(second)
