"""Kaplan et al. 2020 (2001.08361): power laws whose amplitudes are written as sizes, and what joins them.

Every scale (Nc, Dc, Cc, Sc) is positive, sought as its logarithm, and carries the unit of its column to the first
power; every exponent is real and without unit. Starts spread the exponents evenly; the scales then follow by least
squares. Kaplan et al. count N without embeddings, C in PF-days and S as the least steps that reach the loss: the
laws take whatever the columns hold.
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import amplitudes, spread_starts

EXPONENTS = (0.01, 0.6)
"""where exponents start"""
_PAPER = "Kaplan et al. 2020 (2001.08361)"


def _scale(column: str) -> Parameter:
    return Parameter(f"{column}c", powers=(Power(column),))


def single(column: str, equation: str, published: tuple[float, ...]) -> Form:
    """L = (Xc/X)^aX of one column X: parameters Xc, aX. It is `power_law_X_no_offset` with A = Xc^aX."""
    scale, exponent = f"{column}c", f"a{column}"

    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        return xp.exp(p[exponent] * (xp.log(p[scale]) - x[column]))

    def starts(x: Array, y: Array, count: int) -> Array:
        a = spread_starts(count, {exponent: EXPONENTS}, [{exponent: known} for known in published])[exponent]
        # The scale that puts the curve through the middle of the points: log L = aX (log Xc − log X).
        return np.stack([np.exp(np.mean(np.log(y)) / a + np.mean(x[0])), a], -1)

    return Form(
        name=f"kaplan_{column}",
        formula=f"L = ({scale}/{column})^{exponent}",
        source=f"{_PAPER}, {equation}",
        columns=(column,),
        parameters=(_scale(column), Parameter(exponent, "real")),
        value=value,
        starts=starts,
    )


def _joint() -> Form:
    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        size = p["aN"] / p["aD"] * (xp.log(p["Nc"]) - x["N"])
        return xp.exp(p["aD"] * xp.logaddexp(size, xp.log(p["Dc"]) - x["D"]))

    def starts(x: Array, y: Array, count: int) -> Array:
        drawn = spread_starts(count, {"aN": EXPONENTS, "aD": (0.03, 0.6)}, [{"aN": 0.076, "aD": 0.103}])
        rows = []
        for size, tokens in zip(drawn["aN"], drawn["aD"], strict=True):
            # L^(1/aD) is linear in Nc^(aN/aD) and Dc; divided by itself it makes every point count alike.
            basis = np.exp(np.stack([-size / tokens * x[0], -x[1]], -1) - np.log(y)[:, None] / tokens)
            powers = amplitudes(basis, np.ones(len(y)))
            rows.append([powers[0] ** (tokens / size), size, powers[1], tokens])
        return np.array(rows)

    def frontier(natural: Array) -> tuple[Array, Array]:
        ratio = natural[..., 1] / natural[..., 3]  # (Nc/N)^ratio balances Dc/D
        return 1.0 / (1.0 + ratio), ratio / (1.0 + ratio)

    return Form(
        name="kaplan_ND",
        formula="L = [(Nc/N)^(aN/aD) + Dc/D]^aD",
        source=f"{_PAPER}, eq. 1.5",
        columns=("N", "D"),
        parameters=(_scale("N"), Parameter("aN", "real"), _scale("D"), Parameter("aD", "real")),
        value=value,
        starts=starts,
        frontier=frontier,
    )


def _steps() -> Form:
    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        size = xp.exp(p["aN"] * (xp.log(p["Nc"]) - x["N"]))
        return size + xp.exp(p["aS"] * (xp.log(p["Sc"]) - x["S"]))

    def starts(x: Array, y: Array, count: int) -> Array:
        drawn = spread_starts(count, {"aN": EXPONENTS, "aS": (0.1, 1.5)}, [{"aN": 0.077, "aS": 0.76}])
        rows = []
        for size, steps in zip(drawn["aN"], drawn["aS"], strict=True):
            found = amplitudes(np.exp(-np.stack([size * x[0], steps * x[1]], -1)), y)
            rows.append([found[0] ** (1 / size), size, found[1] ** (1 / steps), steps])
        return np.array(rows)

    return Form(
        name="kaplan_NS",
        formula="L = (Nc/N)^aN + (Sc/S)^aS",
        source=f"{_PAPER}, eq. 1.6; S: optimizer steps",
        columns=("N", "S"),
        parameters=(_scale("N"), Parameter("aN", "real"), _scale("S"), Parameter("aS", "real")),
        value=value,
        starts=starts,
    )


kaplan_N = single("N", "eq. 1.1", (0.076,))
kaplan_D = single("D", "eq. 1.2", (0.095,))
kaplan_C = single("C", "eq. 1.3", (0.05, 0.057))
kaplan_ND = _joint()
kaplan_NS = _steps()
