"""Muennighoff et al. 2023 (2305.16264): training for several epochs on too few unique tokens.

L = E + A/N'^α + B/D'^β of columns N (parameters), D (tokens, repeats included) and U (unique tokens, in D's unit):

    D' = U_D + U_D·R_D*·(1 − exp(−R_D/R_D*)),  U_D = min(U, D),         R_D = D/U_D − 1
    N' = U_N + U_N·R_N*·(1 − exp(−R_N/R_N*)),  U_N = min(N_opt(U), N),  R_N = N/U_N − 1

N_opt(U) = (αA / βB)^(1/α) · U^(β/α) is the size for which U tokens are compute-optimal under the base law, whatever a
parameter and a token cost together: there αA/N^α = βB/D^β. With α = β it is a constant share of U.

E, A, B, R_D* and R_N* (parameters R_D, R_N) are positive, sought as logarithms; α and β are real. A carries N^α, B
carries D^β, the others no unit. The paper fits R_D* and R_N* with the base law known:
`fit(…, fixed={"E": …, "A": …, …})`. Starts spread α, β, R_D*, R_N* and E's share of the least loss, A and B follow by
least squares at N' = N.
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import amplitudes, spread_starts

REPEATS = (0.3, 300.0)
"""where R_D* and R_N* start"""
_PUBLISHED = {"alpha": 0.3526596, "beta": 0.3526596, "R_D": 15.387756, "R_N": 5.309743}


def _effective(total: Any, unique: Any, worth: Any, xp: ModuleType) -> Any:
    """log of what `total` is worth when `unique` of it are new; both are logarithms."""
    unique = xp.minimum(unique, total)
    return unique + xp.log1p(-worth * xp.expm1(-xp.expm1(total - unique) / worth))


def _value(p: Values, x: Values, xp: ModuleType) -> Any:
    tokens = _effective(x["D"], x["U"], p["R_D"], xp)
    balance = xp.log(p["alpha"] * p["A"]) - xp.log(p["beta"] * p["B"])
    fitting = (balance + p["beta"] * xp.minimum(x["U"], x["D"])) / p["alpha"]
    size = _effective(x["N"], fitting, p["R_N"], xp)
    return p["E"] + p["A"] * xp.exp(-p["alpha"] * size) + p["B"] * xp.exp(-p["beta"] * tokens)


def _starts(x: Array, y: Array, count: int) -> Array:
    spans = {"alpha": (0.1, 0.9), "beta": (0.1, 0.9), "R_D": REPEATS, "R_N": REPEATS, "share": (0.0, 1.0)}
    drawn = spread_starts(count, spans, [{**_PUBLISHED, "share": 0.8}])
    rows = []
    for own in (dict(zip(drawn, values, strict=True)) for values in zip(*drawn.values(), strict=True)):
        tokens = _effective(x[1], x[2], own["R_D"], np)
        level = max(own["share"], 1e-3) * y.min()
        basis = np.exp(-np.stack([own["alpha"] * x[0], own["beta"] * tokens], -1))
        A, B = amplitudes(basis, y - level)
        rows.append([level, A, own["alpha"], B, own["beta"], own["R_D"], own["R_N"]])
    return np.array(rows)


data_constrained = Form(
    name="data_constrained",
    formula="L = E + A/N'^α + B/D'^β, X' = U_X + U_X·R_X*·(1 − exp(−R_X/R_X*)), R_X = X/U_X − 1",
    source="Muennighoff et al. 2023 (2305.16264), eqs. 5, 6 and 17",
    columns=("N", "D", "U"),
    parameters=(
        Parameter("E"),
        Parameter("A", powers=(Power("N", "alpha"),)),
        Parameter("alpha", "real"),
        Parameter("B", powers=(Power("D", "beta"),)),
        Parameter("beta", "real"),
        Parameter("R_D"),
        Parameter("R_N"),
    ),
    value=_value,
    starts=_starts,
    same_unit={"U": "D"},
)
