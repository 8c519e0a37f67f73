"""The minima that count, and the power laws through them."""

from dataclasses import dataclass, replace

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.isoflop.minima import Isoflop
from scaling.laws.isoflop.power_law import offset_law, offset_slopes, straight_law, straight_slopes
from scaling.laws.isoflop.scatter import Scatter, scatter_of, spread_of
from scaling.laws.table.flops_per_token import FlopsPerToken


@dataclass(frozen=True, eq=False)
class Points:
    """The minima that count, the estimate and then draws of the noise within budgets."""

    C: Array
    log_N: Array
    """[1 + draws, points]; NaN where there is no minimum"""
    log_loss: Array
    floor: Array
    """[points], smallest spread of log N that a point can have, for errors that the draws do not show"""
    off: Array
    """[1 + draws, points], common errors of log N in each draw: 0 where the curves are right"""
    lift: Array
    """the same for log L"""
    ols: bool = False
    """whether all points have equal weight, and all their scatter counts as being between budgets"""

    def through(self, found: Isoflop, per_token: FlopsPerToken, rng: np.random.Generator) -> Isoflop:
        """`found` with the power laws added."""
        C, ols, level = self.C, self.ols, found.level
        slopes = straight_slopes(C)
        between, N = _scattered(self.log_N, slopes, ols, rng)
        N = N + self.off
        D = np.log(C) - np.log(per_token(np.exp(N)))
        weights = _weights(self.log_N, self.floor, between.sd, ols)
        loss_law = straight_law
        if len(C) >= 4:
            loss_law = offset_law
            first = offset_law(C, self.log_loss[:3], _weights(self.log_loss, 0.0, 0.0, ols), 0.5)
            slopes = offset_slopes(first, C)
        off, loss = _scattered(self.log_loss, slopes, ols, rng)
        return replace(
            found,
            N_law=straight_law(C, N, weights, level),
            D_law=straight_law(C, D, weights, level),
            loss_law=loss_law(C, loss + self.lift, _weights(self.log_loss, 0.0, off.sd, ols), level),
            lost_draws=float(np.isnan(self.log_N[1:]).any(1).mean()),
            between=between,
        )

    def exponent(self) -> float:
        """The estimate of a in N* ∝ C^a."""
        within = np.zeros(len(self.C)) if self.ols else spread_of(self.log_N) ** 2
        between = scatter_of(self.log_N[0], straight_slopes(self.C), within, 0, np.random.default_rng(0))
        weights = _weights(self.log_N, self.floor, between.sd, self.ols)
        return straight_law(self.C, np.repeat(self.log_N[:1], 3, 0), weights, 0.5).exponent

    def without(self, i: int) -> "Points":
        """All but the point i."""
        names = ("log_N", "log_loss", "off", "lift")
        kept = {name: np.delete(getattr(self, name), i, 1) for name in names}
        return replace(self, C=np.delete(self.C, i), floor=np.delete(self.floor, i), **kept)


def _scattered(y: Array, slopes: Array, ols: bool, rng: np.random.Generator) -> tuple[Scatter, Array]:
    """The scatter of points y [1 + draws, points] about a law, and the points with that scatter added to the draws.

    ols: all scatter is between budgets, the noise within them is part of it.
    """
    within = np.zeros(y.shape[1]) if ols else spread_of(y) ** 2
    between = scatter_of(y[0], slopes, within, len(y) - 1, rng)
    drawn = np.broadcast_to(y[0], y[1:].shape) if ols else y[1:]
    return between, np.concatenate([y[:1], drawn + between.shifts(y.shape[1], rng)])


def _weights(y: Array, floor: float | Array, between: float, ols: bool) -> Array:
    """Weights of points y [1 + draws, points] in a law: 1/variance, the largest scaled to 1."""
    variance = np.maximum(spread_of(y), floor) ** 2 + between**2
    return np.ones(y.shape[1]) if ols or not (variance > 0).all() else variance.min() / variance
