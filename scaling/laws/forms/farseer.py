"""Li et al. 2025 (2506.10972), eq. 3, Farseer: a law of N and D in which every part of Chinchilla's changes with N.

L = exp(a3·N^γ + b3) + exp(a2·N^β + b2) · D^−exp(a1·N^α + b1) of columns N and D: offset, amplitude and exponent of
the tokens are each the exponential of a power of N plus a constant. All nine parameters are real; the solver seeks
value and slope of each curve at the middle size in place of a and b (`PowerCurve`). a1, a2 and a3 carry N^−α, N^−β
and N^−γ, so that results do not depend on the unit of N. They do depend on that of D: D^−B(N) in another unit is the
same times unit^−B(N), which no exp(a2·N^β + b2) can take up, so D keeps its own (the paper: tokens). Their N leaves
out the embeddings (appendix G).

Starts spread the tokens' exponent, its slope and α; offset and amplitude follow by least squares as parabolas in
log N, and β and γ from how these bend.
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter, Power, PowerCurve
from scaling.laws.forms.starts import spread_starts

_CURVES = ("alpha", "beta", "gamma")


def _value(p: Values, x: Values, xp: ModuleType) -> Any:
    power = {name: xp.exp(p[name] * x["N"]) for name in _CURVES}
    exponent = xp.exp(p["a1"] * power["alpha"] + p["b1"])
    offset = xp.exp(p["a3"] * power["gamma"] + p["b3"])
    return offset + xp.exp(p["a2"] * power["beta"] + p["b2"] - exponent * x["D"])


def _starts(x: Array, y: Array, count: int) -> Array:
    n, middle = x[0], x[1].mean()
    drawn = spread_starts(count, {"exponent": (0.05, 1.0), "slope": (-0.4, 0.2), "alpha": (-0.5, 0.5)})
    powers = np.stack([np.ones_like(n), n, n * n], -1)
    rows = []
    for exponent, slope, alpha in zip(*drawn.values(), strict=True):
        alpha = alpha or 0.05
        decay = exponent * np.exp(slope * np.expm1(alpha * n) / alpha)
        # Offset, and excess at the middle of D: both quadratic in log N, by least squares on relative errors.
        basis = np.concatenate([powers, powers * np.exp(-decay * (x[1] - middle))[:, None]], -1)
        found = np.linalg.lstsq(basis / y[:, None], np.ones_like(y), rcond=None)[0]
        offset = np.maximum(powers @ found[:3], 0.05 * y.min())
        excess = np.maximum(powers @ found[3:], 0.002 * y.min())
        first = [slope / alpha, alpha, np.log(exponent) - slope / alpha]
        rows.append([*first, *_through(n, np.log(excess) + decay * middle), *_through(n, np.log(offset))])
    return np.array(rows)


def _through(n: Array, values: Array) -> tuple[float, float, float]:
    """factor, exponent, level of the curve with the value, slope and bend of a parabola through the points."""
    level, slope, bend = np.polynomial.polynomial.polyfit(n, values, 2)
    slope = np.copysign(max(abs(slope), 1e-3), slope)
    exponent = float(np.clip(2 * bend / slope, -1.0, 1.0)) or 0.05
    return slope / exponent, exponent, level - slope / exponent


def _curve(number: int, exponent: str) -> tuple[Parameter, ...]:
    return (
        Parameter(f"a{number}", "real", powers=(Power("N", exponent, -1.0),)),
        Parameter(exponent, "real"),
        Parameter(f"b{number}", "real"),
    )


farseer = Form(
    name="farseer",
    formula="L = exp(a3·N^γ + b3) + exp(a2·N^β + b2)·D^−exp(a1·N^α + b1)",
    source="Li et al. 2025 (2506.10972), Farseer, eq. 3",
    columns=("N", "D"),
    parameters=(*_curve(1, "alpha"), *_curve(2, "beta"), *_curve(3, "gamma")),
    value=_value,
    starts=_starts,
    unscaled=("D",),
    curves=(PowerCurve("a1", "alpha", "b1"), PowerCurve("a2", "beta", "b2"), PowerCurve("a3", "gamma", "b3")),
)
