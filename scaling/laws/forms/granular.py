"""Fine-grained mixtures of experts: Krajewski et al. 2024 (2402.07871).

    L = c + (g/G^γ + a)/N^α + b/D^β

Columns: N, total parameters without embeddings at an expansion of 64 experts (as published; any count that all runs
share); D, training tokens; G, granularity, how many times smaller than the dense layer's one expert's hidden size is.

`krajewski` leaves the dense models of a sweep out. `krajewski_dense` has them beside the mixtures, by a law of their
own with the same c: L = c + a0/N^alpha0 + b0/D^beta0 where X, the number of experts, is 1 (as published: 16.3, .126,
26.7, .127, and c .47 for both).

Parameters: c, g, a, b positive; alpha, beta, gamma real. g carries units of N and G, a of N, b of D.
Starts: exponents spread evenly, c at a share of the least loss, g, a and b by least squares.
"""

from dataclasses import replace
from types import ModuleType
from typing import Any

from scaling.laws.forms.feed import FEEDS, SIZES, Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import separable

_COLUMNS = ("N", "D", "G")
_SIZE = Feed("params_non_embedding", SIZES, "parameters without embeddings")
_PARAMETERS = (
    Parameter("c"),
    Parameter("g", powers=(Power("N", "alpha"), Power("G", "gamma"))),
    Parameter("a", powers=(Power("N", "alpha"),)),
    Parameter("b", powers=(Power("D", "beta"),)),
    Parameter("alpha", "real"),
    Parameter("beta", "real"),
    Parameter("gamma", "real"),
)


def _value(p: Values, x: Values, xp: ModuleType) -> Any:
    width = p["g"] * xp.exp(-p["gamma"] * x["G"]) + p["a"]
    return p["c"] + width * xp.exp(-p["alpha"] * x["N"]) + p["b"] * xp.exp(-p["beta"] * x["D"])


krajewski = Form(
    name="krajewski",
    formula="L = c + (g/G^gamma + a)/N^alpha + b/D^beta",
    source="Krajewski et al. 2024 (2402.07871)",
    columns=_COLUMNS,
    parameters=_PARAMETERS,
    value=_value,
    starts=separable(
        _value,
        _COLUMNS,
        [p.name for p in _PARAMETERS],
        spans={"alpha": (0.05, 1.0), "beta": (0.05, 1.0), "gamma": (0.1, 2.0)},
        linear=("c", "g", "a", "b"),
        offset="c",
        literature=({"alpha": 0.115, "beta": 0.147, "gamma": 0.58},),  # table 1
    ),
    feeds={"N": _SIZE},
)

_DENSE = (
    *_PARAMETERS,
    Parameter("a0", powers=(Power("N", "alpha0"),)),
    Parameter("alpha0", "real"),
    Parameter("b0", powers=(Power("D", "beta0"),)),
    Parameter("beta0", "real"),
)


def _value_with_dense(p: Values, x: Values, xp: ModuleType) -> Any:
    dense = p["c"] + p["a0"] * xp.exp(-p["alpha0"] * x["N"]) + p["b0"] * xp.exp(-p["beta0"] * x["D"])
    return xp.where(x["X"] > 0.0, _value(p, x, xp), dense)


krajewski_dense = Form(
    name="krajewski_dense",
    formula="L = c + (g/G^gamma + a)/N^alpha + b/D^beta, c + a0/N^alpha0 + b0/D^beta0 of dense models (X = 1)",
    source="Krajewski et al. 2024 (2402.07871), with the law of its dense models",
    columns=(*_COLUMNS, "X"),
    parameters=_DENSE,
    value=_value_with_dense,
    starts=separable(
        _value_with_dense,
        (*_COLUMNS, "X"),
        [p.name for p in _DENSE],
        spans={name: (0.05, 1.0) for name in ("alpha", "beta", "alpha0", "beta0")} | {"gamma": (0.1, 2.0)},
        linear=("c", "g", "a", "b", "a0", "b0"),
        offset="c",
        literature=({"alpha": 0.115, "beta": 0.147, "gamma": 0.58, "alpha0": 0.126, "beta0": 0.127},),
    ),
    unscaled=("X",),
    feeds={
        "N": _SIZE,
        "G": replace(FEEDS["G"], dense=1.0),
        "X": replace(FEEDS["E"], about="experts of a layer, 1 of a dense model"),
    },
)
