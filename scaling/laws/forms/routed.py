"""Routed mixtures of experts: Clark et al. 2022, Unified scaling laws for routed language models (2202.01169).

    log10 L = a·n + b·e + c·n·e + d,   n = log10 N,   e = log10 Ê
    1/Ê = 1/(E − 1 + 1/(1/Es − 1/Em)) + 1/Em                          (clark, eq. 1)
    Ê = E                                                             (clark_bilinear, eq. 1 unsaturated)

Columns: N, parameters of the dense model that is routed (those that one token passes through at one expert a layer);
E, number of experts, 1 for a dense model. Ê rises from Es at E = 1 and ends at Em.

Parameters: a, c real; b, d levels, which take up the unit of N; Es, Em positive. E is a count and keeps its unit.
Starts: Es and Em spread evenly in the logarithm, a, b, c, d by least squares on log10 L.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.forms.feed import SIZES, Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.variable_projection import Array, Numbers, least_squares, logarithm, variable_projection

LN10 = float(np.log(10.0))
_PLANE = (
    Parameter("a", "real"),
    Parameter("b", "level", powers=(Power("N", "c", -1 / LN10),)),
    Parameter("c", "real"),
    Parameter("d", "level", powers=(Power("N", "a", -1 / LN10),)),
)
# Es, Em of S-Base, RL-R and Hash: table 3
_SATURATION = ({"Es": 1.847, "Em": 314.478}, {"Es": 1.88, "Em": 469.982}, {"Es": 4.175, "Em": 477.741})


def dense_equivalent(params: Mapping[str, float], N: ArrayLike, E: ArrayLike) -> NDArray[np.float64]:
    """N̄, the size of the dense model (E = 1) with the same loss as N parameters with E experts.

    Clark et al.'s effective parameter count, in closed form: at n̄ = log10 N̄ and ē = log10 Ê of a dense model,
    a·n̄ + b·ē + c·n̄·ē = a·n + b·e + c·n·e.

    params: of a fit of `clark` or `clark_bilinear`, in its units of N.
    Raises UserError where they are another law's.
    """
    missing = [name for name in ("a", "b", "c", "d") if name not in params]
    if missing:
        raise UserError(f"dense_equivalent needs the parameters of clark or clark_bilinear; no {', '.join(missing)}")
    values = {name: np.float64(value) for name, value in params.items()}
    n, e = np.log10(np.asarray(N, np.float64)), log_experts(values, np.log(np.asarray(E, np.float64)), np) / LN10
    dense = log_experts(values, np.zeros(()), np) / LN10
    a, b, c = values["a"], values["b"], values["c"]
    return np.asarray(10.0 ** ((a * n + b * (e - dense) + c * n * e) / (a + c * dense)))


def log_experts(p: Values, e: Any, xp: ModuleType) -> Any:
    """log Ê at e = log E; p without Es and Em: log E itself."""
    if "Es" not in p:
        return e
    start = 1.0 / (1.0 / p["Es"] - 1.0 / p["Em"])
    return -xp.log(1.0 / (xp.expm1(e) + start) + 1.0 / p["Em"])


def _value(p: Values, x: Values, xp: ModuleType) -> Any:
    n, e = x["N"] / LN10, log_experts(p, x["E"], xp) / LN10
    return xp.exp(LN10 * (p["a"] * n + p["b"] * e + p["c"] * n * e + p["d"]))


def _solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
    n, e = x["N"] / LN10, np.asarray(log_experts(own, x["E"], np)) / LN10
    found = least_squares([n, e, n * e, 1.0], logarithm(y) / LN10, weights)
    return dict(zip("abcd", found, strict=True))


def _routed(name: str, formula: str, equation: str, saturating: bool) -> Form:
    parameters = (*_PLANE, *((Parameter("Es"), Parameter("Em")) if saturating else ()))
    return Form(
        name=name,
        formula=formula,
        source=f"Clark et al. 2022 (2202.01169), {equation}",
        columns=("N", "E"),
        parameters=parameters,
        value=_value,
        starts=variable_projection(
            ("N", "E"),
            [p.name for p in parameters],
            {"Es": (0.5, 12.0), "Em": (30.0, 3e4)} if saturating else {},
            _solve,
            _SATURATION if saturating else (),
        ),
        unscaled=("E",),
        feeds={"N": Feed("params_active", SIZES, "parameters that a token passes through, one expert a layer")},
    )


clark = _routed(
    "clark",
    "log10 L = a log10 N + b log10 Ê + c log10 N log10 Ê + d, 1/Ê = 1/(E-1+1/(1/Es-1/Em)) + 1/Em",
    "eq. 1",
    saturating=True,
)
clark_bilinear = _routed(
    "clark_bilinear",
    "log10 L = a log10 N + b log10 E + c log10 N log10 E + d",
    "eq. 1 without saturation",
    saturating=False,
)
