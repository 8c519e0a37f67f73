"""The model that reaches a loss with the least compute for training and inference together.

Sardana et al. 2023 (2401.00448, eq. 2): minimise 6·N·D + 2·N·D_inf over N and D, subject to L(N, D) = loss. The more
a model will be used, the smaller it should be, and the longer trained.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount, real
from scaling.laws.intervals.interval import Interval, check_level, interval
from scaling.laws.quantities import bisect, require_sizes
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.table.flops_per_token import FlopsPerToken, six_n

_REACH = np.log(1e15)
"""N and D are searched for this far in the logarithm on both sides of the runs' geometric means"""
_STEP = 1e-4
"""of central differences in log N and log D"""


@dataclass(frozen=True)
class InferenceOptimum:
    """N and D of least total compute; intervals are None before a bootstrap, ends may be infinite."""

    loss: float
    inference_tokens: float
    N: float
    D: float
    training_flops: float
    inference_flops: float
    reachable: float = 1.0
    """share of the draws whose law reaches the loss at all"""
    level: float | None = None
    N_interval: Interval | None = None
    D_interval: Interval | None = None
    flops_interval: Interval | None = None
    """total of training and inference"""

    @property
    def flops(self) -> float:
        """Total FLOPs of training and inference."""
        return self.training_flops + self.inference_flops

    @property
    def tokens_per_param(self) -> float:
        """D/N."""
        return self.D / self.N


def inference_optimum(
    fit: FittedLaw,
    loss: float,
    inference_tokens: float,
    level: float = 0.9,
    flops_per_token: FlopsPerToken | None = None,
) -> InferenceOptimum:
    """Minimise 6·N·D + 2·N·inference_tokens subject to L(N, D) = loss (Sardana et al. 2023, 2401.00448, eq. 2).

    loss: the target, in the unit of the fit's losses.
    inference_tokens: read and written over the model's life; 0 gives the compute-optimal model of that loss.
    level: of the intervals over the last bootstrap's draws. A draw that cannot reach the loss counts as infinitely
    large; `reachable` is the share of those that can.
    flops_per_token: training FLOPs per token of a model of N parameters; None: 6·N. Inference takes a third.

    Raises UserError for a loss that the law does not reach at any N and D (at or below E), and for laws of other
    columns.
    """
    require_sizes(fit.form)
    loss = amount(loss, "inference_optimum: loss must be positive and finite")
    must = "inference_optimum: inference_tokens must be finite and not negative"
    if (inference_tokens := real(inference_tokens, must)) < 0:
        raise UserError(f"{must}; got {inference_tokens!r}")
    check_level(level)
    search = _Search(fit, loss, inference_tokens, flops_per_token)
    found, training, inference = search(fit.natural[None])
    if not np.isfinite(found).all():
        raise UserError(_unreachable(fit, loss, search))
    N, D = (float(v) for v in np.exp(found[:, 0]))
    point = (loss, inference_tokens, N, D, float(training[0]), float(inference[0]))
    if fit.draws is None:
        return InferenceOptimum(*point)
    drawn, training, inference = search(fit.draws.samples)
    return InferenceOptimum(
        *point,
        float(np.isfinite(drawn[0]).mean()),
        level,
        interval(np.exp(drawn[0]), level),
        interval(np.exp(drawn[1]), level),
        interval(training + inference, level),
    )


class _Search:
    """The optimum for many laws at once: bisections within bisections, in log N and log D."""

    def __init__(self, fit: FittedLaw, loss: float, inference_tokens: float, per_token: FlopsPerToken | None):
        self.form = fit.form
        self.loss, self.inference_tokens = loss, inference_tokens
        self.per_token = per_token or six_n
        self.centre = (float(np.log(fit.runs.N).mean()), float(np.log(fit.runs.D).mean()))

    def __call__(self, natural: Array) -> tuple[Array, Array, Array]:
        """log N and log D [2, lanes], training FLOPs and inference FLOPs [lanes]; infinite where there is none."""

        def too_large(n: Array) -> NDArray[np.bool_]:
            d = self.tokens(natural, n)
            return np.isfinite(d) & ~(self._slope(natural, n, d) < 0)

        n = bisect(too_large, *self._ends(natural, 0), np)
        d = self.tokens(natural, n)
        n = np.where(np.isfinite(d), n, np.inf)
        with np.errstate(over="ignore", invalid="ignore"):
            per_token = self.per_token(np.exp(n))
            return np.stack([n, d]), per_token * np.exp(d), per_token / 3.0 * self.inference_tokens

    def tokens(self, natural: Array, n: Array) -> Array:
        """log D at which models of log N = n reach the loss, infinite where they never do."""
        low, high = self._ends(natural, 1)
        never = self.at(natural, n, high) > self.loss
        enough = bisect(lambda d: ~(self.at(natural, n, d) > self.loss), low, high, np)
        return np.where(never, np.inf, enough)

    def _ends(self, natural: Array, axis: int) -> tuple[Array, Array]:
        """Range in which log N (axis 0) or log D (axis 1) is searched for, each end [lanes]."""
        low, high = (np.full(len(natural), self.centre[axis] + side * _REACH) for side in (-1, 1))
        return low, high

    def at(self, natural: Array, n: Array, d: Array) -> Array:
        """The loss at log N and log D."""
        logs = {"N": n, "D": d}
        return self.form.loss(natural, [np.exp(logs[name]) for name in self.form.columns])

    def _slope(self, natural: Array, n: Array, d: Array) -> Array:
        """Sign of d cost / d log N along the curve L = loss, where dd/dn = −L_n / L_d."""
        d = np.where(np.isfinite(d), d, self.centre[1])
        by_n = self.at(natural, n + _STEP, d) - self.at(natural, n - _STEP, d)
        by_d = self.at(natural, n, d + _STEP) - self.at(natural, n, d - _STEP)
        growth = np.log(self.per_token(np.exp(n + _STEP)) / self.per_token(np.exp(n - _STEP))) / (2 * _STEP)
        # In units of per_token: (D + D_inf/3)·growth + D·dd/dn, times by_d, which is negative.
        tokens = np.exp(d)
        return -((tokens + self.inference_tokens / 3.0) * growth * by_d - tokens * by_n)


def _unreachable(fit: FittedLaw, loss: float, search: _Search) -> str:
    far = np.array([search.centre[0] + _REACH]), np.array([search.centre[1] + _REACH])
    floor = float(search.at(fit.natural[None], *far)[0])
    what = f"E = {fit.params['E']:.6g}" if "E" in fit.params else f"{floor:.6g} at 1e15 times the runs' sizes"
    reached = f"inference_optimum: {fit.form.name} reaches a loss of {loss:.6g} with no N and D"
    return f"{reached} ({what}); ask for a higher loss"
