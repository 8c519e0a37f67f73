"""What a profile is made along: the logarithm, logit or value of a parameter, or of a quantity derived from all."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.forms import Parameter
from scaling.laws.intervals.traced import tokens_table, traced
from scaling.laws.quantities import AT_BUDGET, EXPONENTS, FlopsPerToken, bracket, derived
from scaling.laws.solve.problem import Problem, Pull

if TYPE_CHECKING:
    from scaling.laws.fit import Fit

Array = NDArray[np.float64]
REACH = {"positive": np.log(1e4), "share": 9.0, "real": 3.0, "level": 20.0}
"""how far from the estimate an end is sought: in the logarithm, the logit, the value (of a real one times |estimate|
where that is more than 1)"""
STRENGTH = 1e4
"""of a pull, in nats at one standard deviation from its target: ends are then within 1e-4 of the way to it"""
_EDGE = 0.1
"""in log N, of the bracket that an optimum is sought in: one as near to its end is none"""
_STEP = 1e-4
"""in θ, for slopes: derived quantities are known to 1e-8"""


class Coordinate:
    """A fitted parameter, held exactly."""

    def __init__(self, fit: "Fit", parameter: Parameter, value: float):
        self.fit, self.parameter, self.estimate = fit, parameter, value
        self.center = float(parameter.to_theta(value, np))
        scale = max(1.0, abs(self.center)) if parameter.kind == "real" else 1.0
        self.reach = float(REACH[parameter.kind] * scale)

    def value(self, u: Array | float) -> Array:
        """In own units."""
        with np.errstate(over="ignore"):
            return np.asarray(self.parameter.from_theta(np.asarray(u, np.float64), np))

    def slope(self, theta: Array) -> Array:
        """du/dθ [free]."""
        steps = _STEP * np.eye(len(theta))
        return (self._of(theta + steps) - self._of(theta - steps)) / (2 * _STEP)

    def problem(self, target: Array, strength: float) -> Problem:
        """With the coordinate at `target` [lanes]; strength: of a pull, in units of the objective."""
        nothing = np.full(len(target), np.nan)
        held = {name: nothing for name in self.fit.problem.free} | {self.parameter.name: self.value(target)}
        return self.fit.problem.holding(held)

    def reached(self, target: Array, theta: Array) -> Array:
        """u [lanes] where searches for `target` ended at theta [lanes, free]."""
        return target

    def natural(self, target: Array, theta: Array) -> Array:
        """All parameters in own units [lanes, k] there."""
        return self.problem(target, 0.0).natural(theta)

    def _of(self, theta: Array) -> Array:
        """u at the solver's numbers [..., free]."""
        natural = self.fit.problem.natural(theta)
        return np.asarray(self.parameter.to_theta(self._quantity(natural), np))

    def _quantity(self, natural: Array) -> Array:
        return natural[..., self.fit.form.params.index(self.parameter.name)]


class DerivedCoordinate(Coordinate):
    """A derived quantity, pulled."""

    def __init__(self, fit: "Fit", name: str, C: float | None, flops_per_token: FlopsPerToken | None):
        self.C, self.per_token = C, flops_per_token
        value = float(derived(fit.form, fit.natural, name, C, flops_per_token))
        parameter = Parameter(name, "share" if name in EXPONENTS else "positive")
        _require_optimum(fit, name, value, C, flops_per_token)
        super().__init__(fit, parameter, value)
        self.quantity = traced(fit.form, parameter)
        self.table = tokens_table(C, flops_per_token) if name in AT_BUDGET else ()

    def problem(self, target: Array, strength: float) -> Problem:
        return self.fit.problem.pulled(Pull(self.quantity, self.table, target, strength))

    def reached(self, target: Array, theta: Array) -> Array:
        return self._of(theta)

    def _quantity(self, natural: Array) -> Array:
        return derived(self.fit.form, natural, self.parameter.name, self.C, self.per_token)


def coordinate(fit: "Fit", name: str, C: float | None, flops_per_token: FlopsPerToken | None) -> Coordinate:
    """See `Fit.profile`. Raises UserError for what the fit has no profile of."""
    if name in fit.problem.free:
        return Coordinate(fit, next(p for p in fit.form.parameters if p.name == name), fit.params[name])
    there = () if fit.form.frontier is None else (*EXPONENTS, *AT_BUDGET)
    if name not in there or name in fit.form.params:
        also = f", and derived {', '.join(there)}" if there else ""
        raise UserError(f"profile: {name!r} is not a fitted parameter; there are {', '.join(fit.problem.free)}{also}")
    found = DerivedCoordinate(fit, name, C, flops_per_token)
    if np.abs(found.slope(fit.theta)).max() < 1e-9:
        raise UserError(f"profile: {name} of {fit.form.name} is {found.estimate:.4g} whatever its parameters")
    return found


def _require_optimum(fit: "Fit", name: str, value: float, C: float | None, per_token: FlopsPerToken | None) -> None:
    """Raises UserError where the fitted law has no compute-optimal N and D."""
    if name in EXPONENTS:
        there = 0 < value < 1
    else:
        assert C is not None
        low, high = bracket(C)
        best = float(np.log(derived(fit.form, fit.natural, "N*", C, per_token)))
        there = low + _EDGE < best < high - _EDGE
    if not there:
        raise UserError(
            f"profile: the fitted law has no compute-optimal N and D ({name} would be {value:.4g}); fix the exponents"
            " that the data leave open (fit.identified() names them), or give them priors"
        )
