"""The coordinate of a profile: the logarithm, logit or value of a parameter, or of a quantity derived from all."""

from dataclasses import replace

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount
from scaling.laws.forms import Parameter
from scaling.laws.quantities import (
    DERIVED,
    bracket,
    derived,
    gradient,
    quantity,
    tokens_table,
    traced,
)
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.problem import Problem, Pull
from scaling.laws.table.flops_per_token import FlopsPerToken
from scaling.names import meant

SOUGHT = {"positive": np.log(1e4), "share": 9.0, "real": 3.0, "level": 20.0}
"""how far from the estimate an end is searched for: in the logarithm, the logit or the value (for a real parameter,
times |estimate| where that is more than 1)"""
STRENGTH = 1e4
"""of a pull, in nats at one standard deviation from its target: searches then end within 1e-4 of the way to it"""
_EDGE = 0.1
"""in log N: an optimum this close to an end of its search bracket does not count as one"""


class Coordinate:
    """A fitted parameter, fixed exactly."""

    C: float | None = None
    """FLOPs, of a quantity at a budget"""
    per_token: FlopsPerToken | None = None

    def __init__(self, fit: FittedLaw, parameter: Parameter, value: float):
        self.fit, self.parameter, self.estimate = fit, parameter, value
        self.center = float(parameter.to_theta(value, np))
        scale = max(1.0, abs(self.center)) if parameter.kind == "real" else 1.0
        self.reach = float(SOUGHT[parameter.kind] * scale)

    def value(self, u: Array | float) -> Array:
        """The value in its own units."""
        with np.errstate(over="ignore"):
            return np.asarray(self.parameter.from_theta(np.asarray(u, np.float64), np))

    def of(self, value: Array) -> Array:
        """u of values in their own units."""
        return np.asarray(self.parameter.to_theta(value, np))

    def slope(self, theta: Array) -> Array:
        """du/dθ [free]."""
        return gradient(self.fit.problem, theta, self.parameter, self.C, self.per_token)

    def problem(self, target: Array, strength: float) -> Problem:
        """The problem with the coordinate at `target` [lanes]; strength: of a pull, in units of the objective."""
        return self.fit.problem.holding(self.parameter.name)

    def starts(self, target: Array, theta: Array) -> Array:
        """θ [lanes, free] to start the search for `target` [lanes] from, given those of other targets."""
        at = self.fit.problem.free.index(self.parameter.name)
        return np.where(np.arange(theta.shape[1]) == at, target[:, None], theta)

    def drawn(self, target: Array, scaled: Array) -> Array:
        """θ [lanes, free] near `target` [lanes] from the law's own starts, given in units of the data [lanes, k]."""
        form, problem = self.fit.form, self.fit.problem
        scaled = form.given(scaled, {**problem.fixed, **self.given(target)}, problem.units)
        return form.theta(scaled, np.zeros(len(problem.units)), problem.free)[:, problem.where]

    def given(self, target: Array) -> dict[str, Array]:
        """The parameters that `target` [lanes] fixes, in their own units."""
        return {self.parameter.name: self.value(target)}

    def reached(self, target: Array, theta: Array) -> Array:
        """u [lanes] at theta [lanes, free], where the searches for `target` ended."""
        return target

    def natural(self, target: Array, theta: Array) -> Array:
        """All parameters [lanes, k] there, in their own units."""
        return self.problem(target, 0.0).natural(theta)


class DerivedCoordinate(Coordinate):
    """A derived quantity, held near its target by a pull."""

    def __init__(self, fit: FittedLaw, name: str, C: float | None, flops_per_token: FlopsPerToken | None):
        known = DERIVED[name]
        self.C, self.per_token = C if known.at_budget else None, flops_per_token
        value = float(quantity(fit.form, fit.natural, name, self.C, flops_per_token))
        _require_optimum(fit, name, value, self.C, flops_per_token)
        super().__init__(fit, known.parameter, value)
        self.pull = Pull(traced(fit.form, name), tokens_table(self.C, flops_per_token), np.zeros(0), 0.0)

    def problem(self, target: Array, strength: float) -> Problem:
        return self.fit.problem.pulled(replace(self.pull, target=target, strength=strength))

    def starts(self, target: Array, theta: Array) -> Array:
        return theta

    def given(self, target: Array) -> dict[str, Array]:
        return {}

    def reached(self, target: Array, theta: Array) -> Array:
        natural = self.fit.problem.natural(theta)
        value = quantity(self.fit.form, natural, self.parameter.name, self.C, self.per_token)
        return np.asarray(self.parameter.to_theta(value, np))


def coordinate(fit: FittedLaw, name: str, C: float | None, flops_per_token: FlopsPerToken | None) -> Coordinate:
    """See `Fit.profile`. Raises UserError for a name that the fit has no profile of."""
    if name in fit.problem.free:
        return Coordinate(fit, next(p for p in fit.form.parameters if p.name == name), fit.params[name])
    there = derived(fit.form)
    if name not in there:
        also = f", and derived {', '.join(there)}" if there else ""
        hint = meant(name, (*fit.problem.free, *there), most=1)
        known = f"there are {', '.join(fit.problem.free)}{also}{'; ' * bool(hint)}{hint}"
        raise UserError(f"profile: {name!r} is not a fitted parameter; {known}")
    found = DerivedCoordinate(fit, name, None if C is None else amount(C), flops_per_token)
    if np.abs(found.slope(fit.theta)).max() < 1e-9:
        raise UserError(f"profile: {name} of {fit.form.name} is {found.estimate:.4g} whatever its parameters")
    return found


def _require_optimum(
    fit: FittedLaw, name: str, value: float, C: float | None, per_token: FlopsPerToken | None
) -> None:
    """Raises UserError where the fitted law has no compute-optimal N and D."""
    if C is None:
        there = 0 < value < 1
    else:
        low, high = bracket(C)
        best = float(np.log(quantity(fit.form, fit.natural, "N*", C, per_token)))
        there = low + _EDGE < best < high - _EDGE
    if not there:
        raise UserError(
            f"profile: the fitted law has no compute-optimal N and D ({name} would be {value:.4g}); fix the exponents"
            " that the data leave open (fit.identified() names them), or give them priors"
        )
