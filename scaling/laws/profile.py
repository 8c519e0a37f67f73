"""Profile likelihood: how much worse the best fit gets as one parameter is held away from its estimate.

The interval is where 2·(objective − least) / s ≤ t², with t Student's quantile at (1 + level)/2 for the residuals'
degrees of freedom and s = E ψ² / E ψ' the noise in units of the objective (`laws.noise`): for least squares s is the
residual variance and the interval the exact one of a linear law; for |r| s = 1/(2f(0)); for Huber in between; for
Student's t, already a −log likelihood, near 1. Unlike intervals from the linearised law this one may be lopsided, and
it may not close, which says that the data do not identify the parameter.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.covariance import curvature, inverted
from scaling.laws.linear import natural_slope
from scaling.laws.noise import noise_of
from scaling.laws.problem import Problem
from scaling.laws.uncertainty import check_level

if TYPE_CHECKING:
    from scaling.laws.fit import Fit

Array = NDArray[np.float64]
REACH = {"positive": np.log(1e4), "share": 9.0, "real": 3.0, "level": 20.0}
"""how far from the estimate an end is sought: in the logarithm, the logit, the value (of a real one times |estimate|
where that is more than 1)"""
REFINEMENTS = 6


@dataclass(frozen=True, eq=False)
class Profile:
    """Objectives of the best fits with one parameter held."""

    name: str
    values: Array
    """[points], rising, in the columns' own units"""
    objectives: Array
    """[points], priors' penalty included; refitted with the parameter held at the value"""
    estimate: float
    """the fit's own value"""
    least: float
    """least objective found"""
    noise: float
    """what the objective is divided by to be in nats"""
    cut: float
    """objective at the interval's ends"""
    level: float
    interval: tuple[float, float]
    """an end that the profile does not reach within 4 decades (an exponent: 3) is 0 or infinite, or −infinite"""
    natural: Array
    """[points, k], all parameters at each value"""
    note: str | None
    """whether a better fit than the fit's own was met"""

    def __repr__(self) -> str:
        low, high = self.interval
        return f"Profile({self.name} {self.estimate:.6g}, {self.level:.0%} interval {low:.6g} … {high:.6g})"

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


def profile(fit: "Fit", name: str, points: int = 41, level: float = 0.9) -> Profile:
    """See `Fit.profile`."""
    check_level(level)
    if name not in fit.problem.free:
        raise UserError(f"profile: {name!r} is not a fitted parameter; there are {', '.join(fit.problem.free)}")
    if points < 5:
        raise UserError(f"profile: points must be at least 5; got {points}")
    return _Profiler(fit, name, level).run(points)


class _Profiler:
    """Holds one parameter at values of a coordinate u: its logarithm, logit, or itself."""

    def __init__(self, fit: "Fit", name: str, level: float):
        from scipy import stats

        self.fit, self.name, self.level = fit, name, level
        self.problem: Problem = fit.problem
        self.kind = next(p.kind for p in fit.form.parameters if p.name == name)
        freedom = max(len(fit.runs) - len(self.problem.free), 1)
        self.noise = noise_of(fit.residuals, self.problem)
        self.t = float(stats.t.ppf((1 + level) / 2, freedom))
        self.center = float(self._coordinate(fit.params[name]))
        self.reach = REACH[self.kind] * (max(1.0, abs(self.center)) if self.kind == "real" else 1.0)
        self.direction, self.sd = self._linearised()
        self.u, self.theta, self.total = np.array([self.center]), fit.theta[None], np.array([self._own()])

    def run(self, points: int) -> Profile:
        with np.errstate(all="ignore"):  # a value far off may be beyond what the law can be computed at
            return self._run(points)

    def _run(self, points: int) -> Profile:
        near = min(2 * self.t * self.sd, self.reach)
        even = near * np.arange(1, points // 2 + 1) / (points // 2)
        self._add(self.center + np.concatenate([-even, even]))
        self._improve()
        far = near * (self.reach / near) ** (np.arange(1, points // 4 + 1) / (points // 4))
        for sign in (-1, 1):
            if near < self.reach and not self._crossed(sign):
                self._add(self.center + sign * far)
                self._improve()
        ends = [self._end(sign) for sign in (-1, 1)]
        least = float(self.total.min())
        note = None
        if least < self._own() - max(1e-4 * self.noise, 1e-9 * abs(self._own())):
            best = self._value(self.u[int(self.total.argmin())])
            note = f"a better fit was met at {self.name} = {float(best):.4g}: fit again with more starts"
        natural = self._held(self.u).natural(self.theta)
        low, high = (float(self._value(end)) for end in ends)
        return Profile(
            self.name,
            natural[:, self.fit.form.params.index(self.name)],
            self.total,
            self.fit.params[self.name],
            least,
            self.noise,
            least + 0.5 * self.noise * self.t**2,
            self.level,
            (low, high),
            natural,
            note,
        )

    def _crossed(self, sign: int) -> bool:
        """Whether the outermost value on that side is as bad as the cut."""
        rise = self.total[-1 if sign > 0 else 0] - self.total.min()
        return bool(2 * rise > self.noise * self.t**2)

    def _add(self, u: Array) -> None:
        """Refit at u from where the linearised law leads and from the fit itself."""
        led = self.fit.theta + np.clip((u - self.center)[:, None] * self.direction, -3.0, 3.0)
        self._solve(np.tile(u, 2), np.concatenate([led, np.broadcast_to(self.fit.theta, led.shape)]))

    def _improve(self) -> None:
        """Refit every value from both neighbours' parameters."""
        lower, upper = (
            np.maximum(np.arange(len(self.u)) - 1, 0),
            np.minimum(np.arange(len(self.u)) + 1, len(self.u) - 1),
        )
        self._solve(np.tile(self.u, 2), np.concatenate([self.theta[lower], self.theta[upper]]))

    def _solve(self, u: Array, starts: Array) -> None:
        """Refit with the parameter held at each u; keeps the best of each value, sorted."""
        from scaling.laws.solver import solve

        solution = solve(self._held(u), starts, tolerance=1e-11)
        u, theta = np.concatenate([self.u, u]), np.concatenate([self.theta, solution.theta])
        total = np.concatenate([self.total, solution.total])
        order = np.lexsort((total, u))
        order = order[np.concatenate([[True], np.diff(u[order]) > 1e-12 * max(1.0, abs(self.center))])]
        self.u, self.theta, self.total = u[order], theta[order], total[order]

    def _end(self, sign: int) -> float:
        """The coordinate at which the profile crosses the cut on one side, infinite where it does not."""
        for _ in range(REFINEMENTS):
            z = np.sqrt(np.maximum(2 * (self.total - self.total.min()) / self.noise, 0.0))
            order = np.argsort(sign * self.u)
            u, z = self.u[order], z[order]
            above = np.flatnonzero((z > self.t) & (sign * u > sign * self.u[int(self.total.argmin())]))
            if not len(above):
                return sign * np.inf
            i = int(above[0])
            share = (self.t - z[i - 1]) / (z[i] - z[i - 1]) if np.isfinite(z[i]) else 0.5
            found = float(u[i - 1] + share * (u[i] - u[i - 1]))
            if abs(u[i] - u[i - 1]) < 1e-3 * max(self.sd, 1e-12):
                return found
            near = int(np.searchsorted(self.u, found))
            self._solve(np.full(2, found), self.theta[[max(near - 1, 0), min(near, len(self.u) - 1)]])
        return found

    def _linearised(self) -> tuple[Array, float]:
        """dθ/du along the profile, and the standard deviation of u, by the curvature at the fit."""
        covariance = self.noise * inverted(curvature(self.problem, self.fit.theta)[0])
        slope = natural_slope(self.problem, self.fit.theta)[self.fit.form.params.index(self.name)]
        value = self.fit.params[self.name]
        per_value = {"positive": 1 / max(value, 1e-300), "share": 1 / max(value * (1 - value), 1e-300)}
        slope = slope * per_value.get(self.kind, 1.0)
        variance = float(slope @ covariance @ slope)
        sd = float(np.sqrt(max(variance, 0.0)))
        if not 0 < sd < self.reach:
            return np.zeros(len(slope)), self.reach
        return covariance @ slope / variance, sd

    def _own(self) -> float:
        return self.fit.objective + float(self.problem.penalty(self.fit.theta))

    def _held(self, u: Array) -> Problem:
        nothing = np.full(len(u), np.nan)
        return self.problem.holding({name: nothing for name in self.problem.free} | {self.name: self._value(u)})

    def _coordinate(self, value: Array | float) -> Array:
        if self.kind == "positive":
            return np.log(np.maximum(value, 1e-300))
        value = np.asarray(value, np.float64)
        return np.log(value / (1 - value)) if self.kind == "share" else value

    def _value(self, u: Array | float) -> Array:
        if self.kind == "positive":
            return np.exp(u)
        u = np.asarray(u, np.float64)
        return 1 / (1 + np.exp(-u)) if self.kind == "share" else u
