"""Caballero et al. 2022 (2210.14891): smoothly broken power laws.

y = a + b·x^−c0 · Π (1 + (x/d_i)^(1/f_i))^(−c_i·f_i), i = 1 … breaks, of column x (any one quantity:
`Runs(…, x="tokens")`). In a log-log plot the slope of y − a goes from −c0 to −c0 − c1 around x = d1, the more sharply
the smaller f1, and so on. a, b, d_i and f_i are positive, sought as logarithms; c0 and c_i are real. b carries
x^c0, d_i the unit of x. Starts put the breaks inside the range of the data, spread their sharpness and a's share of
the least y; log b, c0 and c_i follow by least squares on log(y − a). Caballero et al. fit log(y + 1) by least
squares: `fit(…, residual="log1p", loss=l2())`.
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.forms.feed import Feed
from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import spread_starts

SHARPNESS = (0.01, 1.5)
"""where f_i start"""


def bnsl(breaks: int = 1) -> Form:
    """A power law with 1, 2 or 3 smooth breaks. Raises UserError for another number."""
    if breaks not in (1, 2, 3):
        raise UserError(f"bnsl: breaks must be 1, 2 or 3; got {breaks!r}")
    numbers = tuple(range(1, breaks + 1))

    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        log_y = xp.log(p["b"]) - p["c0"] * x["x"]
        for i in numbers:
            log_y = log_y - p[f"c{i}"] * p[f"f{i}"] * xp.logaddexp(0.0, (x["x"] - xp.log(p[f"d{i}"])) / p[f"f{i}"])
        return p["a"] + xp.exp(log_y)

    def starts(x: Array, y: Array, count: int) -> Array:
        return _starts(x[0], y, count, numbers)

    each = [
        (Parameter(f"c{i}", "real"), Parameter(f"d{i}", powers=(Power("x"),)), Parameter(f"f{i}")) for i in numbers
    ]
    return Form(
        name=f"bnsl_{breaks}",
        formula="y = a + b·x^−c0·" + "·".join(f"(1 + (x/d{i})^(1/f{i}))^(−c{i}·f{i})" for i in numbers),
        source="Caballero et al. 2022 (2210.14891), eq. 1",
        columns=("x",),
        feeds={"x": Feed("x", (), "any one quantity")},
        parameters=(
            Parameter("a"),
            Parameter("b", powers=(Power("x", "c0"),)),
            Parameter("c0", "real"),
            *(parameter for three in each for parameter in three),
        ),
        value=value,
        starts=starts,
    )


def _starts(x: Array, y: Array, count: int, numbers: tuple[int, ...]) -> Array:
    spans = {"share": (0.0, 1.0)} | {f"d{i}": (0.0, 1.0) for i in numbers} | {f"f{i}": SHARPNESS for i in numbers}
    drawn = spread_starts(count, spans)
    part = np.ptp(x) / len(numbers)  # each break starts in its own part of the range: the order is a matter of names
    rows = []
    for k in range(count):
        level = 0.999 * max(drawn["share"][k], 1e-3) * y.min()
        places = [x.min() + part * (i - 1 + drawn[f"d{i}"][k]) for i in numbers]
        widths = [drawn[f"f{i}"][k] for i in numbers]
        bends = [-f * np.logaddexp(0.0, (x - d) / f) for d, f in zip(places, widths, strict=True)]
        basis = np.stack([np.ones_like(x), -x, *bends], -1)
        log_b, c0, *c = np.linalg.lstsq(basis, np.log(y - level), rcond=None)[0]
        each = zip(c, np.exp(places), widths, strict=True)
        rows.append([level, np.exp(log_b), c0, *(value for three in each for value in three)])
    return np.array(rows)
