"""Precision: Kumar et al. 2024, Scaling laws for precision (2411.04330).

Training in low precision (section 4) is Hoffmann et al.'s law of an effective number of parameters:

    L = E + A/Neff^α + B/D^β
    Neff = N·(1 − exp(−Pw/γw))                                             (kumar_weights)
    Neff = N·(1 − exp(−Pw/γw))·(1 − exp(−Pa/γa))·(1 − exp(−Pkv/γkv))       (kumar)
    Neff = N·(1 − exp(−P/γ))³, all three at one precision P                (kumar_uniform)

Post-training quantisation (section 3) adds δ to the loss of a model that was trained in high precision:

    δ = CT · D^γD / N^γN · exp(−Ppost/γpost)                               (kumar_ptq)

Columns: N, parameters; D, training tokens; bits of the weights Pw, of the activations Pa, of the key-value cache Pkv,
of all three P, or of the quantised weights Ppost. What kumar_ptq predicts is the rise δ, not the loss itself: name
its column with Runs(…, loss=…).

Parameters: E, A, B, CT and all γ in bits positive, exponents real. Bits keep their unit. Starts: exponents and γ
spread (γ evenly in the logarithm), the amplitudes by least squares; those of kumar_ptq all by least squares on log δ.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.projected import Array, Numbers, least_squares, logarithm, projected
from scaling.laws.forms.starts import separable

_SOURCE = "Kumar et al. 2024 (2411.04330)"
_GAMMA = (0.2, 6.0)
"""bits, where γ starts"""
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
    return np.asarray(np.asarray(N, np.float64) * np.exp(_log_share(params, logs, tuple(wanted), np)))


def _log_share(p: Values, x: Values, columns: tuple[str, ...], xp: ModuleType) -> Any:
    """log Neff/N."""
    total: Any = 0.0
    for column in columns:
        gamma, times = _SCALES[column]
        total = total + times * xp.log(-xp.expm1(-xp.exp(x[column]) / p[gamma]))
    return total


def _kumar(name: str, bits: tuple[str, ...], share: str, literature: dict[str, float]) -> Form:
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
        size = x["N"] + _log_share(p, x, bits, xp)
        return p["E"] + p["A"] * xp.exp(-p["alpha"] * size) + p["B"] * xp.exp(-p["beta"] * x["D"])

    return Form(
        name=name,
        formula=f"L = E + A/Neff^alpha + B/D^beta, Neff = N {share}",
        source=f"{_SOURCE}, section 4",
        columns=columns,
        parameters=parameters,
        value=value,
        starts=separable(
            value,
            columns,
            [p.name for p in parameters],
            spans={"alpha": (0.05, 1.2), "beta": (0.05, 1.2), **dict.fromkeys(gammas, _GAMMA)},
            linear=("E", "A", "B"),
            offset="E",
            # γ as published; α and β of Hoffmann et al. 2022
            literature=({"alpha": 0.34, "beta": 0.28, **{gamma: literature[gamma] for gamma in gammas}},),
        ),
        unscaled=bits,
    )


def _ptq_value(p: Values, x: Values, xp: ModuleType) -> Any:
    exponent = p["gamma_D"] * x["D"] - p["gamma_N"] * x["N"] - xp.exp(x["Ppost"]) / p["gamma_post"]
    return p["CT"] * xp.exp(exponent)


def _ptq_solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
    terms: list[Array | float] = [1.0, x["D"], -x["N"], -np.exp(x["Ppost"])]
    level, data, size, rate = least_squares(terms, logarithm(y), weights)
    # A rate that is not positive says that bits do not help; the search begins where they help very little.
    return {"CT": float(np.exp(level)), "gamma_D": data, "gamma_N": size, "gamma_post": 1.0 / max(rate, 1e-3)}


_PUBLISHED = {"gamma_w": 2.6745, "gamma_a": 2.2102, "gamma_kv": 0.9578, "gamma": 2.0}
kumar = _kumar(
    "kumar",
    ("Pw", "Pa", "Pkv"),
    "(1 - exp(-Pw/gamma_w)) (1 - exp(-Pa/gamma_a)) (1 - exp(-Pkv/gamma_kv))",
    _PUBLISHED,
)
kumar_weights = _kumar("kumar_weights", ("Pw",), "(1 - exp(-Pw/gamma_w))", _PUBLISHED)
kumar_uniform = _kumar("kumar_uniform", ("P",), "(1 - exp(-P/gamma))^3", _PUBLISHED)
kumar_ptq = Form(
    name="kumar_ptq",
    formula="delta = CT D^gamma_D / N^gamma_N exp(-Ppost/gamma_post)",
    source=f"{_SOURCE}, section 3",
    columns=("N", "D", "Ppost"),
    parameters=(
        Parameter("CT", powers=(Power("N", "gamma_N"), Power("D", "gamma_D", -1.0))),
        Parameter("gamma_D", "real"),
        Parameter("gamma_N", "real"),
        Parameter("gamma_post"),
    ),
    value=_ptq_value,
    starts=projected(("N", "D", "Ppost"), ("CT", "gamma_D", "gamma_N", "gamma_post"), {}, _ptq_solve),
    unscaled=("Ppost",),
)
