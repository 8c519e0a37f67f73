"""Profile likelihood: how much worse the best fit gets as one quantity is fixed away from its estimate.

The interval is where 2·(objective − least) / s ≤ t², with t Student's quantile at (1 + level)/2 for the residuals'
degrees of freedom and s = E ψ² / E ψ' the noise in units of the objective (`solve.noise`): for least squares s is the
residual variance and the interval the exact one of a linear law; for |r| s = 1/(2f(0)); for Huber in between; for
Student's t, already a −log likelihood, near 1. Unlike intervals from the linearised law this one may be asymmetric,
and it may not close, which means that the data do not identify the parameter.

A quantity derived from all parameters (an exponent a or b; N*, D*, L* or D*/N* at a budget) is held by a pull on it,
see `laws.solve.problem.Pull`: the points then lie where the searches end, slightly off the even grid.

In 200 simulated ladders (tests/test_laws_coverage.py: 5 budgets × 7 sizes over two decades of C, 0.5 % noise), 90 %
intervals of a, N* and L* at 10 times the largest budget covered the truth in 88–90 % with Gaussian noise and l2, and
in 87–91 % with t₂ noise and huber; on 3 budgets × 5 sizes in 90, 94 and 88 % (Gaussian).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.asked import whole
from scaling.laws.intervals.coordinate import STRENGTH, Coordinate, coordinate
from scaling.laws.intervals.covariance import curvature, inverted
from scaling.laws.intervals.interval import check_level
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.noise import noise_of
from scaling.laws.solve.solver import solve
from scaling.laws.table.flops_per_token import FlopsPerToken
from scaling.text import percent

ROUNDS = 4
INSIDE = 16
"""values tried at once between the two that bracket an end: a round narrows the bracket 17-fold, and both ends
together, each value started from the parameters on either side, fill two blocks of the solver"""
FINE = 0.02
"""in standard deviations: between values this close the profile is straight enough to interpolate"""
FRESH = 2
"""number of the law's own starts at each value, besides those that continue from the fit: the latter may have run to
the edge of a parameter (E to 0), from which a search does not return"""


@dataclass(frozen=True, eq=False)
class Profile:
    """Objectives of the best fits with a parameter, or a derived quantity, fixed."""

    name: str
    values: Array
    """[points], rising, in the columns' own units"""
    objectives: Array
    """[points], priors' penalty included; refitted with the quantity fixed at the value"""
    estimate: float
    """the fit's own value"""
    least: float
    """least objective found"""
    noise: float
    """divisor that puts the objective in nats"""
    cut: float
    """objective at the interval's ends"""
    level: float
    interval: tuple[float, float]
    """an end that the profile does not reach within 4 decades (an exponent: within 3) is 0, infinite or −infinite"""
    natural: Array
    """[points, k], all parameters at each value"""
    note: str | None
    """says so where the profile found a better fit than the fit's own"""
    C: float | None = None
    """FLOPs, of a quantity at a budget"""
    conventions: Mapping[str, str] = field(default_factory=dict)
    """what the runs' columns mean"""

    def __repr__(self) -> str:
        low, high = self.interval
        at = "" if self.C is None else f" at {self.C:.4g} FLOPs"
        return f"Profile({self.name}{at} {self.estimate:.6g}, {percent(self.level)} interval {low:.6g} … {high:.6g})"

    @property
    def closed(self) -> tuple[bool, bool]:
        """Whether the lower and the upper end were found."""
        low, high = self.interval
        return bool(np.isfinite(low) and low != 0.0), bool(np.isfinite(high) and high != 1.0)

    @property
    def z(self) -> Array:
        """[points], signed root of 2·(objective − least)/noise: a straight line where the law is linear."""
        rise = np.sqrt(np.maximum(2 * (self.objectives - self.least) / self.noise, 0.0))
        return np.asarray(np.sign(self.values - self.estimate) * rise)


def profile(
    fit: FittedLaw,
    name: str,
    points: int = 41,
    level: float = 0.9,
    C: float | None = None,
    flops_per_token: FlopsPerToken | None = None,
) -> Profile:
    """See `Fit.profile`."""
    check_level(level)
    points = whole(points, "profile: points", 5)
    along = coordinate(fit, name, C, flops_per_token)
    profiler = _Profiler(fit, along, level)
    with np.errstate(all="ignore"):  # the law may overflow at a value far off
        profiler.search(points)
        ends = profiler.ends()
        natural = along.natural(profiler.target, profiler.theta)
    low, high = (float(along.value(end)) for end in ends)
    least, own, noise = float(profiler.total.min()), profiler.own, profiler.noise
    note = None
    if least < own - max(1e-4 * noise, 1e-9 * abs(own)):
        best = float(along.value(profiler.u[int(profiler.total.argmin())]))
        note = f"a better fit was met at {name} = {best:.4g}: fit again with more starts"
    order = np.argsort(profiler.u, kind="stable")
    return Profile(
        name,
        along.value(profiler.u)[order],
        profiler.total[order],
        along.estimate,
        least,
        noise,
        least + 0.5 * noise * profiler.t**2,
        level,
        (low, high),
        natural[order],
        note,
        along.C,
        fit.runs.conventions,
    )


class _Profiler:
    """Fixes a coordinate u at values. A pulled one ends up near its target; each target keeps its best search."""

    def __init__(self, fit: FittedLaw, along: Coordinate, level: float):
        from scipy.special import stdtrit

        self.fit, self.along = fit, along
        freedom = max(fit.freedom, 1)
        self.noise = noise_of(fit.residuals, fit.problem)
        self.t = float(stdtrit(freedom, (1 + level) / 2))
        self.direction, self.sd = self._linearised()
        self.strength = STRENGTH * self.noise / self.sd**2
        self.fresh = fit.form.starts(fit.problem.x, fit.runs.loss, 2 * FRESH)
        self.own = fit.objective + float(fit.problem.penalty(fit.theta))
        self.target = self.u = np.array([along.center])
        self.theta, self.total = along.starts(self.target, fit.theta[None]), np.array([self.own])

    def search(self, points: int) -> None:
        """Refit near the estimate, then further away on the sides where the cut was not reached."""
        center, reach = self.along.center, self.along.reach
        near = min(2 * self.t * self.sd, reach)
        even = near * np.arange(1, points // 2 + 1) / (points // 2)
        self._add(center + np.concatenate([-even, even]))
        self._improve()
        far = near * (reach / near) ** (np.arange(1, points // 4 + 1) / (points // 4))
        for sign in (-1, 1):
            if near < reach and not self._crossed(sign):
                self._add(center + sign * far)
                self._improve()

    def ends(self) -> list[float]:
        """The coordinates at which the profile crosses the cut below and above, infinite where it does not."""
        for _ in range(ROUNDS):
            wide = [b for b in map(self._bracket, (-1, 1)) if b and np.ptp(self.u[b]) > FINE * max(self.sd, 1e-12)]
            if not wide:
                break
            share = np.arange(1, INSIDE + 1) / (INSIDE + 1)
            target = np.concatenate([self.target[i] + share * (self.target[j] - self.target[i]) for i, j in wide])
            starts = [np.repeat(self.theta[[b[end] for b in wide]], INSIDE, 0) for end in (0, 1)]
            self._solve(np.tile(target, 2), np.concatenate(starts))
        return [self._end(sign) for sign in (-1, 1)]

    def _end(self, sign: int) -> float:
        bracket = self._bracket(sign)
        if bracket is None:
            return sign * np.inf
        (u, above), (z, z_above) = self.u[bracket], self._z()[bracket]
        share = (self.t - z) / (z_above - z) if np.isfinite(z_above) else 0.5
        return float(u + share * (above - u))

    def _bracket(self, sign: int) -> list[int] | None:
        """Indices of the last value inside the cut on that side and of the first beyond it; None if none is
        beyond."""
        z, order = self._z(), np.argsort(sign * self.u)
        beyond = (z > self.t) & (sign * self.u > sign * self.u[int(self.total.argmin())])
        found = np.flatnonzero(beyond[order])
        return [int(i) for i in order[found[0] - 1 : found[0] + 1]] if len(found) else None

    def _z(self) -> Array:
        return np.sqrt(np.maximum(2 * (self.total - self.total.min()) / self.noise, 0.0))

    def _crossed(self, sign: int) -> bool:
        """Whether the outermost value on that side is as bad as the cut."""
        rise = self.total[-1 if sign > 0 else 0] - self.total.min()
        return bool(2 * rise > self.noise * self.t**2)

    def _add(self, target: Array) -> None:
        """Refit at target, starting from the linearised law's estimate, from the fit and from the law's own
        starts."""
        led = self.fit.theta + np.clip((target - self.along.center)[:, None] * self.direction, -3.0, 3.0)
        starts = [led, np.broadcast_to(self.fit.theta, led.shape)]
        drawn = [self.fresh[(np.arange(len(target)) + i) % len(self.fresh)] for i in range(FRESH)]
        starts += [self.along.drawn(target, natural) for natural in drawn]
        self._solve(np.tile(target, len(starts)), np.concatenate(starts))

    def _improve(self) -> None:
        """Refit every value from both neighbours' parameters."""
        lower, upper = (
            np.maximum(np.arange(len(self.u)) - 1, 0),
            np.minimum(np.arange(len(self.u)) + 1, len(self.u) - 1),
        )
        self._solve(np.tile(self.target, 2), np.concatenate([self.theta[lower], self.theta[upper]]))

    def _solve(self, target: Array, starts: Array) -> None:
        """Refit with the coordinate fixed at each target; keeps the best of each, sorted."""
        starts = self.along.starts(target, starts)
        solution = solve(self.along.problem(target, self.strength), starts, tolerance=1e-11)
        u = self.along.reached(target, solution.theta)
        found = np.isfinite(u)
        target, u = np.concatenate([self.target, target[found]]), np.concatenate([self.u, u[found]])
        theta = np.concatenate([self.theta, solution.theta[found]])
        total = np.concatenate([self.total, solution.total[found]])
        order = np.lexsort((total + 0.5 * self.strength * (u - target) ** 2, target))
        new = np.diff(target[order]) > 1e-12 * max(1.0, abs(self.along.center))
        order = order[np.concatenate([[True], new])]
        self.target, self.u, self.theta, self.total = target[order], u[order], theta[order], total[order]

    def _linearised(self) -> tuple[Array, float]:
        """dθ/du along the profile, and the standard deviation of u, by the curvature at the fit."""
        covariance = self.noise * inverted(curvature(self.fit.problem, self.fit.theta)[0])
        slope = self.along.slope(self.fit.theta)
        with np.errstate(all="ignore"):  # parameters that the runs do not determine have no finite covariance
            variance = float(slope @ covariance @ slope)
        sd = float(np.sqrt(max(variance, 0.0)))
        if not 0 < sd < self.along.reach:
            return np.zeros(len(slope)), self.along.reach
        return covariance @ slope / variance, sd
