"""IsoFLOP analysis: the best size at each budget, and how it grows (Hoffmann et al. 2022, approach 2).

The minimum at a budget is that of a parabola (Hoffmann et al. 2022), which may be steeper on one side, or of an Akima
spline (Porian et al. 2024). With either method, a minimum counts only if it is interior to the sizes and its curve is
convex. The power laws of N*, D* and L* go through the minima that count, weighted by 1/variance. The variance has two
parts: within a budget the spread of the draws, and between budgets the scatter about the law (`isoflop.scatter`).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.arrays import Array, Labels
from scaling.laws.asked import whole
from scaling.laws.intervals.interval import check_level, interval, reach
from scaling.laws.isoflop.choice import Choice, Curves, choose
from scaling.laws.isoflop.minima import Isoflop, IsoflopBudget, MinimumMethod, MinimumVerdict, Weights
from scaling.laws.isoflop.others import other_exponents
from scaling.laws.isoflop.parabola import CURVATURES, Curvature
from scaling.laws.isoflop.points import Points
from scaling.laws.table.budgets import TOLERANCE, budget_labels
from scaling.laws.table.runs import AnyRuns, Runs, as_runs

NEARLY = 2.0
"""times the tolerance: a row that misses a budget by less than this is reported"""


def isoflop(
    runs: AnyRuns,
    budget: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    level: float = 0.9,
    curvature: Curvature | None = None,
    n: int = 4000,
    seed: int = 0,
    method: MinimumMethod | None = None,
    weights: Weights = "variance",
) -> Isoflop:
    """Find the minimum of each budget and the power laws of N*, D* and L* in C.

    budget: a label for each row, in the order of `runs`; None: rows whose FLOPs differ by less than the share
    `tolerance` belong together.
    level: coverage of the intervals; those of splines, whose draws add noise to noisy losses, are too wide (they
    cover 92 to 98 % of simulations at .9). n: number of draws behind the intervals.
    curvature: of the parabolas: "shared" by all budgets, "linear" in log C, or each budget its "own" (as Hoffmann et
    al. 2022 did, with many sizes at each). None: "linear" from 20 runs in the budgets on and "shared" below, a rule
    based on simulations: see `isoflop.parabola`.
    method: "parabola" averages noise over all sizes but is biased on wide grids; "skewed" is a parabola that is
    steeper on one side, by as much as the runs and published laws make likely (`isoflop.skew`); "akima" interpolates
    the losses and needs several sizes near the minimum. None: "skewed"; where terms of higher order are significant
    (F test at 1 %) and move the minima by more than half of their 90 % half-widths, fewer sizes or splines, and the
    table says so. With a sigma column parabolas weight rows by 1/(σ² + c), c estimated from the scatter as in
    `laws.fit`, as is the noise level; splines use σ itself.
    weights: of the minima in the power laws: "variance", or "ols" for what publications do: for each budget alone a
    parabola of the loss in log tokens, then ordinary least squares through all that open upwards, with Student's t.

    Raises UserError where there is no budget with three sizes, or nothing to estimate the noise from.
    """
    _check(level, method, curvature, weights)
    runs, rng = as_runs(runs), np.random.default_rng(whole(seed, "isoflop: seed"))
    n = whole(n, "isoflop: n", 2)
    chosen = choose(runs, budget_rows(runs, budget, tolerance), method, curvature, weights, n, rng)
    minima = _doubted_minima(chosen, rng)
    budgets = tuple(
        _budget(runs, rows, chosen.curves, i, minima.at(i), level) for i, rows in enumerate(chosen.groups)
    )
    found = Isoflop(
        budgets,
        chosen.curves.noise_sd,
        chosen.curves.freedom,
        level,
        method=chosen.method,
        curvature=chosen.curvature,
        skew=chosen.skew,
        weights=weights,
        notes=(*chosen.notes, *_alone(runs, budget, tolerance)),
    )
    ols = weights == "ols"
    counted = [i for i, found in enumerate(budgets) if found.counts or (ols and np.isfinite(found.loss_opt))]
    if len(counted) < 2:
        return found
    points = minima.points(np.array([budget.C for budget in budgets]), counted, chosen.curves.min_spread, ols)
    found = points.through(found, runs.per_token, rng)
    return replace(found, others=other_exponents(runs, chosen, points, seed))


@dataclass(frozen=True, eq=False)
class _Minima:
    """log N* and log L* of all budgets, each [1 + draws, budgets]: the estimate and then draws."""

    log_N: Array
    log_loss: Array
    off: Array
    """shifts of log N* due to the uncertainty about the method, common to all budgets"""
    lift: Array
    """the same for log L*"""

    def at(self, i: int) -> tuple[Array, Array]:
        """log N* and log L* of one budget, with the uncertainty about the method."""
        return self.log_N[:, i] + self.off[:, i], self.log_loss[:, i] + self.lift[:, i]

    def points(self, C: Array, counted: list[int], spread: Array, ols: bool) -> Points:
        """The points of the power laws: the budgets that count. C and spread are given for all budgets."""
        log_N = np.where(np.isfinite(self.log_N), self.log_N, np.nan)[:, counted]
        off, lift = self.off[:, counted], self.lift[:, counted]
        return Points(C[counted], log_N, self.log_loss[:, counted], spread[counted], off, lift, ols)


def _doubted_minima(chosen: Choice, rng: np.random.Generator) -> _Minima:
    log_N, log_loss = chosen.minima
    together = np.append(0.0, rng.standard_normal(len(log_N) - 1))[:, None]
    off, lift = (together * (doubt * np.ones(len(chosen.groups))) for doubt in chosen.doubt)
    return _Minima(log_N, log_loss, off, lift)


def budget_rows(runs: Runs, budget: ArrayLike | None = None, tolerance: float = TOLERANCE) -> list[Labels]:
    """Rows of each budget that has three sizes or more, by rising FLOPs; see `isoflop`."""
    if budget is None:
        labels = budget_labels(runs.flops, tolerance)
    else:
        given = np.asarray(budget)
        if given.shape != (len(runs),):
            raise UserError(f"isoflop: budget must hold {len(runs)} labels; got shape {given.shape}")
        labels = np.unique(given, return_inverse=True)[1]
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups.sort(key=lambda rows: float(runs.flops[rows].mean()))
    usable = [rows for rows in groups if len(np.unique(runs.N[rows])) >= 3]
    if not usable:
        raise UserError(
            f"isoflop: none of the {len(groups)} budgets has three sizes; give budget= if rows of one budget differ "
            f"in FLOPs by more than {tolerance:.0%}"
        )
    return usable


def _alone(runs: Runs, budget: ArrayLike | None, tolerance: float) -> tuple[str, ...]:
    """Notes about rows that narrowly miss a budget and so drop out of it: by whole batches, or by a miscount."""
    if budget is not None:
        return ()
    used = np.concatenate(budget_rows(runs, None, tolerance))
    left = np.setdiff1d(np.arange(len(runs)), used)
    away = np.abs(np.log(runs.flops[left][:, None] / runs.flops[used])).min(1) if len(left) else np.array([])
    near = left[away < NEARLY * tolerance]
    if not len(near):
        return ()
    rows = ", ".join(f"{runs.rows[i]} ({runs.flops[i]:.3g})" for i in near[:5])
    return (
        f"{len(near)} rows are in no budget, though their FLOPs are within {NEARLY * tolerance:.0%} of one: {rows}"
        f"{', …' * (len(near) > 5)}; assign rows to budgets by budget=, or increase tolerance= (now {tolerance:.0%})",
    )


def try_isoflop(runs: AnyRuns, level: float = 0.9, *, designed: bool = False) -> Isoflop | None:
    """The isoFLOP analysis where the runs allow one (budgets of several sizes), else None.

    designed: the runs come from a sweep; other runs must form budgets (`Runs.form_budgets`), because arbitrary rows
    with similar FLOPs would give meaningless minima.
    """
    runs = as_runs(runs)
    if not {"N", "D"} <= set(runs.values) or not (designed or runs.form_budgets()):
        return None
    try:
        return isoflop(runs, level=level)
    except UserError:
        return None


def _check(level: float, method: str | None, curvature: str | None, weights: str) -> None:
    check_level(level)
    if method not in (None, "skewed", "parabola", "akima"):
        raise UserError(f"isoflop: method must be 'skewed', 'parabola' or 'akima'; got {method!r}")
    if curvature is not None and curvature not in CURVATURES:
        raise UserError(f"isoflop: curvature must be 'shared', 'linear' or 'own'; got {curvature!r}")
    if weights not in ("variance", "ols"):
        raise UserError(f"isoflop: weights must be 'variance' or 'ols'; got {weights!r}")
    if weights == "ols" and (method in ("akima", "skewed") or curvature not in (None, "own")):
        raise UserError("isoflop: weights='ols' is of parabolas, each budget's own; drop method= and curvature=")


def _budget(
    runs: Runs,
    rows: Labels,
    curves: Curves,
    i: int,
    minima: tuple[Array, Array],
    level: float,
) -> IsoflopBudget:
    """minima: log N* and log L* of this budget, the estimate and then draws."""
    order = rows[np.argsort(runs.N[rows], kind="stable")]
    N, per_token = runs.N[order], runs.per_token
    C = float(np.exp(np.log(runs.flops[order]).mean()))
    (best, *_), (lowest, *_) = minima
    verdict: MinimumVerdict = "interior"
    if not curves.convex[i]:
        verdict = "not convex"
    elif best <= np.log(N[0]):
        verdict = "below the smallest size"
    elif best >= np.log(N[-1]):
        verdict = "above the largest size"
    N_opt = float(np.exp(best)) if np.isfinite(lowest) else float("nan")
    drawn, losses = minima[0][1:], minima[1][1:][np.isfinite(minima[1][1:])]
    # The ends can be mapped one by one: D falls as N grows, and no minimum (N* of 0 or ∞) means D* of ∞ or 0.
    N_interval = interval(np.exp(drawn), level)
    D_interval = tuple(
        float(C / per_token(end)) if 0 < end < np.inf else (0.0 if end else np.inf) for end in N_interval
    )
    return IsoflopBudget(
        C=C,
        rows=tuple(runs.rows[j] for j in order),
        N=N,
        D=runs.D[order],
        loss=runs.loss[order],
        shape=curves.shape(i),
        verdict=verdict,
        N_opt=N_opt,
        D_opt=float(C / per_token(N_opt)),
        loss_opt=float(np.exp(lowest)),
        N_interval=N_interval,
        D_interval=(D_interval[1], D_interval[0]),
        loss_interval=interval(np.exp(losses), level) if reach(len(losses), level) else (np.nan, np.nan),
        advice=_advice(verdict, N),
    )


def _advice(verdict: MinimumVerdict, N: Array) -> tuple[float, ...]:
    """Two more sizes, at the spacing of the present ones, on each side where the minimum may lie."""
    sizes = np.unique(N)
    step = float(np.exp(np.median(np.diff(np.log(sizes)))))
    below = (sizes[0] / step**2, sizes[0] / step)
    above = (sizes[-1] * step, sizes[-1] * step**2)
    sides = {"interior": (), "below the smallest size": below, "above the largest size": above}
    return tuple(float(size) for size in sides.get(verdict, below + above))
