"""Training in low precision: Kumar et al. 2024, Scaling laws for precision (2411.04330), section 4.

Hoffmann et al.'s law of an effective number of parameters:

    L = E + A/Neff^α + B/D^β
    Neff = N·(1 − exp(−Pw/γw))                                             (kumar_weights, eq. 3)
    Neff = N·(1 − exp(−Pw/γw))·(1 − exp(−Pa/γa))·(1 − exp(−Pkv/γkv))       (kumar, eq. 4)
    Neff = N·(1 − exp(−P/γ))³, all three at one precision P                (kumar_uniform, eq. 5)

What quantising such a model after training adds is in `quantized`; the loss then is the sum of both (eq. 11).

Columns: N, parameters; D, training tokens; bits of the weights Pw, of the activations Pa, of the key-value cache Pkv,
or of all three P.

Parameters: E, A, B and all γ in bits positive, exponents real. Bits keep their unit. Starts: exponents and γ spread
(γ evenly in the logarithm), the amplitudes by least squares. Kumar et al. fitted each exponential with an offset
beside P/γ that their formulas leave out, and tied α = β (appendix K): the γ of their table 2 are only starts here.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.forms.feed import Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import separable

SOURCE = "Kumar et al. 2024 (2411.04330)"
GAMMA = (0.2, 6.0)
"""bits, where γ starts"""
PUBLISHED = {"gamma_w": 2.6745, "gamma_a": 2.2102, "gamma_kv": 0.9578, "gamma": 2.0}
"""table 2, and about their mean"""
BITS = {
    "Pw": Feed("weight_bits", ("*.weight_bits",), "bits of the weights in training", choice=True),
    "Pa": Feed("activation_bits", ("*.activation_bits",), "bits of the activations in training", choice=True),
    "Pkv": Feed("cache_bits", ("*.cache_bits",), "bits of keys and values in training", choice=True),
    "P": Feed("bits", ("*.bits",), "bits of all of them in training", choice=True),
    "Ppost": Feed("post_bits", ("*.post_bits",), "bits of the weights after training", choice=True),
}
_SCALES: dict[str, tuple[str, int]] = {
    "Pw": ("gamma_w", 1),
    "Pa": ("gamma_a", 1),
    "Pkv": ("gamma_kv", 1),
    "P": ("gamma", 3),
}
"""column of bits -> its γ, and how many of Neff's factors it makes"""


def precision_equivalent(params: Mapping[str, float], N: ArrayLike, **bits: ArrayLike) -> NDArray[np.float64]:
    """Neff, the size in full precision with the same loss as N parameters at `bits` (Pw=…, Pa=…, Pkv=… or P=…).

    params: of a fit of `kumar`, `kumar_weights` or `kumar_uniform`. Raises UserError where they do not fit `bits`.
    """
    wanted = [column for column, (gamma, _) in _SCALES.items() if gamma in params]
    if not wanted or set(bits) != set(wanted):
        needs = f"bits {', '.join(wanted)}" if wanted else "the parameters of kumar, kumar_weights or kumar_uniform"
        raise UserError(f"precision_equivalent needs {needs}; got {', '.join(bits) or 'none'}")
    logs = {column: np.log(np.asarray(value, np.float64)) for column, value in bits.items()}
    return np.asarray(np.asarray(N, np.float64) * np.exp(log_share(params, logs, tuple(wanted), np)))


def log_share(p: Values, x: Values, columns: tuple[str, ...], xp: ModuleType) -> Any:
    """log Neff/N."""
    total: Any = 0.0
    for column in columns:
        gamma, times = _SCALES[column]
        total = total + times * xp.log(-xp.expm1(-xp.exp(x[column]) / p[gamma]))
    return total


def _kumar(name: str, bits: tuple[str, ...], share: str, equation: int) -> Form:
    gammas = [_SCALES[column][0] for column in bits]
    columns = ("N", "D", *bits)
    parameters = (
        Parameter("E"),
        Parameter("A", powers=(Power("N", "alpha"),)),
        Parameter("B", powers=(Power("D", "beta"),)),
        Parameter("alpha", "real"),
        Parameter("beta", "real"),
        *(Parameter(gamma) for gamma in gammas),
    )

    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        size = x["N"] + log_share(p, x, bits, xp)
        return p["E"] + p["A"] * xp.exp(-p["alpha"] * size) + p["B"] * xp.exp(-p["beta"] * x["D"])

    return Form(
        name=name,
        formula=f"L = E + A/Neff^alpha + B/D^beta, Neff = N {share}",
        source=f"{SOURCE}, eq. {equation}",
        columns=columns,
        parameters=parameters,
        value=value,
        starts=separable(
            value,
            columns,
            [p.name for p in parameters],
            spans={"alpha": (0.05, 1.2), "beta": (0.05, 1.2), **dict.fromkeys(gammas, GAMMA)},
            linear=("E", "A", "B"),
            offset="E",
            # α and β of Hoffmann et al. 2022
            literature=({"alpha": 0.34, "beta": 0.28, **{gamma: PUBLISHED[gamma] for gamma in gammas}},),
        ),
        unscaled=bits,
        feeds=BITS,
    )


kumar = _kumar(
    "kumar",
    ("Pw", "Pa", "Pkv"),
    "(1 - exp(-Pw/gamma_w)) (1 - exp(-Pa/gamma_a)) (1 - exp(-Pkv/gamma_kv))",
    4,
)
kumar_weights = _kumar("kumar_weights", ("Pw",), "(1 - exp(-Pw/gamma_w))", 3)
kumar_uniform = _kumar("kumar_uniform", ("P",), "(1 - exp(-P/gamma))^3", 5)
