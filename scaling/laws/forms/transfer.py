"""Transfer: Hernandez et al. 2021, Scaling laws for transfer (2102.01293), eq. 1.2.

    D_T = k · DF^α · N^β

What it predicts is the effective data transferred D_T: how much more data of the fine-tuning distribution a model
trained from scratch would need to reach the loss of the one that was pre-trained. Name its column with
Runs(…, loss=…).

Columns: DF, fine-tuning data, in the unit of D_T (characters, as published, or tokens); N, parameters without
embeddings. Parameters: k positive, alpha and beta real. Starts: least squares on log D_T.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.feed import SIZES, Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.variable_projection import Array, Numbers, least_squares, logarithm, variable_projection


def _value(p: Values, x: Values, xp: ModuleType) -> Any:
    return p["k"] * xp.exp(p["alpha"] * x["DF"] + p["beta"] * x["N"])


def _solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
    level, alpha, beta = least_squares([1.0, x["DF"], x["N"]], logarithm(y), weights)
    return {"k": float(np.exp(level)), "alpha": alpha, "beta": beta}


hernandez = Form(
    name="hernandez",
    formula="D_T = k DF^alpha N^beta",
    source="Hernandez et al. 2021 (2102.01293), eq. 1.2",
    columns=("DF", "N"),
    parameters=(
        Parameter("k", powers=(Power("DF", "alpha", -1.0), Power("N", "beta", -1.0))),
        Parameter("alpha", "real"),
        Parameter("beta", "real"),
    ),
    value=_value,
    feeds={
        "N": Feed("params_non_embedding", SIZES, "parameters without embeddings"),
        "DF": Feed("finetuning_tokens", (), "tokens of the fine-tuning distribution"),
    },
    predicts=Feed("tokens_transferred", (), "effective data transferred, in tokens"),
    starts=variable_projection(("DF", "N"), ("k", "alpha", "beta"), {}, _solve),
)
