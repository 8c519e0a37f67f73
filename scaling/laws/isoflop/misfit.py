"""Whether parabolas fit a grid of sizes, and whether the misfit matters for their minima.

The loss of a budget is steeper on one side of its minimum than on the other (that of small models where α > β), which
a parabola cannot be: on a wide grid it is pulled to one side, and its misfit counts as noise. Cubic and quartic terms
reveal this: an F test decides whether they are present, and the minimum of the quartic shows how far off the
parabola's is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.arrays import Array
from scaling.laws.isoflop.parabola import Curvature, Parabolas, bends_of, group_of
from scaling.laws.isoflop.scatter import spread_of
from scaling.laws.isoflop.skew import skewed_square
from scaling.laws.table.runs import Runs

SURE = 0.01
"""level of the F test"""
MATTERS = 0.5
"""root mean square error of the minima, in units of their 90 % half-widths under parabolas, from which another curve
is used"""
HALF_WIDTH = 1.645
"""of a normal 90 % interval, in standard deviations"""
SHRINK = 4
"""power of 1 − p that scales the shifts where the curves are kept nevertheless"""
STEP = 0.85
"""factor by which a window is narrowed, in log N"""
LEAST_SIZES = 5
"""fewest sizes of a budget in a window"""


@dataclass(frozen=True, eq=False)
class Window:
    """The rows of each budget within a factor of exp(half) of its minimum."""

    half: float
    share: float
    """half-width of the window relative to the largest distance of a size from its minimum, in log N"""
    groups: list[NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Misfit:
    """The misfit of parabolas, judged by terms of third and fourth order."""

    p: float
    """p-value of the F test that there are none; 1 where the runs are too few for them"""
    shift: Array
    """[budgets]: how much further up in log N the minimum of the quartic lies than that of the parabola"""
    lift: Array
    """[budgets]: how much larger log L is there"""
    lowest: Array
    """[budgets], log N at the minimum of the quartic"""

    def matters(self, log_N: Array) -> bool:
        """Whether the misfit makes the minima log_N [1 + draws, budgets] of parabolas unreliable."""
        there = np.isfinite(log_N[0])
        if self.p >= SURE or not there.any():
            return False
        return self.off > MATTERS * HALF_WIDTH * float(np.sqrt(np.mean(spread_of(log_N[:, there]) ** 2)))

    @property
    def doubt(self) -> tuple[Array, Array]:
        """[budgets]: by how much log N* and log L* of curves that are kept may be off, as far as terms are
        significant.

        The misfit beyond a budget's skew is small, but it is the main error where the runs have hardly any noise.
        """
        sure = (1 - self.p) ** SHRINK
        return sure * self.shift, sure * self.lift

    @property
    def off(self) -> float:
        """Root mean square of the shifts."""
        return float(np.sqrt(np.mean(self.shift**2)))

    def __str__(self) -> str:
        off = np.expm1(self.off)
        return f"parabolas do not fit the curves (F test, p {self.p:.1g}): their minima are {off:.0%} off"


def narrower(runs: Runs, groups: Sequence[NDArray[np.int64]], lowest: Array) -> Iterator[Window]:
    """Windows about log N of `lowest` [budgets], the widest first, each smaller by `STEP` in log N.

    They end where a budget would keep fewer than `LEAST_SIZES` sizes, or fewer than two on a side of its minimum.
    """
    away = [np.log(runs.N[rows]) - center for rows, center in zip(groups, lowest, strict=True)]
    half = widest = max(float(np.abs(n).max()) for n in away)
    while True:
        half *= STEP
        inside = [n[np.abs(n) <= half] for n in away]
        sides = [min((n < 0).sum(), (n > 0).sum()) for n in inside]
        if min(sides) < 2 or min(len(np.unique(n)) for n in inside) < LEAST_SIZES:
            return
        yield Window(half, half / widest, [rows[np.abs(n) <= half] for rows, n in zip(groups, away, strict=True)])


def misfit(runs: Runs, groups: Sequence[NDArray[np.int64]], curvature: Curvature, parabolas: Parabolas) -> Misfit:
    """The misfit of the parabolas through the rows of each group. Its terms vary with log C as the curvature does."""
    from scipy.special import fdtrc

    rows, group = np.concatenate(list(groups)), group_of(groups)
    n = np.log(runs.N[rows]) - parabolas.centers[group]
    root = parabolas.root
    y = np.log(runs.loss[rows]) * root
    own = np.eye(len(groups))[group]
    bends = bends_of(np.array([np.log(runs.flops[members]).mean() for members in groups]), curvature)
    kinds = _kinds(n, parabolas.skews.mean)
    basis = (
        np.concatenate([own, own * n[:, None], *(bends[group] * kind[:, None] for kind in kinds)], 1) * root[:, None]
    )
    none = Misfit(1.0, np.zeros(len(groups)), np.zeros(len(groups)), parabolas.centers)
    freedom, more = len(rows) - basis.shape[1], 2 * bends.shape[1]
    if freedom < 2 or np.linalg.matrix_rank(basis) < basis.shape[1]:
        return none
    flat = np.linalg.lstsq(basis, y, rcond=None)[0]
    left = float(np.sum((y - basis @ flat) ** 2))
    without = float(parabolas.noise_sd**2 * parabolas.freedom)
    ratio = max(without - left, 0.0) / more / max(left / freedom, 1e-24)
    terms = bends @ flat[2 * len(groups) :].reshape(3, -1).T
    at, least = np.empty((2, len(groups))), np.empty((2, len(groups)))
    for i in range(len(groups)):
        grid = np.linspace(n[group == i].min(), n[group == i].max(), 2001)
        own_line = flat[i] + flat[len(groups) + i] * grid
        curves = (
            own_line + terms[i] @ _kinds(grid, parabolas.skews.mean),
            parabolas.shape(i)(parabolas.centers[i] + grid),
        )
        for which, curve in enumerate(curves):
            at[which, i], least[which, i] = grid[curve.argmin()], curve.min()
    p = float(fdtrc(more, freedom, ratio))
    return Misfit(p, at[0] - at[1], least[0] - least[1], parabolas.centers + at[0])


def _kinds(n: Array, skew: float) -> Array:
    """[3, rows]: the curve's (skewed) square term, and the terms of third and fourth order."""
    return np.stack([skewed_square(n, skew), n**3, n**4])
