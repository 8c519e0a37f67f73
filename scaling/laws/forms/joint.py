"""One law of dense models and mixtures of experts: Ludziejewski et al. 2025, Joint MoE scaling laws (2502.05172).

    L = a·Ê^δ·N^(α + γ ln Ê) + b·Ê^ω·D^(β + ζ ln Ê) + c
    1/Ê = 1/(E − 1 + 1/(1/Es − 1/Em)) + 1/Em                         (as Clark et al.'s)

Columns: N, parameters that a token passes through; D, training tokens; E, experts of a layer, 1 for a dense model.

Parameters: a, b, c, Es, Em positive; exponents real, α and β negative as published. delta and omega take up the units
of N and D. Published: a 35.91, delta −.2285, alpha −.1889, gamma .0098, b 35.98, omega .5529, beta −.1775,
zeta −.0259, c 1.3637, Es 2.07, Em 290.45. They are from secondary sources, which print them as 35.91·Ê^.2285·N^(.1889
− .0098 ln Ê) and 35.98·Ê^−.5529·D^(.1775 + .0259 ln Ê), the bars of fractions lost.
Starts: exponents, Es and Em spread evenly, c at a share of the least loss, a and b by least squares.
"""

from types import ModuleType
from typing import Any

from scaling.laws.forms.feed import SIZES, Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.routed import log_experts
from scaling.laws.forms.starts import separable

_COLUMNS = ("N", "D", "E")
_PARAMETERS = (
    Parameter("a", powers=(Power("N", "alpha", -1.0),)),
    Parameter("delta", "level", powers=(Power("N", "gamma", -1.0),)),
    Parameter("alpha", "real"),
    Parameter("gamma", "real"),
    Parameter("b", powers=(Power("D", "beta", -1.0),)),
    Parameter("omega", "level", powers=(Power("D", "zeta", -1.0),)),
    Parameter("beta", "real"),
    Parameter("zeta", "real"),
    Parameter("c"),
    Parameter("Es"),
    Parameter("Em"),
)


def _value(p: Values, x: Values, xp: ModuleType) -> Any:
    e = log_experts(p, x["E"], xp)
    sizes = p["a"] * xp.exp(p["delta"] * e + (p["alpha"] + p["gamma"] * e) * x["N"])
    tokens = p["b"] * xp.exp(p["omega"] * e + (p["beta"] + p["zeta"] * e) * x["D"])
    return sizes + tokens + p["c"]


ludziejewski = Form(
    name="ludziejewski",
    formula="L = a Ê^delta N^(alpha + gamma ln Ê) + b Ê^omega D^(beta + zeta ln Ê) + c, "
    "1/Ê = 1/(E-1+1/(1/Es-1/Em)) + 1/Em",
    source="Ludziejewski et al. 2025 (2502.05172)",
    columns=_COLUMNS,
    parameters=_PARAMETERS,
    value=_value,
    starts=separable(
        _value,
        _COLUMNS,
        [p.name for p in _PARAMETERS],
        spans={
            "delta": (-0.3, 0.1),
            "omega": (-0.3, 0.1),
            "alpha": (-0.7, -0.05),
            "beta": (-0.7, -0.05),
            "gamma": (-0.02, 0.04),
            "zeta": (-0.04, 0.02),
            "Es": (1.2, 12.0),
            "Em": (30.0, 3e3),
        },
        linear=("a", "b", "c"),
        offset="c",
        # delta and omega as published are −.05 and −.04 in units of .1 billion parameters and 10 billion tokens
        literature=(
            {
                **{"delta": -0.05, "omega": -0.04, "alpha": -0.1889, "beta": -0.1775},
                **{"gamma": 0.0098, "zeta": -0.0259, "Es": 2.07, "Em": 290.45},
            },
        ),
    ),
    unscaled=("E",),
    feeds={"N": Feed("params_active", SIZES, "parameters that a token passes through")},
)
