"""What a law says about runs not yet made: losses, the best N and D at a budget, exponents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.forms import Form
from scaling.laws.intervals.draws import interval

Array = NDArray[np.float64]
FlopsPerToken = Callable[[Array], Array]
"""N -> training FLOPs per token"""

_STEP = 1e-4
"""in log N, of the central difference whose zero is the optimum: truncation and rounding both stay below 1e-8"""
_BRACKET = np.log(1e12)
"""the optimum is sought this far in log N on both sides of N = D"""
EXPONENTS = ("a", "b")
"""of N* ∝ C^a and D* ∝ C^b"""
AT_BUDGET = ("N*", "D*", "L*", "D*/N*")


@dataclass(frozen=True)
class Prediction:
    """A loss, or an array of them; the interval is None before a bootstrap."""

    loss: Any
    low: Any = None
    high: Any = None
    level: float | None = None

    def __float__(self) -> float:
        return float(self.loss)


@dataclass(frozen=True)
class Optimum:
    """The compute-optimal model at a budget; intervals are None before a bootstrap."""

    C: float
    N: float
    D: float
    loss: float
    level: float | None = None
    N_interval: tuple[float, float] | None = None
    D_interval: tuple[float, float] | None = None
    loss_interval: tuple[float, float] | None = None
    tokens_per_param_interval: tuple[float, float] | None = None

    @property
    def tokens_per_param(self) -> float:
        """D*/N*."""
        return self.D / self.N


def predict(form: Form, natural: Array, samples: Array | None, columns: list[Array], level: float) -> Prediction:
    """L at `columns`, each of any shape, with the interval over samples [n, k]."""
    columns = list(np.broadcast_arrays(*columns))
    if any((column <= 0).any() or not np.isfinite(column).all() for column in columns):
        raise UserError(f"predict: {' and '.join(form.columns)} must be positive and finite")
    loss = _plain(form.loss(natural, columns))
    if samples is None:
        return Prediction(loss)
    expanded = samples.reshape(len(samples), *(1,) * columns[0].ndim, samples.shape[1])
    drawn = form.loss(expanded, columns)
    low, high = interval(np.moveaxis(drawn, 0, -1), level)
    return Prediction(loss, low, high, level)


def optimal(
    form: Form, natural: Array, samples: Array | None, C: float, level: float, flops_per_token: FlopsPerToken | None
) -> Optimum:
    """See `Fit.optimal`."""
    N, D, loss = (float(v) for v in frontier(form, natural, C, flops_per_token))
    if samples is None:
        return Optimum(float(C), N, D, loss)
    N_drawn, D_drawn, loss_drawn = frontier(form, samples, C, flops_per_token)
    return Optimum(
        float(C),
        N,
        D,
        loss,
        level,
        interval(N_drawn, level),
        interval(D_drawn, level),
        interval(loss_drawn, level),
        interval(D_drawn / N_drawn, level),
    )


def frontier(
    form: Form, natural: Array, C: float, flops_per_token: FlopsPerToken | None
) -> tuple[Array, Array, Array]:
    """N*, D*, L* at C FLOPs for natural parameters [..., k]: the zero of dL/dlog N at constant C, by bisection."""
    if set(form.columns) != {"N", "D"}:
        raise UserError(f"{form.name} is a law of {', '.join(form.columns)}: no optimal N and D follow from it")
    ends = bracket(C)
    per_token = flops_per_token or six_n

    def tokens(log_n: Array) -> Array:
        return C / per_token(np.exp(log_n))

    def loss(log_n: Array) -> Array:
        return form.loss(natural, [np.exp(log_n), tokens(log_n)])

    low, high = (np.full(natural.shape[:-1], end) for end in ends)
    for _ in range(60):
        mid = 0.5 * (low + high)
        rising = loss(mid + _STEP) > loss(mid - _STEP)
        low, high = np.where(rising, low, mid), np.where(rising, mid, high)
    best = 0.5 * (low + high)
    return np.exp(best), tokens(best), loss(best)


def bracket(C: float) -> tuple[float, float]:
    """Between which log N the optimum at C FLOPs is sought. Raises UserError where C is none."""
    if not (np.isfinite(C) and C > 0):
        raise UserError(f"C must be a positive number of FLOPs; got {C!r}")
    middle = 0.5 * float(np.log(C / 6.0))
    return middle - _BRACKET, middle + _BRACKET


def six_n(N: ArrayLike) -> Array:
    """Training FLOPs per token, 6·N."""
    return 6.0 * np.asarray(N, np.float64)


def derived(form: Form, natural: Array, name: str, C: float | None, flops: FlopsPerToken | None) -> Array:
    """A parameter or derived quantity [...] at parameters [..., k]. Raises UserError for an unknown name."""
    if name in form.params:
        return natural[..., form.params.index(name)]
    if name in EXPONENTS and form.frontier is not None:
        return form.frontier(natural)[name == "b"]
    if name in AT_BUDGET and form.frontier is not None:
        if C is None:
            raise UserError(f"{name} depends on the budget: give C=…, in FLOPs")
        N, D, loss = frontier(form, natural, C, flops)
        return {"N*": N, "D*": D, "L*": loss, "D*/N*": D / N}[name]
    known = (*form.params, *((*EXPONENTS, *AT_BUDGET) if form.frontier is not None else ()))
    raise UserError(f"no quantity {name!r} of {form.name}; there are {', '.join(known)}")


def _plain(value: Array) -> Any:
    return float(value) if np.ndim(value) == 0 else value
