"""Fine-grained mixtures of experts: Krajewski et al. 2024 (2402.07871).

    L = c + (g/G^γ + a)/N^α + b/D^β

Columns: N, total parameters without embeddings at an expansion of 64 experts (as published; any count that all runs
share); D, training tokens; G, granularity, how many times smaller than the dense layer's one expert's hidden size is.

Parameters: c, g, a, b positive; alpha, beta, gamma real. g carries units of N and G, a of N, b of D.
Starts: exponents spread evenly, c at a share of the least loss, g, a and b by least squares.
"""

from types import ModuleType
from typing import Any

from scaling.laws.forms.feed import SIZES, Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import separable

_COLUMNS = ("N", "D", "G")
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
    feeds={"N": Feed("params_non_embedding", SIZES, "parameters without embeddings")},
)
