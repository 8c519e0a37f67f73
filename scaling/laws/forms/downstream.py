"""Accuracy on a task in two steps: Llama 3 (2407.21783), section 3.2.1, figure 4.

    NLL = a + b·log10 C                                     (nll_of_flops, step 1)
    accuracy = low + (high − low)/(1 + exp(k·(NLL − mid)))  (accuracy_of_nll, step 2)

NLL is the negative log-likelihood of the correct answer, normalised by its length (per character). The source
calls step 1 a linear correlation with the (log) training FLOPs and step 2 a sigmoid and prints no coefficients; where
step 1 bends, `power_law_C` is the other choice. Step 2 may be fitted to more models than step 1, older ones included.

Columns: C, training FLOPs; NLL. Accuracy is a share between 0 and 1, best compared by residual="raw".

Parameters: a level, b real; low and high are shares of 1, mid and k positive, in units of NLL. Chance on a task of
four choices is fixed={"low": 0.25}. Starts: step 1 by least squares; in step 2 mid over the range of NLL and half as
far beyond it on both sides, k from a slope over ten such ranges to one over a tenth, low and high by least squares.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.projected import Array, Numbers, least_squares, projected
from scaling.laws.forms.routed import LN10
from scaling.laws.forms.starts import draw

_SOURCE = "Llama 3 (2407.21783), section 3.2.1"


def _nll(p: Values, x: Values, xp: ModuleType) -> Any:
    return p["a"] + p["b"] * x["C"] / LN10


def _nll_solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
    return dict(zip("ab", least_squares([1.0, x["C"] / LN10], y, weights), strict=True))


def _accuracy(p: Values, x: Values, xp: ModuleType) -> Any:
    share = 0.5 - 0.5 * xp.tanh(0.5 * p["k"] * (xp.exp(x["NLL"]) - p["mid"]))
    return p["low"] + (p["high"] - p["low"]) * share


def _accuracy_starts(x: Array, y: Array, count: int) -> Array:
    nll = np.exp(x[0])
    width = max(float(np.ptp(nll)), 1e-6)
    middle = (max(nll.min() - 0.5 * width, 0.01 * nll.min()), nll.max() + 0.5 * width)
    drawn = draw(count, {"mid": middle, "k": (0.5 / width, 50.0 / width)})
    rows = []
    for mid, k in zip(drawn["mid"], drawn["k"], strict=True):
        share = np.asarray(_accuracy({"low": 0.0, "high": 1.0, "mid": mid, "k": k}, {"NLL": x[0]}, np))
        low, gain = least_squares([1.0, share], y, np.ones_like(y))
        low = float(np.clip(low, 0.01, 0.9))
        rows.append([low, float(np.clip(low + gain, low + 0.05, 0.99)), mid, k])
    return np.array(rows)


nll_of_flops = Form(
    name="nll_of_flops",
    formula="NLL = a + b log10 C",
    source=f"{_SOURCE}, step 1",
    columns=("C",),
    parameters=(Parameter("a", "level", powers=(Power("C", "b", -1 / LN10),)), Parameter("b", "real")),
    value=_nll,
    starts=projected(("C",), ("a", "b"), {}, _nll_solve),
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
    starts=_accuracy_starts,
)
