"""Quantising after training: Kumar et al. 2024, Scaling laws for precision (2411.04330), sections 3 and 5.

Rounding the weights to Ppost bits adds δ to the loss:

    δ = CT · D^γD / N^γN · exp(−Ppost/γpost)                                             (kumar_ptq, eq. 2)
    δ = CT · D^γD / Neff^γN · exp(−Ppost/γpost) · Π over x = w, a, kv of (1 − exp(−Cx·(Px − Ppost)))
                                                                                         (kumar_ptq_trained, eq. 9)
eq. 2 of models trained in high precision (16 bits or more), eq. 9 of models whose weights, activations and key-value
cache were in Pw, Pa and Pkv bits, with Neff of `kumar`: a model that has met the noise of rounding in training loses
less. No bits lost, Px ≤ Ppost, no loss: δ is then 0, which only raw or log1p residuals can take.

Columns: N, parameters; D, training tokens; Pw, Pa, Pkv and Ppost in bits. What is predicted is the rise δ, not the
loss itself: name its column with Runs(…, loss=…).

Parameters: CT, all C (per bit) and γ (bits) of bits positive, γD and γN real. Bits keep their unit. The γ of Neff are
known better from losses before quantising: pass those of a fit of `kumar` as fixed=…. Starts: γ and C spread, the
others by least squares on log δ.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.precision import BITS, GAMMA, PUBLISHED, SOURCE, log_share
from scaling.laws.forms.variable_projection import Array, Numbers, least_squares, logarithm, variable_projection

_TRAINED = {"Pw": ("gamma_w", "Cw"), "Pa": ("gamma_a", "Ca"), "Pkv": ("gamma_kv", "Ckv")}
_MAIN = ("CT", "gamma_D", "gamma_N", "gamma_post")
_RATE = (0.1, 5.0)
"""per bit, where C starts"""


def _form(name: str, formula: str, equation: int, bits: tuple[str, ...]) -> Form:
    gammas, rates = [_TRAINED[column][0] for column in bits], [_TRAINED[column][1] for column in bits]
    names = (*_MAIN, *gammas, *rates)

    def met(p: Values, x: Values, xp: ModuleType) -> Any:
        """What is left of δ where rounding was met in training."""
        total: Any = 1.0
        for column, rate in zip(bits, rates, strict=True):
            lost = xp.maximum(xp.exp(x[column]) - xp.exp(x["Ppost"]), 0.0)
            total = total * -xp.expm1(-p[rate] * lost)
        return total

    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        size = x["N"] + log_share(p, x, bits, xp)
        exponent = p["gamma_D"] * x["D"] - p["gamma_N"] * size - xp.exp(x["Ppost"]) / p["gamma_post"]
        return p["CT"] * xp.exp(exponent) * met(p, x, xp)

    def solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
        size = x["N"] + log_share(own, x, bits, np)
        terms: list[Array | float] = [1.0, x["D"], -size, -np.exp(x["Ppost"])]
        level, data, power, rate = least_squares(terms, logarithm(y) - logarithm(met(own, x, np)), weights)
        # A rate that is not positive says that bits do not help; the search begins where they help very little.
        return {"CT": float(np.exp(level)), "gamma_D": data, "gamma_N": power, "gamma_post": 1.0 / max(rate, 1e-3)}

    return Form(
        name=name,
        formula=formula,
        source=f"{SOURCE}, eq. {equation}",
        columns=("N", "D", *bits, "Ppost"),
        parameters=(
            Parameter("CT", powers=(Power("N", "gamma_N"), Power("D", "gamma_D", -1.0))),
            Parameter("gamma_D", "real"),
            Parameter("gamma_N", "real"),
            *(Parameter(own) for own in ("gamma_post", *gammas, *rates)),
        ),
        value=value,
        starts=variable_projection(
            ("N", "D", *bits, "Ppost"),
            names,
            dict.fromkeys(gammas, GAMMA) | dict.fromkeys(rates, _RATE),
            solve,
            # C = 1: where eq. 10 of the paper shows what the factor means
            [{gamma: PUBLISHED[gamma] for gamma in gammas} | dict.fromkeys(rates, 1.0)],
        ),
        unscaled=(*bits, "Ppost"),
        feeds=BITS,
    )


kumar_ptq = _form("kumar_ptq", "delta = CT D^gamma_D / N^gamma_N exp(-Ppost/gamma_post)", 2, ())
kumar_ptq_trained = _form(
    "kumar_ptq_trained",
    "delta = CT D^gamma_D / Neff^gamma_N exp(-Ppost/gamma_post) prod (1 - exp(-Cx (Px - Ppost))), Neff of kumar",
    9,
    ("Pw", "Pa", "Pkv"),
)
