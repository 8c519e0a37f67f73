"""IsoFLOP analysis: the best size at each budget, and how it grows (Hoffmann et al. 2022, approach 2).

At each budget log L is a parabola in log N. The budgets share one curvature unless told otherwise: under a Chinchilla
law it changes slowly with C, and five points with half a percent of noise do not determine it alone. Whether a budget
is convex is still judged by a parabola of its own.

The scatter of the points around the parabolas, pooled over the budgets, is the noise; a linear least-squares fit with
that noise has a known distribution (Student's t through a drawn noise level), and every interval here comes from
draws of it. With five sizes at three budgets a resampling of rows would lose the shape of a parabola in most draws.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.runs import Runs
from scaling.laws.uncertainty import check_level, interval

Array = NDArray[np.float64]
Verdict = Literal["interior", "below the smallest size", "above the largest size", "not convex"]
Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Budget:
    """The runs at one budget and the minimum of their parabola."""

    C: float
    """training FLOPs: geometric mean of the runs'"""
    rows: tuple[str, ...]
    N: Array
    D: Array
    loss: Array
    center: float
    """log N that the parabola is written around"""
    coefficients: Array
    """log L = c0 + c1·n + c2·n², n = log N − center"""
    verdict: Verdict
    N_opt: float
    """NaN where the parabola is not convex"""
    D_opt: float
    loss_opt: float
    N_interval: Interval
    D_interval: Interval
    loss_interval: Interval
    advice: tuple[float, ...]
    """sizes to add where the minimum does not count"""

    @property
    def counts(self) -> bool:
        """Whether the minimum is interior and convex."""
        return self.verdict == "interior"

    def curve(self, N: ArrayLike) -> Array:
        """The parabola's loss at N parameters."""
        n = np.log(np.asarray(N, np.float64)) - self.center
        return np.exp(np.polynomial.polynomial.polyval(n, self.coefficients))


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """offset + coefficient · (C / unit)^exponent."""

    coefficient: float
    exponent: float
    exponent_interval: Interval
    unit: float
    """FLOPs"""
    offset: float = 0.0
    draws: Array | None = None
    """[n, 3]: offset, coefficient, exponent"""

    def __call__(self, C: float) -> float:
        """The value at C FLOPs."""
        return float(self.offset + self.coefficient * (C / self.unit) ** self.exponent)

    def drawn(self, C: float) -> Array:
        """The value at C FLOPs by each draw."""
        assert self.draws is not None
        return self.draws[:, 0] + self.draws[:, 1] * (C / self.unit) ** self.draws[:, 2]


@dataclass(frozen=True, eq=False)
class Isoflop:
    """Minima by budget and the power laws through those that count; None where fewer than two count."""

    budgets: tuple[Budget, ...]
    noise_sd: float
    """of log L around the parabolas"""
    degrees_of_freedom: int
    level: float
    """of every interval here"""
    N_law: PowerLaw | None
    """N* against C; its exponent is a"""
    D_law: PowerLaw | None
    """D* against C; its exponent is b"""
    loss_law: PowerLaw | None
    """L* against C; with an offset only from four budgets on, for three points always lie on such a curve"""
    lost_draws: float
    """share of draws in which a counted budget had no minimum; they are left out of the exponents' intervals"""

    @property
    def counted(self) -> tuple[Budget, ...]:
        """The budgets whose minimum counts."""
        return tuple(budget for budget in self.budgets if budget.counts)

    def summary(self) -> str:
        """An aligned text."""
        from scaling.laws.table import format_isoflop, isoflop_table

        return format_isoflop(isoflop_table(self))


def isoflop(
    runs: Runs,
    budget: ArrayLike | None = None,
    tolerance: float = 0.1,
    level: float = 0.9,
    curvature: Literal["shared", "own"] = "shared",
    draws: int = 4000,
    seed: int = 0,
) -> Isoflop:
    """Find the minimum of each budget and the power laws of N*, D* and L* in C.

    budget: a label for each row, in the order of `runs`; None: rows whose FLOPs differ by less than the share
    `tolerance` belong together.
    level: coverage of the intervals. draws: how many they are made of.
    curvature: one for all budgets, or each its own (as Hoffmann et al. 2022 did, with many sizes at each).

    Raises UserError where there is no budget with three sizes, or nothing left to estimate the noise from.
    """
    check_level(level)
    groups = _groups(runs, budget, tolerance)
    parabolas = _parabolas(runs, groups, curvature == "shared")
    drawn = _minimum(parabolas.centers, parabolas.draw(draws, np.random.default_rng(seed)))
    per_token = runs.flops_per_token() if runs.C is not None else _six_n
    budgets = tuple(
        _budget(runs, rows, parabolas, i, per_token, (drawn[0][:, i], drawn[1][:, i]), level)
        for i, rows in enumerate(groups)
    )
    noise, freedom = parabolas.noise_sd, parabolas.freedom
    counted = [i for i, budget in enumerate(budgets) if budget.counts]
    if len(counted) < 2:
        return Isoflop(budgets, noise, freedom, level, None, None, None, 0.0)
    C = np.array([budgets[i].C for i in counted])
    N = np.concatenate([[[np.log(budgets[i].N_opt) for i in counted]], drawn[0][:, counted]])
    loss = np.concatenate([[[np.log(budgets[i].loss_opt) for i in counted]], drawn[1][:, counted]])
    whole = np.isfinite(N).all(1)
    N, loss = N[whole], loss[whole]
    with_offset = len(counted) >= 4
    return Isoflop(
        budgets,
        noise,
        freedom,
        level,
        _power_law(C, N, level),
        _power_law(C, np.log(C) - np.log(per_token(np.exp(N))), level),
        _offset_law(C, loss, level) if with_offset else _power_law(C, loss, level),
        float(1 - whole[1:].mean()),
    )


@dataclass(frozen=True, eq=False)
class _Parabolas:
    """The parabolas of all budgets, fitted together."""

    centers: Array
    """[budgets], log N"""
    coefficients: NDArray[Any]
    """[budgets, 3]"""
    own_bend: Array
    """[budgets], c2 of a parabola fitted to that budget alone"""
    flat: NDArray[Any]
    """[unknowns], all coefficients, shared ones once"""
    where: NDArray[np.int64]
    """[budgets, 3], positions of the coefficients in `flat`"""
    root: NDArray[Any]
    """[unknowns, unknowns], of the covariance at unit noise: root rootᵀ"""
    noise_sd: float
    freedom: int

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Coefficients that could have been: [count, budgets, 3]."""
        sd = self.noise_sd * np.sqrt(self.freedom / rng.chisquare(self.freedom, (count, 1)))
        return (self.flat + sd * (rng.standard_normal((count, len(self.flat))) @ self.root.T))[:, self.where]


def _six_n(N: ArrayLike) -> Array:
    return 6.0 * np.asarray(N, np.float64)


def _groups(runs: Runs, budget: ArrayLike | None, tolerance: float) -> list[NDArray[np.int64]]:
    if budget is None:
        order = np.argsort(runs.flops, kind="stable")
        flops = runs.flops[order]
        labels = np.zeros(len(runs), np.int64)
        first = flops[0]
        for i in range(1, len(flops)):
            new = flops[i] > first * (1 + tolerance)
            first = flops[i] if new else first
            labels[order[i]] = labels[order[i - 1]] + new
    else:
        labels = np.asarray(budget)
        if labels.shape != (len(runs),):
            raise UserError(f"isoflop: budget must hold {len(runs)} labels; got shape {labels.shape}")
        labels = np.unique(labels, return_inverse=True)[1]
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups.sort(key=lambda rows: float(runs.flops[rows].mean()))
    usable = [rows for rows in groups if len(np.unique(runs.N[rows])) >= 3]
    if not usable:
        raise UserError(
            f"isoflop: none of the {len(groups)} budgets has three sizes; give budget= if rows of one budget differ "
            f"in FLOPs by more than {tolerance:.0%}"
        )
    return usable


def _parabolas(runs: Runs, groups: list[NDArray[np.int64]], shared: bool) -> _Parabolas:
    rows = np.concatenate(groups)
    group = np.repeat(np.arange(len(groups)), [len(members) for members in groups])
    root_weight = np.ones(len(rows))
    if runs.sigma is not None:
        relative = (runs.sigma / runs.loss)[rows]
        root_weight = np.median(relative) / relative
    y = np.log(runs.loss[rows]) * root_weight
    logs = np.log(runs.N)
    centers = np.array([logs[members].mean() for members in groups])
    n = logs[rows] - centers[group]
    powers = np.stack([np.ones(len(n)), n, n**2], 1) * root_weight[:, None]
    index = np.arange(len(groups))
    where = np.stack([index, len(groups) + index, 2 * len(groups) + (0 if shared else 1) * index], 1)
    basis = np.zeros((len(rows), int(where.max()) + 1))
    for power in range(3):
        basis[np.arange(len(rows)), where[group, power]] = powers[:, power]
    freedom = len(rows) - basis.shape[1]
    if freedom < 1:
        raise UserError(
            f"isoflop: {len(rows)} runs determine {basis.shape[1]} coefficients and leave the noise unknown; "
            "add a size at each budget"
        )
    flat = np.linalg.lstsq(basis, y, rcond=None)[0]
    noise = float(np.sqrt(np.sum((y - basis @ flat) ** 2) / freedom))
    own = [np.linalg.lstsq(powers[group == i], y[group == i], rcond=None)[0][2] for i in index]
    root = np.linalg.cholesky(np.linalg.inv(basis.T @ basis))
    return _Parabolas(centers, flat[where], np.array(own), flat, where, root, noise, freedom)


def _minimum(center: Array, c: Array) -> tuple[Array, Array]:
    """log N* and log L* of parabolas [..., 3].

    Without a minimum, or with one a factor of e⁷ and more away, where no parabola means anything: ±∞, whichever way
    the curve falls, and NaN.
    """
    convex = (c[..., 2] > 0) & (np.abs(c[..., 1]) < 14 * np.abs(c[..., 2]))
    bend = np.where(convex, c[..., 2], 1.0)
    where = np.where(convex, center - c[..., 1] / (2 * bend), -np.sign(c[..., 1]) * np.inf)
    return where, np.where(convex, c[..., 0] - c[..., 1] ** 2 / (4 * bend), np.nan)


def _budget(
    runs: Runs,
    rows: NDArray[np.int64],
    parabolas: _Parabolas,
    i: int,
    per_token: Callable[[ArrayLike], Array],
    drawn: tuple[Array, Array],
    level: float,
) -> Budget:
    order = rows[np.argsort(runs.N[rows], kind="stable")]
    N = runs.N[order]
    C = float(np.exp(np.log(runs.flops[order]).mean()))
    best, lowest = _minimum(parabolas.centers[i], parabolas.coefficients[i])
    verdict: Verdict = "interior"
    if parabolas.own_bend[i] <= 0 or parabolas.coefficients[i, 2] <= 0:
        verdict = "not convex"
    elif best <= np.log(N[0]):
        verdict = "below the smallest size"
    elif best >= np.log(N[-1]):
        verdict = "above the largest size"
    N_opt = float(np.exp(best)) if np.isfinite(lowest) else float("nan")
    losses = drawn[1][np.isfinite(drawn[1])]
    # Exact at the ends: D falls as N grows, and no minimum (N* of 0 or ∞) means D* of ∞ or 0.
    N_interval = interval(np.exp(drawn[0]), level)
    D_interval = tuple(
        float(C / per_token(end)) if 0 < end < np.inf else (0.0 if end else np.inf) for end in N_interval
    )
    return Budget(
        C=C,
        rows=tuple(runs.rows[i] for i in order),
        N=N,
        D=runs.D[order],
        loss=runs.loss[order],
        center=float(parabolas.centers[i]),
        coefficients=parabolas.coefficients[i],
        verdict=verdict,
        N_opt=N_opt,
        D_opt=float(C / per_token(N_opt)),
        loss_opt=float(np.exp(lowest)),
        N_interval=N_interval,
        D_interval=(D_interval[1], D_interval[0]),
        loss_interval=interval(np.exp(losses), level) if len(losses) > 1 else (np.nan, np.nan),
        advice=_advice(verdict, N),
    )


def _advice(verdict: Verdict, N: Array) -> tuple[float, ...]:
    """Two more sizes, at the spacing there is, on each side where the minimum may lie."""
    sizes = np.unique(N)
    step = float(np.exp(np.median(np.diff(np.log(sizes)))))
    below = (sizes[0] / step**2, sizes[0] / step)
    above = (sizes[-1] * step, sizes[-1] * step**2)
    sides = {"interior": (), "below the smallest size": below, "above the largest size": above}
    return tuple(float(size) for size in sides.get(verdict, below + above))


def _power_law(C: Array, y: Array, level: float) -> PowerLaw:
    """A straight line through log values y [1 + draws, budgets], the first of them the estimate."""
    unit = float(np.exp(np.log(C).mean()))
    c = np.log(C / unit)
    spread = y[1:].std(0)
    weights = 1 / spread**2 if (spread > 0).all() else np.ones(len(C))
    mean = weights @ c / weights.sum()
    slope = (y * weights) @ (c - mean) / (weights @ (c - mean) ** 2)
    level_at_unit = np.exp(y @ weights / weights.sum() - slope * mean)
    draws = np.stack([np.zeros(len(y) - 1), level_at_unit[1:], slope[1:]], 1)
    return PowerLaw(float(level_at_unit[0]), float(slope[0]), interval(slope[1:], level), unit, 0.0, draws)


def _offset_law(C: Array, y: Array, level: float) -> PowerLaw:
    """L* = E + K·(C/unit)^−γ through log L* [1 + draws, budgets], least squares in log."""
    from scaling.laws.forms import power_law
    from scaling.laws.objectives import l2
    from scaling.laws.problem import Problem
    from scaling.laws.solver import solve

    form = power_law("C", offset=True)
    units = form.log_units([C])
    x = np.log(C)[None] - units[:, None]
    spread = y[1:].std(0)
    weights = (spread.min() / spread) ** 2 if (spread > 0).all() else np.ones(len(C))
    problem = Problem(form, l2(), "log", units, x, y[0], weights, {})
    first = solve(problem, form.theta(form.starts(x, np.exp(y[0]), 32), np.zeros(1)))
    start = first.theta[int(first.total.argmin())]
    theta = solve(problem, np.broadcast_to(start, (len(y), 3)), y, tolerance=1e-10).theta
    values = np.stack([np.exp(theta[:, 0]), np.exp(theta[:, 1]), -theta[:, 2]], 1)
    E, K, exponent = (float(v) for v in values[0])
    return PowerLaw(K, exponent, interval(values[1:, 2], level), float(np.exp(units[0])), E, values[1:])
