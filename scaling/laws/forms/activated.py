"""Mixtures of experts by the share of it that a token uses.

abnar: Abnar et al. 2025, Parameters vs FLOPs (2501.12370). Sparsity S = (E − K)/E.

    L = a/N^α + b/D^β + c/(1 − S)^λ + d/((1 − S)^δ·N^γ) + e

Columns: N, parameters, all of them; D, training tokens; A = 1 − S = K/E, 1 for a dense model (S would be 0 there, and
columns of a table are positive).

ling: Tian et al. 2025, Towards greater leverage (2507.17702). The efficiency leverage EL of a mixture is the compute
of the dense model of the same loss over its own.

    EL = Â^(a + d log10 C + γ (log2 G)² + β log2 G),   1/Â = 1/(A + 1/(1/As − 1/Am)) + 1/Am

Columns: A, share of the experts that a token meets, shared ones among them; C, training FLOPs; G, granularity. The
bases of the logarithms are not printed: with these EL(.031, 1e22, 12) is the paper's "over 7", and the best G is in
its 8 to 12.

hunyuan: Zhao et al. 2025, Towards a comprehensive scaling law of mixture-of-experts (2509.23678).

    L = (e·K + f/K + m·S² + n·S)·(1/N^α + k/Na^α + h·Na/N) + a/N^α + b/D^β + c/Na^α + eps

Columns: N, parameters, all of them; Na, those that a token uses; D, training tokens; K, experts that a token meets,
shared ones among them; R = 1 − S, the share of these K that is routed (S, the share of shared ones, may be 0). Dense
models are not of this law. The best K is √(f/e), the best S −n/2m, at any size.

Parameters: amplitudes, As and Am positive; exponents, and n, real.
Starts: exponents spread evenly, amplitudes by least squares.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import nan
from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.feed import EXPERTS, FEEDS, LEVERAGE, SIZES, Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import separable
from scaling.laws.forms.variable_projection import Array, Numbers, least_squares, logarithm, variable_projection

_LN2, _LN10 = float(np.log(2.0)), float(np.log(10.0))
_MET = (*EXPERTS, "*.top_k", "*.shared")


def _abnar_value(p: Values, x: Values, xp: ModuleType) -> Any:
    sizes = p["a"] * xp.exp(-p["alpha"] * x["N"]) + p["b"] * xp.exp(-p["beta"] * x["D"])
    shared = p["c"] * xp.exp(-p["lambda"] * x["A"])
    return sizes + shared + p["d"] * xp.exp(-p["delta"] * x["A"] - p["gamma"] * x["N"]) + p["e"]


_ABNAR = (
    Parameter("a", powers=(Power("N", "alpha"),)),
    Parameter("b", powers=(Power("D", "beta"),)),
    Parameter("c", powers=(Power("A", "lambda"),)),
    Parameter("d", powers=(Power("A", "delta"), Power("N", "gamma"))),
    Parameter("e"),
    *(Parameter(name, "real") for name in ("alpha", "beta", "lambda", "delta", "gamma")),
)
abnar = Form(
    name="abnar",
    formula="L = a/N^alpha + b/D^beta + c/A^lambda + d/(A^delta N^gamma) + e, A = 1 - S = K/E",
    source="Abnar et al. 2025 (2501.12370)",
    columns=("N", "D", "A"),
    parameters=_ABNAR,
    value=_abnar_value,
    starts=separable(
        _abnar_value,
        ("N", "D", "A"),
        [p.name for p in _ABNAR],
        spans={
            **{"alpha": (0.1, 1.0), "beta": (0.1, 1.0), "gamma": (0.05, 0.6)},
            **{"lambda": (-0.6, -0.05), "delta": (0.0, 0.6)},
        },
        linear=("a", "b", "c", "d", "e"),
        offset="e",
        literature=({"alpha": 0.5962, "beta": 0.3954, "lambda": -0.1666, "delta": 0.1603, "gamma": 0.1595},),
    ),
)


def _log_share(p: Values, log_A: Any, xp: ModuleType) -> Any:
    start = 1.0 / (1.0 / p["As"] - 1.0 / p["Am"])
    return -xp.log(1.0 / (xp.exp(log_A) + start) + 1.0 / p["Am"])


def _ling_value(p: Values, x: Values, xp: ModuleType) -> Any:
    g = x["G"] / _LN2
    power = p["a"] + p["d"] * x["C"] / _LN10 + p["gamma"] * g**2 + p["beta"] * g
    return xp.exp(power * _log_share(p, x["A"], xp))


def _ling_solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
    share, g = np.asarray(_log_share(own, x["A"], np)), x["G"] / _LN2
    terms = [share, share * x["C"] / _LN10, share * g**2, share * g]
    found = least_squares(terms, logarithm(y), weights)
    return dict(zip(("a", "d", "gamma", "beta"), found, strict=True))


_LING = (
    Parameter("a", "level", powers=(Power("C", "d", -1 / _LN10),)),
    Parameter("d", "real"),
    Parameter("gamma", "real"),
    Parameter("beta", "real"),
    Parameter("As"),
    Parameter("Am"),
)
ling = Form(
    name="ling",
    formula="EL = Â^(a + d log10 C + gamma (log2 G)^2 + beta log2 G), 1/Â = 1/(A+1/(1/As-1/Am)) + 1/Am",
    source="Tian et al. 2025 (2507.17702)",
    columns=("A", "C", "G"),
    parameters=_LING,
    value=_ling_value,
    starts=variable_projection(
        ("A", "C", "G"),
        [p.name for p in _LING],
        {"As": (1e-3, 0.3), "Am": (1.0, 1e6)},
        _ling_solve,
        ({"As": 0.0163, "Am": 5.28e16},),
    ),
    unscaled=("A", "G"),
    feeds={
        "A": Feed(
            "(top_k + shared) / (experts + shared)",
            _MET,
            "share of the experts that a token meets",
            dense=nan,
            most=1.0,
        ),
        "G": replace(FEEDS["G"], same=()),
    },
    predicts=LEVERAGE,
)


def _hunyuan_value(p: Values, x: Values, xp: ModuleType) -> Any:
    S, size = -xp.expm1(x["R"]), xp.exp(-p["alpha"] * x["N"])
    active = xp.exp(-p["alpha"] * x["Na"])
    shape = p["e"] * xp.exp(x["K"]) + p["f"] * xp.exp(-x["K"]) + p["m"] * S**2 + p["n"] * S
    both = size + p["k"] * active + p["h"] * xp.exp(x["Na"] - x["N"])
    return shape * both + p["a"] * size + p["b"] * xp.exp(-p["beta"] * x["D"]) + p["c"] * active + p["eps"]


def _shape(name: str, kind: Any = "positive") -> Parameter:
    return Parameter(name, kind, powers=(Power("N", "alpha"),))


_HUNYUAN = (
    *(_shape(name) for name in ("e", "f", "m")),
    _shape("n", "real"),
    Parameter("k", powers=(Power("Na", "alpha"), Power("N", "alpha", -1.0))),
    Parameter("h", powers=(Power("N"), Power("Na", None, -1.0), Power("N", "alpha", -1.0))),
    Parameter("a", powers=(Power("N", "alpha"),)),
    Parameter("alpha", "real"),
    Parameter("b", powers=(Power("D", "beta"),)),
    Parameter("beta", "real"),
    Parameter("c", powers=(Power("Na", "alpha"),)),
    Parameter("eps"),
)
_HUNYUAN_COLUMNS = ("N", "Na", "D", "K", "R")


def _hunyuan_linear(p: Values, x: Values, xp: ModuleType) -> Any:
    """The law with the best S, −n/2m, under the name of n: a sum of positive amplitudes, as `separable` needs."""
    return _hunyuan_value({**p, "n": -2.0 * p["m"] * p["n"]}, x, xp)


_hunyuan_draw = separable(
    _hunyuan_linear,
    _HUNYUAN_COLUMNS,
    [p.name for p in _HUNYUAN],
    spans={"alpha": (0.1, 0.8), "beta": (0.1, 0.8), "k": (1e-3, 1.0), "h": (1e-2, 1.0), "n": (0.05, 0.6)},
    linear=("e", "f", "m", "a", "b", "c", "eps"),
    offset="eps",
)


def _hunyuan_starts(x: Array, y: Array, count: int) -> Array:
    drawn = _hunyuan_draw(x, y, count)
    m, n = ([p.name for p in _HUNYUAN].index(name) for name in "mn")
    drawn[:, n] *= -2.0 * drawn[:, m]
    return drawn


hunyuan = Form(
    name="hunyuan",
    formula="L = (e K + f/K + m S^2 + n S)(1/N^alpha + k/Na^alpha + h Na/N) + a/N^alpha + b/D^beta + c/Na^alpha "
    "+ eps, S = 1 - R",
    source="Zhao et al. 2025 (2509.23678)",
    columns=_HUNYUAN_COLUMNS,
    parameters=_HUNYUAN,
    value=_hunyuan_value,
    starts=_hunyuan_starts,
    unscaled=("K", "R"),
    feeds={
        "Na": Feed("params_active", SIZES, "parameters that a token uses"),
        "K": Feed("top_k + shared", _MET, "experts that a token meets, shared ones among them", dense=nan, least=1.0),
        "R": Feed("top_k / (top_k + shared)", _MET, "share of these experts that is routed", dense=nan, most=1.0),
    },
)
