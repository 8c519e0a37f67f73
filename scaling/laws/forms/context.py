"""The loss of a model that reads T tokens of context: of one size (Xiong et al. 2023, 2309.16039), and of several.

Of one size: L = (α/T)^β + γ of column T (context in tokens; c in the paper, T here because C are FLOPs:
`Runs(…, T="context")`).
α and γ are positive, sought as logarithms, β is real; α carries the unit of T. Starts spread β and γ's share of the
least loss, α follows by least squares. Of several: the same power of T beside those of N and D.
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.additive import LITERATURE, D, N, Term, additive
from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import amplitudes, spread_starts


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
