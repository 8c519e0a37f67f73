"""The loss of a model that reads T tokens of context: of one size (Xiong et al. 2023, 2309.16039), and of several.

Of one size: L = (α/T)^β + γ of column T (context in tokens; c in the paper, T here because C are FLOPs:
`Runs(…, T="context")`).
α and γ are positive, sought as logarithms, β is real; α carries the unit of T. Starts spread β and γ's share of the
least loss, α follows by least squares. Of several: the same power of T beside those of N and D.

Where data or FLOPs are short a longer window costs something, too, and there is a best one (that it grows with the
data: Shi et al. 2025, 2502.01481): a rising power of T beside the falling one, whose sum is least where their slopes
cancel. With a column D the rising one is of the loss that more data would take away: B·T^δ/D^β, data worth D/T^(δ/β).
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.additive import EXPONENTS, LITERATURE, D, N, Term, additive
from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import amplitudes, separable, spread_starts

STARTS = {"alpha": EXPONENTS, "beta": EXPONENTS, "gamma": EXPONENTS, "delta": (0.02, 1.0)}
"""where exponents start"""


def _value(p: Values, x: Values, xp: ModuleType) -> Any:
    return xp.exp(p["beta"] * (xp.log(p["alpha"]) - x["T"])) + p["gamma"]


def _starts(x: Array, y: Array, count: int) -> Array:
    published = [{"beta": beta, "share": 0.9} for beta in (0.45, 0.48, 0.5, 0.51)]
    drawn = spread_starts(count, {"beta": (0.03, 1.5), "share": (0.0, 1.0)}, published)
    rows = []
    for beta, share in zip(drawn["beta"], drawn["share"], strict=True):
        level = max(share, 1e-3) * y.min()
        amplitude = amplitudes(np.exp(-beta * x[0])[:, None], y - level)[0]
        rows.append([amplitude ** (1 / beta), beta, level])
    return np.array(rows)


context = Form(
    name="context",
    formula="L = (α/T)^β + γ",
    source="Xiong et al. 2023 (2309.16039), figure 1",
    columns=("T",),
    parameters=(Parameter("alpha", powers=(Power("T"),)), Parameter("beta", "real"), Parameter("gamma")),
    value=_value,
    starts=_starts,
)
chinchilla_context = additive(
    "chinchilla_context",
    (N, D, Term("K", "T", "gamma")),
    True,
    "Hoffmann et al. 2022 (2203.15556), eq. 10, with the term of T of Xiong et al. 2023 (2309.16039)",
    tuple((*known, 0.45) for known in LITERATURE),
)
"""What a longer context is worth, by `laws.context_worth`, is in it by assumption the same sum at every size."""


def _with_optimum(name: str, formula: str, columns: tuple[str, ...], parameters: tuple[Parameter, ...]) -> Form:
    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        size = p["A"] * xp.exp(-p["alpha"] * x["N"]) if "N" in x else 0.0
        tokens = p["beta"] * x["D"] if "D" in x else 0.0
        return p["E"] + size + p["K"] * xp.exp(-p["gamma"] * x["T"]) + p["B"] * xp.exp(p["delta"] * x["T"] - tokens)

    names = [parameter.name for parameter in parameters]
    spans = {key: span for key, span in STARTS.items() if key in names}
    linear = [key for key in names if key not in spans]
    return Form(
        name=name,
        formula=formula,
        source="Xiong et al. 2023 (2309.16039), with a term that rises, after Shi et al. 2025 (2502.01481)",
        columns=columns,
        parameters=parameters,
        value=value,
        starts=separable(value, columns, names, spans, linear, offset="E"),
    )


_FALLS = (Parameter("E"), Parameter("K", powers=(Power("T", "gamma"),)))
context_optimum = _with_optimum(
    "context_optimum",
    "L = E + K/T^gamma + B·T^delta",
    ("T",),
    (
        *_FALLS,
        Parameter("B", powers=(Power("T", "delta", -1.0),)),
        *(Parameter(name, "real") for name in ("gamma", "delta")),
    ),
)
chinchilla_context_optimum = _with_optimum(
    "chinchilla_context_optimum",
    "L = E + A/N^alpha + K/T^gamma + B·T^delta/D^beta",
    ("N", "D", "T"),
    (
        *_FALLS,
        Parameter("A", powers=(Power("N", "alpha"),)),
        Parameter("B", powers=(Power("D", "beta"), Power("T", "delta", -1.0))),
        *(Parameter(name, "real") for name in ("alpha", "beta", "gamma", "delta")),
    ),
)
"""`laws.best_context` says which context is best."""
