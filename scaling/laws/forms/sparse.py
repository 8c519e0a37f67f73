"""Sparse weights: Frantar et al. 2023, Scaling laws for sparsely-connected foundation models (2309.08520), eq. 1.

    L = (aS·(1 − S)^bS + cS)·N^−bN + (aD/D)^bD + c

Columns: R = 1 − S, the share of weights that is not zero, 1 for a dense model (S itself would be 0 there, and columns
of a table are positive); N, parameters that are not zero; D, training data (tokens or examples).

Parameters: aS, cS, aD, c positive; bS, bN, bD real. aS carries units of N and R, cS of N, aD is in units of D.
Starts: exponents spread evenly, c at a share of the least loss, aS, cS and aD by least squares.
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.feed import SIZES, Feed
from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import separable

_COLUMNS = ("N", "D", "R")
_PARAMETERS = (
    Parameter("aS", powers=(Power("N", "bN"), Power("R", "bS", -1.0))),
    Parameter("bS", "real"),
    Parameter("cS", powers=(Power("N", "bN"),)),
    Parameter("bN", "real"),
    Parameter("aD", powers=(Power("D"),)),
    Parameter("bD", "real"),
    Parameter("c"),
)
_NAMES = [p.name for p in _PARAMETERS]


def _value(p: Values, x: Values, xp: ModuleType) -> Any:
    width = p["aS"] * xp.exp(p["bS"] * x["R"]) + p["cS"]
    return width * xp.exp(-p["bN"] * x["N"]) + xp.exp(p["bD"] * (xp.log(p["aD"]) - x["D"])) + p["c"]


def _linear(p: Values, x: Values, xp: ModuleType) -> Any:
    """The law with aD^bD under the name of aD: linear in it, as `separable` needs."""
    width = p["aS"] * xp.exp(p["bS"] * x["R"]) + p["cS"]
    return width * xp.exp(-p["bN"] * x["N"]) + p["aD"] * xp.exp(-p["bD"] * x["D"]) + p["c"]


_draw = separable(
    _linear,
    _COLUMNS,
    _NAMES,
    spans={"bS": (0.2, 3.0), "bN": (0.05, 1.0), "bD": (0.05, 1.0)},
    linear=("aS", "cS", "aD", "c"),
    offset="c",
    literature=({"bS": 0.722, "bN": 0.245, "bD": 0.203},),  # T5 on C4
)


def _starts(x: Array, y: Array, count: int) -> Array:
    drawn = _draw(x, y, count)
    where, exponent = _NAMES.index("aD"), drawn[:, _NAMES.index("bD")]
    drawn[:, where] = np.exp(np.log(drawn[:, where]) / exponent)
    return drawn


frantar = Form(
    name="frantar",
    formula="L = (aS R^bS + cS) N^-bN + (aD/D)^bD + c, R = 1 - S",
    source="Frantar et al. 2023 (2309.08520), eq. 1",
    columns=_COLUMNS,
    parameters=_PARAMETERS,
    value=_value,
    starts=_starts,
    feeds={
        "N": Feed("params_active", SIZES, "parameters that are not zero"),
        "R": Feed("density", ("*.density",), "share of the weights that is not zero", choice=True, most=1.0),
    },
)
