"""Losses on several domains as functions of the data mixture, and the mixture that is best for all of them together.

On a published collection (five domains, four sizes of 70M to 410M; 20 mixtures fitted, 6 held out by its own split)
the mean error of a held-out loss is .9 to 1.3 %, while the mean of the fitted runs is off by 6.2 to 6.7 %; 80 to 87 %
of these losses lie in the 90 % interval of a single run. The best mixture for the mean loss changes little with size
(.22 to .24 of domain 1, .28 to .33 of domain 5), and lies outside the tried range in domain 3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.fit import Fit, fit
from scaling.laws.forms.mixture import exponentials, mixture_law
from scaling.laws.intervals.interval import interval
from scaling.laws.solve.objectives import l2
from scaling.laws.table.reading import number_column
from scaling.laws.table.runs import Runs
from scaling.names import offered, several

if TYPE_CHECKING:
    import pandas as pd

STEPS, RATE, SETTLED = 3000, 0.5, 1e-7
NOTHING = 0.01
"""share of the lowest loss: an irreducible loss below this was driven to zero"""
SUMS = 0.01
"""tolerance of the sum of a run's proportions, which are rounded"""


@dataclass(frozen=True, eq=False)
class MixtureLaw:
    """A law for each loss, all functions of the same proportions."""

    domains: tuple[str, ...]
    """columns of the proportions"""
    fits: Mapping[str, Fit]
    """by column of the loss"""
    tried: Array
    """proportions of the runs [runs, domains]"""
    level: float

    def predict(self, proportions: ArrayLike) -> "pd.DataFrame":
        """Each loss at proportions [domains]: loss, low and high of the law, run_low and run_high of a single run.

        Raises UserError where the proportions are not shares that sum to 1.
        """
        import pandas as pd

        r = _shares(np.asarray(proportions, np.float64)[None], ("0",), len(self.domains))[0]
        rows = {}
        for name, own in self.fits.items():
            predicted = own.predict(level=self.level, **exponentials(r, own.form.columns))
            ends = {end: getattr(predicted, end) for end in ("low", "high", "run_low", "run_high")}
            rows[name] = {"loss": float(predicted.loss), **ends}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("loss of")

    def best(self, weights: Mapping[str, float] | None = None) -> "pd.DataFrame":
        """The mixture with the lowest weighted mean of the losses: a row for each domain.

        weights: of each loss, by its column; None: equal weights.
        share, low, high; smallest and largest share in the runs. The sum is convex in the mixture, so there is one
        minimum, computed for the estimate and for each draw of the laws.
        Raises UserError for an invalid weight, or one of an unknown loss.
        """
        import pandas as pd

        given = dict.fromkeys(self.fits, 1.0) if weights is None else dict(weights)
        if (unknown := [name for name in given if name not in self.fits]) or not given:
            hint = offered(unknown[0] if unknown else "", list(self.fits), "there are ")
            raise UserError(f"best: no loss {', '.join(unknown)}; {hint}")
        if any(not weight >= 0 for weight in given.values()) or not sum(given.values()) > 0:
            raise UserError(f"best: weights must be 0 or more, and one of them more; got {given}")
        w = np.array(list(given.values())) / sum(given.values())
        rates = np.stack([self._rates(self.fits[name]) for name in given], 1)  # [1 + draws, losses, domains]
        best = least_mixture(rates, w)
        low, high = interval(best[1:].T, self.level)
        return pd.DataFrame(
            {"share": best[0], "low": low, "high": high, "tried_least": self.tried.min(0)}
            | {"tried_most": self.tried.max(0)},
            index=pd.Index(self.domains, name="domain"),
        )

    def unidentified(self, widest: float = 0.5) -> dict[str, list[str]]:
        """The parameters that the runs do not determine, by the column of the loss.

        c where its interval spans more than `widest` of the lowest loss or begins at zero: no curvature is visible. A
        rate t_j where its interval is wider than the range of all rates: the domain's effect cannot be told from
        those of others.
        """
        found: dict[str, list[str]] = {}
        for name, own in self.fits.items():
            rates = [p for p in own.form.params if p != "c"]
            values = [own.params[rate] for rate in rates]
            low, high = own.interval("c", self.level)
            least = own.runs.loss.min()
            open_ = ["c"] if high - low > widest * least or low < NOTHING * least else []
            for rate, domain in zip(rates, self.domains, strict=True):
                low, high = own.interval(rate, self.level)
                if high - low > np.ptp(values):
                    open_.append(domain)
            if open_:
                found[name] = open_
        return found

    def to_frame(self) -> "pd.DataFrame":
        """For each loss, c and the rates t by domain, and the residual standard deviation of the log loss."""
        import pandas as pd

        names = ["c", *self.domains, "sd"]
        return pd.DataFrame([[*own.natural, own.residual_sd] for own in self.fits.values()], [*self.fits], names)

    def _rates(self, own: Fit) -> Array:
        assert own.draws is not None
        return np.concatenate([own.natural[None], own.draws.samples])[:, 1:]


def mixture(
    table: "pd.DataFrame",
    proportions: Sequence[str],
    losses: Sequence[str],
    *,
    level: float = 0.9,
    n: int = 1000,
    seed: int = 0,
) -> MixtureLaw:
    """Fit each loss as c + exp(Σ t_j·r_j) of the proportions r, by least squares on log losses.

    table: one row per run; runs of one size and one number of tokens.
    proportions: columns that sum to 1 in every row. losses: columns.

    Intervals come from a bootstrap that draws noise of the residuals' size, for each loss separately: the losses of
    one run are treated as independent.

    Raises UserError for proportions that do not sum to 1, and for fewer runs than a law has parameters.
    """
    proportions, losses = several(proportions), several(losses)
    rows = tuple(str(label) for label in table.index)
    if len(proportions) < 2 or not losses:
        raise UserError("mixture needs the columns of two proportions or more, and of a loss")
    given = np.stack([number_column(table[name], name, rows) for name in proportions], 1)
    r = _shares(given, rows, len(proportions))
    form = mixture_law(len(proportions))
    columns: dict[str, Any] = exponentials(r, form.columns)
    fits = {}
    for i, name in enumerate(losses):
        letters: dict[str, Any] = {letter: letter for letter in form.columns}
        runs = Runs({**columns, "loss": table[name].to_numpy()}, N=None, D=None, duplicates="keep", **letters)
        fits[name] = fit(runs, form, loss=l2(), starts=32)
        fits[name].bootstrap(n, seed=seed + i, kind="noise")  # with a common seed all losses would move together
    return MixtureLaw(tuple(proportions), fits, r, level)


def least_mixture(rates: Array, weights: Array) -> Array:
    """[lanes, domains]: the proportions that minimise Σ_i w_i·exp(Σ_j t_ij·r_j), by exponentiated gradients.

    rates: t [lanes, losses, domains]; weights: w [losses]. (Kivinen and Warmuth 1997; a step is halved where it does
    not lower the sum.)
    """
    lanes, _, domains = rates.shape
    r = np.full((lanes, domains), 1 / domains)
    step = np.full((lanes, 1), RATE)

    def losses(r: Array) -> Array:
        return np.asarray(weights * np.exp(np.einsum("nij,nj->ni", rates, r)))

    now = losses(r)
    for _ in range(STEPS):
        slope = np.einsum("ni,nij->nj", now, rates) / now.sum(1, keepdims=True)
        log_r = np.log(np.maximum(r, 1e-300)) - step * (slope - np.sum(r * slope, 1, keepdims=True))
        moved = np.exp(log_r - log_r.max(1, keepdims=True))
        moved /= moved.sum(1, keepdims=True)
        then = losses(moved)
        better = then.sum(1, keepdims=True) <= now.sum(1, keepdims=True)
        done = np.abs(moved - r).max() < SETTLED
        r, now = np.where(better, moved, r), np.where(better, then, now)
        step = np.where(better, step * 1.1, step / 2)
        if done:
            break
    return r


def _shares(given: Array, rows: Sequence[str], domains: int) -> Array:
    """Proportions [rows, domains], normalised to sum to 1. Raises UserError where their sum is far from 1."""
    if given.shape[-1] != domains:
        raise UserError(f"proportions must be of {domains} domains; got {given.shape[-1]}")
    total = given.sum(1)
    wrong = np.flatnonzero(~((np.abs(total - 1) <= SUMS) & (given >= 0).all(1)))
    if len(wrong):
        raise UserError(
            f"proportions must be 0 or more and sum to 1; row {rows[wrong[0]]} sums to {total[wrong[0]]:.4g}"
        )
    return np.asarray(given / total[:, None])
