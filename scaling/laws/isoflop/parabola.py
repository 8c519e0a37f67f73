"""Parabolas of log L in log N, one for each budget, fitted together (Hoffmann et al. 2022, approach 2).

The curvature of log L at the minimum falls with compute: under L = E + A/N^α + B/D^β it is αβ·(1 − E/L*). From `MANY`
runs on it is fitted as a straight line in log C, one unknown more than a curvature that all budgets share; fewer runs
do not support that unknown. Results of each choice on four such laws with .3 or .5 % of noise, from 400 to 2,400
simulations (errors are medians, intervals 90 %, N* that of the smallest and the largest budget):

    budgets × sizes             noise  curvature  a off by  covers  width  N* off by  covers
    3 × 5 over one decade       .3 %   shared     .024      .90     .12    4 %        .89
    (sizes ×1.35 or ×1.6,              linear     .025      .92     .16    4 %        .90
    within 12 % of the minima)         own        .025      .91     .17    4 %        .89
                                .5 %   shared     .039      .90     .22    6 %        .90
                                       linear     .042      .94     .34    7 %        .91
                                       own        .039      .92     .34    7 %        .90
    7 × 7 over three decades    .3 %   shared     .005      .98     .03    6 %        .64
    (sizes ×1.5, centred within a      linear     .005      .91     .02    3 %        .88
    factor of 1.4)                     own        .005      .92     .02    3 %        .89
                                .5 %   shared     .008      .94     .04    7 %        .75
                                       linear     .008      .91     .04    4 %        .91
                                       own        .008      .91     .04    5 %        .92
    7 × 9 over three decades,   .3 %   shared     .043      .26     .05    48 %       .00
    the same sizes (×1.6) at           linear     .006      .89     .03    5 %        .75
    every budget                       own        .006      .88     .03    8 %        .72
                                .5 %   shared     .040      .38     .06    47 %       .01
                                       linear     .009      .90     .04    7 %        .83
                                       own        .008      .91     .05    10 %       .80

The scatter of the points around the parabolas, pooled over the budgets, is the noise; a linear least-squares fit with
that noise has a known distribution (Student's t, through a drawn noise level), and every interval comes from its
draws. With five sizes at three budgets, resampling rows would lose the shape of a parabola in most draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.isoflop.linear import LinearFits, fit_linear
from scaling.laws.isoflop.skew import STRAIGHT, Shape, Skews, likely_skews, lowest, skewed_square
from scaling.laws.solve.common_variance import common_variance
from scaling.laws.solve.problem import weights_of
from scaling.laws.table.runs import Runs

Curvature = Literal["shared", "linear", "own"]
CURVATURES: dict[Curvature, str] = {
    "shared": "one curvature for all budgets",
    "linear": "curvature linear in log C",
    "own": "each budget its own curvature",
}
MANY = 20
"""number of runs from which the curvature is a line in log C by default"""


@dataclass(frozen=True, eq=False)
class Parabolas:
    """The parabolas of all budgets, or skewed ones (`isoflop.skew`)."""

    centers: Array
    """[budgets], log N"""
    coefficients: NDArray[Any]
    """[budgets, 3]: log L = c0 + c1·n + c2·g(n), n = log N − center, g(n) = n² without skew"""
    convex: NDArray[np.bool_]
    """[budgets]: whether both its curvature here and that of a curve fitted to the budget alone are positive"""
    skews: Skews
    fits: LinearFits
    """for each skew: levels and slopes of all budgets, then the unknowns of the curvatures"""
    mix: Array
    """[budgets, 3, unknowns]: coefficients = mix · unknowns"""
    root: Array
    """[rows of all groups]: square roots of the weights of log L"""
    noise_sd: float
    freedom: int

    @property
    def min_spread(self) -> Array:
        """[budgets]: zero, since a parabola's draws show its whole spread."""
        return np.zeros(len(self.centers))

    def shape(self, i: int) -> Shape:
        """The curve of budget i."""
        return Shape(float(self.centers[i]), self.coefficients[i], self.skews.mean)

    def minima(self, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """log N* and log L*, each [1 + count, budgets]: the estimate, then draws from its distribution.

        Without a minimum log N* is ±∞, on the side where the curve falls, and log L* NaN.
        """
        node = rng.choice(len(self.skews.share), count, p=self.skews.share)
        scale = np.sqrt(self.freedom / rng.chisquare(self.freedom, (count, 1)))
        unit = scale * rng.standard_normal((count, self.mix.shape[2]))
        noise = self.fits.noise(self.freedom)[node, None]
        flat = self.fits.flat[node] + noise * np.einsum("duv,dv->du", self.fits.root[node], unit)
        drawn = np.concatenate([self.coefficients[None], np.tensordot(flat, self.mix, (1, 2))])
        return lowest(self.centers, drawn, np.append(self.skews.mean, self.skews.values[node])[:, None])


def default_curvature(groups: Sequence[NDArray[np.int64]]) -> Curvature:
    """The default curvature for the number of runs in these groups."""
    return "linear" if sum(map(len, groups)) >= MANY else "shared"


def fit_parabolas(
    runs: Runs, groups: Sequence[NDArray[np.int64]], curvature: Curvature, *, skewed: bool = False
) -> Parabolas:
    """Parabolas through the rows of each group, weighted by their standard errors where the runs have
    them.

    skewed: with the skews that are likely given the runs and the prior. Curvatures are then those at the minima of
    the parabolas (or the nearest size), because the curvature of a skewed curve varies along it.

    Raises UserError where nothing is left to estimate the noise from.
    """
    sizes = [np.log(runs.N[rows]) for rows in groups]
    plain = _fit(runs, groups, curvature, np.array([n.mean() for n in sizes]), None)
    if not skewed:
        return plain
    minima = np.where(plain.convex, lowest(plain.centers, plain.coefficients, 0.0)[0], plain.centers)
    ends = np.array([n.min() for n in sizes]), np.array([n.max() for n in sizes])
    return _fit(runs, groups, curvature, np.clip(minima, *ends), likely_skews)


def _fit(
    runs: Runs,
    groups: Sequence[NDArray[np.int64]],
    curvature: Curvature,
    centers: Array,
    search: Callable[[Callable[[Array], Array]], Skews] | None,
) -> Parabolas:
    rows, group = np.concatenate(list(groups)), group_of(groups)
    n = np.log(runs.N)[rows] - centers[group]
    mix = _mix(np.array([np.log(runs.flops[members]).mean() for members in groups]), curvature)
    freedom = len(rows) - mix.shape[2]
    if freedom < 1:
        raise UserError(
            f"isoflop: {len(rows)} runs determine {mix.shape[2]} coefficients and leave the noise unknown; "
            "add a size at each budget"
        )

    def powers(skews: Array) -> Array:
        bends = skewed_square(n, skews[:, None])
        return np.stack([np.ones_like(bends), np.broadcast_to(n, bends.shape), bends], 2)

    straight = np.einsum("rp,rpu->ru", powers(np.array([STRAIGHT.mean]))[0], mix[group])
    root = _root_weights(runs, rows, straight)
    y = np.log(runs.loss[rows]) * root

    def fit(skews: Array) -> LinearFits:
        return fit_linear(np.einsum("srp,rpu->sru", powers(skews) * root[:, None], mix[group]), y)

    skews = STRAIGHT if search is None else search(lambda values: fit(values).cost(freedom))
    mean = np.array([skews.mean])
    best, shape = fit(mean), powers(mean)[0] * root[:, None]
    coefficients = mix @ best.flat[0]
    alone = [np.linalg.lstsq(shape[group == i], y[group == i], rcond=None)[0][2] for i in range(len(groups))]
    convex = (np.array(alone) > 0) & (coefficients[:, 2] > 0)
    noise = float(best.noise(freedom)[0])
    return Parabolas(centers, coefficients, convex, skews, fit(skews.values), mix, root, noise, freedom)


def group_of(groups: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """[rows of all groups]: the number of its group."""
    return np.repeat(np.arange(len(groups)), [len(members) for members in groups])


def _root_weights(runs: Runs, rows: NDArray[np.int64], slopes: Array) -> Array:
    """[rows]: square roots of the weights of log L where the runs have σ: 1/σ² in units of the median, as far as the
    runs support it (`solve.common_variance`).

    slopes: of the parabolas in their unknowns [rows, unknowns].
    """
    if runs.sigma is None:
        return np.ones(len(rows))
    relative = (runs.sigma / runs.loss)[rows]
    variances = (relative / np.median(relative)) ** 2
    common = common_variance(variances, np.log(runs.loss[rows]), slopes)
    return np.asarray(np.sqrt(weights_of(variances, common)))


def _mix(log_C: Array, curvature: Curvature) -> Array:
    """[budgets, 3, unknowns]: each budget's own level and slope, and its curvature from the last unknowns."""
    count, bends = len(log_C), bends_of(log_C, curvature)
    mix = np.zeros((count, 3, 2 * count + bends.shape[1]))
    mix[:, 0, :count] = mix[:, 1, count : 2 * count] = np.eye(count)
    mix[:, 2, 2 * count :] = bends
    return mix


def bends_of(log_C: Array, curvature: Curvature) -> Array:
    """[budgets, unknowns]: basis of coefficients that vary with log C as the curvature does."""
    count, x = len(log_C), log_C - log_C.mean()
    if curvature == "own":
        return np.eye(count)
    if curvature == "linear" and np.ptp(x) > 1e-6:
        return np.stack([np.ones(count), x], 1)
    return np.ones((count, 1))
