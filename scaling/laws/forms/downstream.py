"""Accuracy on a task in two steps: Llama 3 (2407.21783), section 3.2.1.

    NLL = a + b·log10 C                                     (nll_of_flops, step 1)
    accuracy = low + (high − low)/(1 + exp(k·(NLL − mid)))  (accuracy_of_nll, step 2)

NLL is the negative log-likelihood of the correct answer, normalised by its length (per character). The source
calls step 1 a linear correlation with the (log) training FLOPs and step 2 a sigmoid and prints no coefficients; where
step 1 bends, `power_law_C` is the other choice. Step 2 may be fitted to more models than step 1, older ones included.

The same sigmoid of a loss L gives the share of wrong answers, which rises with it:

    error = low + (high − low)/(1 + exp(−k·(L − mid)))      (error_of_loss)

Unlike Gadre et al.'s exponential (`gadre_downstream`) it flattens at both ends, at chance and at what stays wrong.

Columns: C, training FLOPs; NLL. Accuracy is a share between 0 and 1, best compared by residual="raw".

Parameters: a level, b real; low and high are shares of 1, mid and k positive, in units of NLL. Chance on a task of
four choices is fixed={"low": 0.25}, of an error fixed={"high": 0.75}. Starts: step 1 by least squares; in step 2 low
from 0 to the least accuracy, high from the greatest to 1, mid and k by least squares on the logit.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.feed import LOSS, Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.routed import LN10
from scaling.laws.forms.variable_projection import Array, Numbers, least_squares, variable_projection

_SOURCE = "Llama 3 (2407.21783), section 3.2.1"


def _nll(p: Values, x: Values, xp: ModuleType) -> Any:
    return p["a"] + p["b"] * x["C"] / LN10


def _nll_solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
    return dict(zip("ab", least_squares([1.0, x["C"] / LN10], y, weights), strict=True))


def _accuracy(p: Values, x: Values, xp: ModuleType) -> Any:
    share = 0.5 - 0.5 * xp.tanh(0.5 * p["k"] * (xp.exp(x["NLL"]) - p["mid"]))
    return p["low"] + (p["high"] - p["low"]) * share


def _accuracy_solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
    """own: low as a share of the least accuracy, high as one of the way from the greatest to 1."""
    top = min(float(y.max()), 0.999)
    low, high = max(own["low"] * float(y.min()), 1e-3), top + own["high"] * (1.0 - top)
    share = np.clip((y - low) / (high - low), 0.01, 0.99)
    # Where the curve is flat its logit is mostly noise: p(1 − p) is how much the accuracy says about it.
    nll, logit = np.exp(x["NLL"]), np.log(share / (1.0 - share))
    level, k = least_squares([1.0, -nll], logit, weights * (share * (1.0 - share)) ** 2)
    k = max(k, 0.1 / max(float(np.ptp(nll)), 1e-6))
    return {"low": low, "high": high, "mid": max(level / k, 1e-3), "k": k}


def _error(p: Values, x: Values, xp: ModuleType) -> Any:
    share = 0.5 + 0.5 * xp.tanh(0.5 * p["k"] * (xp.exp(x["L"]) - p["mid"]))
    return p["low"] + (p["high"] - p["low"]) * share


def _error_solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
    right = _accuracy_solve(own, {"NLL": x["L"]}, 1.0 - y, weights)
    return right | {"low": 1.0 - right["high"], "high": 1.0 - right["low"]}


nll_of_flops = Form(
    name="nll_of_flops",
    formula="NLL = a + b log10 C",
    source=f"{_SOURCE}, step 1",
    columns=("C",),
    parameters=(Parameter("a", "level", powers=(Power("C", "b", -1 / LN10),)), Parameter("b", "real")),
    value=_nll,
    starts=variable_projection(("C",), ("a", "b"), {}, _nll_solve),
)
accuracy_of_nll = Form(
    name="accuracy_of_nll",
    formula="accuracy = low + (high - low)/(1 + exp(k (NLL - mid)))",
    source=f"{_SOURCE}, step 2",
    columns=("NLL",),
    parameters=(
        Parameter("low", "share"),
        Parameter("high", "share"),
        Parameter("mid", powers=(Power("NLL"),)),
        Parameter("k", powers=(Power("NLL", None, -1.0),)),
    ),
    value=_accuracy,
    starts=variable_projection(
        ("NLL",), ("low", "high", "mid", "k"), {"low": (0.0, 1.0), "high": (0.0, 1.0)}, _accuracy_solve
    ),
    feeds={"NLL": Feed("nll", (), "negative log-likelihood of the correct answer")},
    predicts=Feed("accuracy", (), "share of correct answers"),
)
error_of_loss = Form(
    name="error_of_loss",
    formula="error = low + (high - low)/(1 + exp(-k (L - mid)))",
    source=f"{_SOURCE}, step 2, of wrong answers and a loss",
    columns=("L",),
    parameters=(
        Parameter("low", "share"),
        Parameter("high", "share"),
        Parameter("mid", powers=(Power("L"),)),
        Parameter("k", powers=(Power("L", None, -1.0),)),
    ),
    value=_error,
    starts=variable_projection(
        ("L",), ("low", "high", "mid", "k"), {"low": (0.0, 1.0), "high": (0.0, 1.0)}, _error_solve
    ),
    feeds={"L": LOSS},
    predicts=Feed("downstream_error", (), "error on the tasks"),
)
