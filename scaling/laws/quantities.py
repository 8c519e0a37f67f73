"""Quantities derived from a law's parameters: exponents of the compute-optimal N and D, and N*, D*, L* at a budget.

`DERIVED` lists all of them; `quantity` evaluates them for many sets of parameters at once, `gradient` differentiates
them at a fit, and `traced` is the same evaluation in JAX, with which the solver constrains one to a value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount
from scaling.laws.forms import Form, Parameter
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.linear import derivative
from scaling.laws.solve.problem import Problem, Table, Traced
from scaling.laws.table.flops_per_token import FlopsPerToken, six_n
from scaling.names import offered

BRACKET = float(np.log(1e12))
"""the optimum is searched for this far in log N on both sides of N = D"""
HALVINGS = 60
TRACED_HALVINGS = 32
"""bisections in JAX, where a Newton step follows"""
STEPS = 60
"""most Newton steps; five are enough for power laws"""
LAST_STEP = 1e-7
"""in log N: a Newton step this small is the last one, since rounding hides anything finer"""
KNOT = 0.25
"""in log N, between knots of the spline of log tokens at a budget: exact where these are quadratic in log N"""
_STEP = 1e-4
"""step of central differences: in log N, of the one whose zero is the optimum (truncation and rounding both stay
below 1e-8), and in θ, for gradients of quantities (as accurate)"""


@dataclass(frozen=True)
class Quantity:
    """A number that follows from all parameters of a law of N and D."""

    name: str
    kind: Literal["share", "positive"]
    """the kind of parameter that the solver treats it as"""
    at_budget: bool
    of: Callable[..., Any]
    """computes it from a and b, or at a budget from N*, D* and L*; in NumPy and in JAX"""

    @property
    def parameter(self) -> Parameter:
        """The quantity as a parameter that could stand in a law."""
        return Parameter(self.name, self.kind)

    def belongs_to(self, form: Form) -> bool:
        """Whether the law has it: exponents where they have a closed form, the others for any law of N and D."""
        return set(form.columns) == {"N", "D"} if self.at_budget else form.frontier is not None


DERIVED = {
    known.name: known
    for known in (
        Quantity("a", "share", False, lambda a, b: a),  # of N* ∝ C^a
        Quantity("b", "share", False, lambda a, b: b),  # of D* ∝ C^b
        Quantity("N*", "positive", True, lambda N, D, loss: N),
        Quantity("D*", "positive", True, lambda N, D, loss: D),
        Quantity("L*", "positive", True, lambda N, D, loss: loss),
        Quantity("D*/N*", "positive", True, lambda N, D, loss: D / N),
    )
}


def derived(form: Form, *, at_budget: bool | None = None) -> tuple[str, ...]:
    """Names of the quantities that a law has besides its parameters.

    at_budget: True for those at a budget only, False for the others only.
    """
    return tuple(
        name
        for name, known in DERIVED.items()
        if known.belongs_to(form) and name not in form.params and at_budget in (None, known.at_budget)
    )


def quantity(
    form: Form, natural: Array, name: str, C: float | None = None, flops_per_token: FlopsPerToken | None = None
) -> Array:
    """A parameter or a derived quantity [...] at parameters [..., k]; see `quantities`."""
    return quantities(form, natural, (name,), C, flops_per_token)[name]


def quantities(
    form: Form,
    natural: Array,
    names: Sequence[str],
    C: float | None = None,
    flops_per_token: FlopsPerToken | None = None,
) -> dict[str, Array]:
    """Parameters and derived quantities by name, each [...] at parameters [..., k].

    C: training FLOPs, for quantities at a budget. flops_per_token: of a model of N parameters; None: 6·N.
    Raises UserError for a name that the law does not have, and for a quantity at a budget without a positive C.
    """
    values = {}
    optimum = None
    for name in names:
        if name in form.params:
            values[name] = natural[..., form.params.index(name)]
            continue
        if name not in derived(form):
            told = offered(name, (*form.params, *derived(form)), "there are ")
            raise UserError(f"no quantity {name!r} of {form.name}; {told}")
        known = DERIVED[name]
        if not known.at_budget:
            assert form.frontier is not None
            values[name] = known.of(*form.frontier(natural))
            continue
        if C is None:
            raise UserError(f"{name} depends on the budget: give C=…, in FLOPs")
        optimum = optimum or compute_optimal(form, natural, C, flops_per_token)
        values[name] = known.of(*optimum)
    return values


def compared_quantities(fit: FittedLaw, natural: Array, C: float | None) -> dict[str, Array]:
    """The quantities by which fits are compared, each [...] at parameters [..., k]: the parameters, and a, N* and L*
    where the law has them.

    C: FLOPs at which N* and L* are computed, by the runs' own FLOPs per token; None: without them.
    """
    there = (*derived(fit.form, at_budget=False), *(() if C is None else derived(fit.form, at_budget=True)))
    names = (*fit.form.params, *(name for name in ("a", "N*", "L*") if name in there))
    return quantities(fit.form, natural, names, C, None if C is None else fit.runs.per_token)


def budget_of(fit: FittedLaw, C: float | None) -> float | None:
    """`C`, or 10 times the largest FLOPs of the runs; None for laws that have no quantity at a budget."""
    if not derived(fit.form, at_budget=True):
        return None
    return 10.0 * float(fit.runs.flops.max()) if C is None else amount(C)


def gradient(
    problem: Problem,
    theta: Array,
    parameter: Parameter,
    C: float | None = None,
    flops_per_token: FlopsPerToken | None = None,
) -> Array:
    """du/dθ [free] at the solver's numbers θ [free], u being a parameter or quantity in the solver's own scale.

    By central differences: compiled derivatives would take a quarter of a second to compile for each quantity.
    """

    def u(lanes: Array) -> Array:
        value = quantity(problem.form, problem.natural(lanes), parameter.name, C, flops_per_token)
        return np.asarray(parameter.to_theta(value, np))[:, None]

    return derivative(u, theta, _STEP)[0]


def compute_optimal(
    form: Form, natural: Array, C: float, flops_per_token: FlopsPerToken | None = None
) -> tuple[Array, Array, Array]:
    """N*, D*, L* at C FLOPs, each [...], at parameters [..., k]. Raises UserError for laws of other columns."""
    require_sizes(form)
    C, per_token = amount(C), flops_per_token or six_n

    def tokens(n: Array) -> Array:
        return C / per_token(np.exp(n))

    def loss(n: Array) -> Array:
        sizes = {"N": np.exp(n), "D": tokens(n)}
        return form.loss(natural, [sizes[name] for name in form.columns])

    low, high = (np.full(natural.shape[:-1], end) for end in bracket(C))
    best = least_loss(loss, low, high)
    return np.exp(best), tokens(best), loss(best)


def require_sizes(form: Form) -> None:
    """Raises UserError unless the law is one of N and D."""
    if set(form.columns) != {"N", "D"}:
        one = "" if form.pooling is None else f"; ask the law of one group, fit[{form.pooling.groups[0]!r}]"
        raise UserError(f"{form.name} is a law of {', '.join(form.columns)}: no optimal N and D follow from it{one}")


def bracket(C: float) -> tuple[float, float]:
    """Range of log N in which the optimum at C FLOPs is searched for. Raises UserError unless C is positive."""
    middle = 0.5 * float(np.log(amount(C) / 6.0))
    return middle - BRACKET, middle + BRACKET


def least_loss(loss: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """log N at the minimum of `loss`, a function of log N, between the ends [...]: where its slope is zero.

    Newton steps from the middle, replaced by a bisection where one would leave the remaining bracket.
    """

    def rise(n: Array) -> tuple[Array, Array]:
        return loss(n + _STEP), loss(n - _STEP)

    with np.errstate(all="ignore"):  # far off a loss may be beyond float64
        falls, rises = np.greater(*rise(high)), np.greater(*rise(low))
        n, before, after = 0.5 * (low + high), low, high
        for _ in range(STEPS):
            up, down = rise(n)
            before, after = np.where(up > down, before, n), np.where(up > down, n, after)
            step = 0.5 * _STEP * (up - down) / (up - 2 * loss(n) + down)
            there, last = n - step, np.abs(step) < LAST_STEP
            n = np.where(last | ((there > before) & (there < after)), there, 0.5 * (before + after))
            if np.all(last | (after - before < LAST_STEP) | ~falls | rises):
                break
    return np.where(rises, low, np.where(falls, n, high))


def bisect(beyond: Callable[[Any], Any], low: Any, high: Any, xp: ModuleType, halvings: int = HALVINGS) -> Any:
    """Where `beyond` turns true between the ends, in NumPy or in JAX, elementwise."""

    def halve(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        middle = 0.5 * (ends[0] + ends[1])
        there = beyond(middle)
        return xp.where(there, ends[0], middle), xp.where(there, middle, ends[1])

    ends = (low, high)
    if xp is np:
        for i in range(halvings):
            ends = halve(i, ends)
    else:
        import jax

        ends = jax.lax.fori_loop(0, halvings, halve, ends)
    return 0.5 * (ends[0] + ends[1])


@cache
def traced(form: Form, name: str) -> Traced:
    """A derived quantity in JAX, in the solver's own scale, with its derivatives in the parameters.

    Cached: there is one object for each law and name, because programs are compiled for it.
    """
    import jax.numpy as jnp

    known = DERIVED[name]

    def value(natural: Any, table: Any) -> Any:
        if known.at_budget:
            return known.of(*_traced_optimum(form, natural, table))
        assert form.frontier is not None
        return known.of(*form.frontier(natural))

    return lambda natural, table: known.parameter.to_theta(value(natural, table), jnp)


def tokens_table(C: float | None, flops_per_token: FlopsPerToken | None) -> Table:
    """What `traced` needs to know of a budget: log tokens at C FLOPs as a cubic spline in log N.

    First knot, distance of knots, coefficients [4, pieces]; nothing without C.
    """
    from scipy.interpolate import CubicSpline

    if C is None:
        return ()
    low, high = bracket(C)
    knots = np.linspace(low, high, 1 + round((high - low) / KNOT))
    spline = CubicSpline(knots, np.log(C / (flops_per_token or six_n)(np.exp(knots))))
    return np.array(low), np.array(knots[1] - knots[0]), np.ascontiguousarray(spline.c)


def _traced_optimum(form: Form, natural: Any, table: Any) -> tuple[Any, Any, Any]:
    """N*, D* and L* as `compute_optimal` finds them, with derivatives in `natural` [k]."""
    import jax
    import jax.numpy as jnp

    first, step, coefficients = table
    pieces = coefficients.shape[1]

    def tokens(n: Any) -> Any:
        piece = jnp.clip(jnp.floor((n - first) / step), 0, pieces - 1).astype(int)
        return jnp.polyval(coefficients[:, piece], n - first - piece * step)

    def loss(values: Any, n: Any) -> Any:
        named = dict(zip(form.params, values, strict=True))
        return form.value(named, {"N": n, "D": tokens(n)}, jnp)

    def slope(values: Any, n: Any) -> Any:
        return jax.jvp(lambda m: loss(values, m), (n,), (jnp.ones_like(n),))[1]

    still = jax.lax.stop_gradient(natural)
    beyond = lambda n: loss(still, n + _STEP) > loss(still, n - _STEP)  # noqa: E731
    found = bisect(beyond, first, first + pieces * step, jnp, TRACED_HALVINGS)
    bend = jax.jvp(lambda n: slope(still, n), (found,), (jnp.ones_like(found),))[1]
    # A Newton step in which only the slope depends on the parameters: it gives log N* its derivatives in them.
    n = found - slope(natural, found) / bend
    return jnp.exp(n), jnp.exp(tokens(n)), loss(natural, n)
