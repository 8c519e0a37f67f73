"""Reward over-optimisation: Gao et al. 2022 (2210.10760), section 3.1.

    R = d·(α − β·d)          best of n     (gao_bon)
    R = d·(α − β·log d)      RL            (gao_rl)

Column: d = √KL, the square root of the divergence, in nats, between the optimised policy and the one it began from;
best of n has KL = log n − (n − 1)/n. The row before any optimisation, d = 0, is R = 0 by definition and is left out.
R, the gold reward less its value at d = 0, may be zero or negative: Runs(…, signed=True) and residual="raw".

Parameters: alpha and beta real; d keeps its unit. Starts: least squares, in which both laws are linear.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.feed import Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter
from scaling.laws.forms.variable_projection import Array, Numbers, least_squares, variable_projection


def _gao(name: str, formula: str, bend: Callable[[Any, ModuleType], Any]) -> Form:
    """bend: log d -> what β is the factor of, per d."""

    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        return xp.exp(x["d"]) * (p["alpha"] - p["beta"] * bend(x["d"], xp))

    def solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
        d = np.exp(x["d"])
        alpha, beta = least_squares([d, -d * bend(x["d"], np)], y, weights)
        return {"alpha": alpha, "beta": beta}

    return Form(
        name=name,
        formula=formula,
        source="Gao et al. 2022 (2210.10760), section 3.1",
        columns=("d",),
        parameters=(Parameter("alpha", "real"), Parameter("beta", "real")),
        value=value,
        starts=variable_projection(("d",), ("alpha", "beta"), {}, solve),
        unscaled=("d",),
        feeds={"d": Feed("kl_sqrt", (), "√KL from the first policy, in √nats")},
        signed=True,
    )


gao_bon = _gao("gao_bon", "R = d (alpha - beta d)", lambda log_d, xp: xp.exp(log_d))
gao_rl = _gao("gao_rl", "R = d (alpha - beta log d)", lambda log_d, xp: log_d)
