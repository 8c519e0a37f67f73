"""Chinchilla's law with a token term that changes with N, five of whose parameters are Hoffmann et al.'s.

L = E + A/N^α + B/D^β · n^−η · d^(β·(1 − n^ζ)) with n = N/N0 and d = D/D0. At N0 the tokens' exponent is β and their
amplitude B; at other sizes the exponent is β·n^ζ, and at D0 the term is n^−η of what it is at N0. With η = ζ = 0 it
is Chinchilla's. Li et al. 2025 (2506.10972) find on 404 runs that amplitude and exponent of the tokens' term change
with N and give each a curve of three parameters (`farseer`); this is the least that has both, so that a few runs can
carry it where η and ζ have priors. N0 and D0 say about which run η and ζ are meant: the geometric means of the runs
unless they are fixed elsewhere.
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.forms.additive import chinchilla
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import spread_starts


def _value(p: Values, x: Values, xp: ModuleType) -> Any:
    n, d = x["N"] - xp.log(p["N0"]), x["D"] - xp.log(p["D0"])
    exponent = p["beta"] * xp.exp(p["zeta"] * n)
    tokens = p["B"] * xp.exp(-p["beta"] * x["D"] - p["eta"] * n + (p["beta"] - exponent) * d)
    return p["E"] + p["A"] * xp.exp(-p["alpha"] * x["N"]) + tokens


def _starts(x: Array, y: Array, count: int) -> Array:
    """Chinchilla's, with η and ζ spread around 0; N0 and D0 at the middle of the runs, the solver's unit."""
    bends = spread_starts(count, {"eta": (-0.1, 0.1), "zeta": (-0.1, 0.1)}, [{"eta": 0.0, "zeta": 0.0}])
    ones = np.ones(count)
    return np.column_stack([chinchilla.starts(x, y, count), bends["eta"], bends["zeta"], ones, ones])


interaction = Form(
    name="interaction",
    formula="L = E + A/N^alpha + B/D^beta · n^−eta · d^(beta·(1 − n^zeta)), n = N/N0, d = D/D0",
    source="Hoffmann et al. 2022 (2203.15556), eq. 10, with a token term that changes with N as in Li et al. 2025 "
    "(2506.10972)",
    columns=("N", "D"),
    parameters=(
        *chinchilla.parameters,
        Parameter("eta", "real"),
        Parameter("zeta", "real"),
        Parameter("N0", powers=(Power("N"),)),
        Parameter("D0", powers=(Power("D"),)),
    ),
    value=_value,
    starts=_starts,
    references={"N0": "N", "D0": "D"},
)
