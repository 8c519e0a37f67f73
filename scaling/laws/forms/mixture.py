"""The loss on a domain by the mixture trained on: Ye et al. 2024 (2403.16952), data mixing laws.

    L = c + exp(Σ_j t_j·r_j)

r_j are the proportions of the training domains, which sum to 1. The paper writes c + k·exp(Σ t_j·r_j) (the equation
is from secondary sources); as the r_j sum to 1, k and a common part of all t_j are one and the same, and it is in the
t_j here. A negative difference t_j − t_i says that domain j helps more than i does.

Columns x1, x2, … are exp(r_j): a proportion may be 0, and a column that the solver sees in its logarithm may not.
c is positive, t_j real. Starts: c as a share of the least loss, t_j by least squares on log(L − c).
"""

from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.feed import Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter
from scaling.laws.forms.variable_projection import Array, Numbers, least_squares, logarithm, variable_projection


@cache
def mixture_law(domains: int) -> Form:
    """The law for so many training domains; one object each, so that the solver compiles its program once."""
    columns = tuple(f"x{j + 1}" for j in range(domains))
    rates = tuple(f"t{j + 1}" for j in range(domains))

    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        total = 0.0
        for rate, column in zip(rates, columns, strict=True):
            total = total + p[rate] * x[column]
        return p["c"] + xp.exp(total)

    def solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
        c = own["c"] * float(y.min())
        found = least_squares([x[column] for column in columns], logarithm(y - c), weights)
        return {"c": c, **dict(zip(rates, found, strict=True))}

    return Form(
        name=f"mixture_{domains}",
        formula="L = c + exp(Σ t_j r_j)",
        source="Ye et al. 2024 (2403.16952)",
        columns=columns,
        parameters=(Parameter("c"), *(Parameter(rate, "real") for rate in rates)),
        value=value,
        starts=variable_projection(columns, ("c", *rates), {"c": (0.02, 0.98)}, solve),
        unscaled=columns,
        feeds={column: Feed(column, (), "exp of a domain's proportion") for column in columns},
    )


def exponentials(proportions: Array, columns: tuple[str, ...]) -> dict[str, Array]:
    """The columns of the law for proportions [..., domains]."""
    return dict(zip(columns, np.exp(np.moveaxis(proportions, -1, 0)), strict=True))
