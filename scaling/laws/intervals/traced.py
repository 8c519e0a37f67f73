"""Derived quantities in JAX, with their derivatives in the law's parameters: what the solver pulls by."""

from functools import cache
from typing import Any

import numpy as np

from scaling.laws.forms import Form, Parameter
from scaling.laws.quantities import FlopsPerToken, bracket, six_n
from scaling.laws.solve.problem import Table, Traced

KNOT = 0.25
"""in log N, between knots of the spline of log tokens at a budget: exact where these are quadratic in log N"""
HALVINGS = 50


@cache
def traced(form: Form, derived: Parameter) -> Traced:
    """A derived quantity of `scaling.laws.quantities` in JAX, with its derivatives in the parameters."""
    import jax.numpy as jnp

    assert form.frontier is not None
    exponents = form.frontier

    def at_budget(natural: Any, table: Any) -> Any:
        n, d, loss = _best(form, natural, table)
        return {"N*": n, "D*": d, "D*/N*": d - n, "L*": jnp.log(loss)}[derived.name]

    def exponent(natural: Any, table: Any) -> Any:
        return derived.to_theta(exponents(natural)[derived.name == "b"], jnp)

    return exponent if derived.name in ("a", "b") else at_budget


def tokens_table(C: float | None, flops_per_token: FlopsPerToken | None) -> Table:
    """log tokens at C FLOPs as a cubic spline in log N: first knot, distance of knots, coefficients [4, pieces]."""
    from scipy.interpolate import CubicSpline

    if C is None:
        return ()
    low, high = bracket(C)
    knots = np.linspace(low, high, 1 + round((high - low) / KNOT))
    spline = CubicSpline(knots, np.log(C / (flops_per_token or six_n)(np.exp(knots))))
    return np.array(low), np.array(knots[1] - knots[0]), np.ascontiguousarray(spline.c)


def _best(form: Form, natural: Any, table: Any) -> tuple[Any, Any, Any]:
    """log N*, log D* and L*, as `quantities.frontier` finds them."""
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

    def halve(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        middle = 0.5 * (ends[0] + ends[1])
        rising = slope(still, middle) > 0
        return jnp.where(rising, ends[0], middle), jnp.where(rising, middle, ends[1])

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (first, first + pieces * step))
    found = 0.5 * (low + high)
    bend = jax.jvp(lambda n: slope(still, n), (found,), (jnp.ones_like(found),))[1]
    # One step of Newton's, of which only the slope depends on the parameters: by it log N* has their derivatives.
    n = found - slope(natural, found) / bend
    return n, tokens(n), loss(natural, n)
