"""How far the minima of budgets scatter about the power law through them, beyond the noise within each budget.

Learning rates tuned at some budgets and not at others, another batch size or a seed shift the minimum of a budget as
a whole, which the runs of that budget cannot show. The variance t of these shifts enters as in a random-effects
meta-regression:
the generalised statistic Q(t) = Σ (y − ŷ)²/(v + t), v the variances within budgets, has the distribution of χ² with
one degree of freedom for each budget beyond the unknowns of the law (DerSimonian and Kacker 2007). So the estimate
solves Q(t) = its degrees of freedom (Paule and Mandel 1982), and a draw solves Q(t) = a draw of χ², 0 where there is
no solution (Viechtbauer 2007 derives a confidence interval from the same curve). Where the noise within budgets is
negligible beside the scatter, intervals are those of Student's t; they are never narrower than the noise within
budgets implies.

Simulations of L = 1.69 + 406.4/N^.34 + 410.7/D^.28, 7 sizes (5 where there are 3 budgets), 250 of each kind: coverage
of the 90 % interval of the exponent, and its median width, with this scatter and without

    budgets                             3            4            5            6            8
    .5 % noise, minima not shifted
      with                          .98  .51     .97  .12     .95  .083    .94  .063    .97  .042
      without                       .92  .22     .88  .078    .86  .060    .92  .049    .93  .035
    .1 % noise, shifted by .2 in log N
      with                          .91 1.11     .90  .40     .90  .24     .89  .18     .87  .12
      without                       .15  .05     .11  .017    .10  .013    .06  .010    .11  .007
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.laws.arrays import Array

GRID = np.geomspace(1e-9, 1e9, 400)
"""variances at which Q is computed, in units of the mean square about the unweighted law; between them log Q is
interpolated linearly in log t"""
MOST = 7.0
"""largest standard deviation that is drawn: an optimum off by a factor of e⁷ or more is meaningless"""


@dataclass(frozen=True, eq=False)
class Scatter:
    """The standard deviation between budgets, in the logarithm of the law's quantity."""

    sd: float
    """the Paule–Mandel estimate"""
    drawn: Array
    """[draws]"""
    chi2: float
    """χ² of the points about the law, with the noise within budgets alone; infinite where there is none"""
    freedom: int
    """degrees of freedom; without any the scatter cannot be estimated, and is 0 here"""

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws as JSON values."""
        return {
            "sd": self.sd,
            "chi2": self.chi2 if np.isfinite(self.chi2) else None,
            "degrees_of_freedom": self.freedom,
        }

    def shifts(self, points: int, rng: np.random.Generator) -> Array:
        """[draws, points]: drawn errors of the points."""
        return self.drawn[:, None] * rng.standard_normal((len(self.drawn), points))


def scatter_of(y: Array, slopes: Array, variance: Array, draws: int, rng: np.random.Generator) -> Scatter:
    """The scatter of points y [points] about a law.

    slopes: [points, unknowns], derivatives of the law by its unknowns. variance: [points], within budgets; 0 where
    all scatter counts as being between them.
    """
    freedom = y.shape[0] - slopes.shape[1]
    none = Scatter(0.0, np.zeros(draws), 0.0, max(freedom, 0))
    if freedom < 1:
        return none
    unit = float(_squares(y, slopes, np.ones((1, len(y))))[0]) / freedom
    if unit < 1e-24:  # on the law to the last digits
        return none
    t = GRID * unit
    Q = _squares(y, slopes, 1 / (variance + t[:, None]))
    chi2 = float(_squares(y, slopes, 1 / variance[None])[0]) if (variance > 0).all() else float("inf")

    def solve(value: Array) -> Array:
        found = np.exp(np.interp(-np.log(value), -np.log(Q), np.log(t)))
        return np.where(value < chi2, found, 0.0)

    return Scatter(
        float(np.sqrt(solve(np.array(float(freedom))))),
        np.minimum(np.sqrt(solve(rng.chisquare(freedom, draws))), MOST),
        chi2,
        freedom,
    )


def spread_of(y: Array) -> Array:
    """[points]: standard deviations over the finite draws of y [1 + draws, points]."""
    return np.array([column[np.isfinite(column)].std() for column in y[1:].T])


def _squares(y: Array, slopes: Array, weights: Array) -> Array:
    """Least weighted sums of squares about the law, for weights [..., points]."""
    root = np.sqrt(weights)
    basis, target = slopes * root[..., None], (y * root)[..., None]
    unknowns = np.linalg.pinv(basis) @ target
    return np.asarray(((target - basis @ unknowns) ** 2).sum((-2, -1)))
