"""The lower envelope of loss against FLOPs over all training curves (Hoffmann et al. 2022, approach 1)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import whole
from scaling.laws.intervals.interval import check_level
from scaling.laws.isoflop.power_law import FittedPowerLaw, offset_law, power_law_line, straight_law
from scaling.laws.table.curves import REACH, Curves, curves_at
from scaling.laws.table.runs import AnyRuns, as_runs
from scaling.text import percent

PER_DECADE = 100
"""points of the envelope per decade of FLOPs; Hoffmann et al. 2022 use 1,500 over about six decades"""
LOSS_POINTS = 48
"""number of these points that the law of the loss is fitted to"""


@dataclass(frozen=True, eq=False)
class Envelope:
    """The best run at each FLOPs value that smaller and larger runs also reached, and power laws through these."""

    C: Array
    """[points], training FLOPs"""
    N: Array
    D: Array
    loss: Array
    run: NDArray[np.str_]
    """[points], label of the best run"""
    left_out: int
    """points whose best run is the smallest or largest there: the best size may lie beyond"""
    level: float
    """coverage of every interval here"""
    N_law: FittedPowerLaw
    """N* against C; its exponent is a"""
    D_law: FittedPowerLaw
    """D* against C; its exponent is b"""
    loss_law: FittedPowerLaw
    """L* against C, with an offset where four or more runs take part"""
    lost_draws: float
    """share of resamples of runs whose envelope has fewer than two sizes; the intervals leave them out"""

    def summary(self) -> str:
        """A text with one line for each law."""
        lines = [
            f"lower envelope: {len(self.C)} points by {len(set(self.run))} runs, "
            f"C {self.C[0]:.3g} … {self.C[-1]:.3g}; {self.left_out} more had no size to beat on one side"
        ]
        laws = {"N*": self.N_law, "D*": self.D_law, "L*": self.loss_law}
        lines += [f"{power_law_line(name, law.to_dict())} ({percent(self.level)})" for name, law in laws.items()]
        return "\n".join(lines)


def envelope(runs: AnyRuns, level: float = 0.9, n: int = 1000, seed: int = 0) -> Envelope:
    """The run of least loss at log-spaced FLOPs, and least-squares power laws of its N, D and loss in C.

    Rows with one run label and N are a training curve, with log L linear in log C between rows; a run with a single
    row covers the FLOPs within 5 % of its own. A point counts only where a smaller and a larger run reach the same
    FLOPs.
    level: coverage of the intervals, which come from `n` resamples of whole runs, each with its own envelope.

    Raises UserError where the points that count have fewer than two sizes.
    """
    check_level(level)
    n, seed = whole(n, "envelope: n", 2), whole(seed, "envelope: seed")
    runs = as_runs(runs)
    # Single runs reach a little beyond their own FLOPs, at either end as well.
    least, most = float(runs.flops.min()) * np.exp(-REACH), float(runs.flops.max()) * np.exp(REACH)
    curves = curves_at(runs, np.geomspace(least, most, 2 + int(PER_DECADE * np.log10(most / least))))
    there = np.isfinite(curves.log_loss)
    best, counts = _envelope(curves, there[None])
    best, counts = best[0], counts[0]
    points = np.flatnonzero(counts)
    left_out = int(there.any(0).sum()) - len(points)
    if len(np.unique(curves.N[best[points]])) < 2:
        raise UserError(
            "envelope: fewer than two sizes are best between a smaller and a larger one at the same FLOPs; give "
            "training curves (several rows of one run=) or runs of three or more sizes at each budget"
        )
    # Every resample is evaluated at the points that count in the envelope of all runs.
    curves = Curves(curves.N, curves.run, curves.C[points], curves.log_loss[:, points], curves.log_D[:, points], None)
    there, best = there[:, points], best[points]
    winners, counts = _resampled(curves, there, n, np.random.default_rng(seed))
    winners = np.concatenate([best[None], winners])
    counts = np.concatenate([np.ones((1, len(points)), bool), counts])
    return _through(curves, winners, counts, left_out, level)


def _through(
    curves: Curves, winners: NDArray[np.int64], counts: NDArray[np.bool_], left_out: int, level: float
) -> Envelope:
    """The laws through the best curves [1 + draws, points], the envelope's own and then those of resamples."""
    best, points = winners[0], winners.shape[1]
    log_N = np.where(counts, np.log(curves.N)[winners], np.nan)
    varied = np.nanmax(np.where(counts, log_N, -np.inf), 1) > np.nanmin(np.where(counts, log_N, np.inf), 1)
    winners, counts, log_N = winners[varied], counts[varied], log_N[varied]
    column = np.arange(points)
    log_D = np.where(counts, curves.log_D[winners, column], np.nan)
    log_loss = np.where(counts, curves.log_loss[winners, column], np.nan)
    some = np.unique(np.linspace(0, points - 1, min(points, LOSS_POINTS)).astype(int))
    loss_law = offset_law if len(np.unique(best)) >= 4 and len(some) >= 4 else straight_law
    equal = np.ones(points)
    return Envelope(
        C=curves.C,
        N=curves.N[best],
        D=np.exp(log_D[0]),
        loss=np.exp(log_loss[0]),
        run=curves.run[best],
        left_out=left_out,
        level=level,
        N_law=straight_law(curves.C, log_N, equal, level),
        D_law=straight_law(curves.C, log_D, equal, level),
        loss_law=loss_law(curves.C[some], log_loss[:, some], equal[some], level),
        lost_draws=float(1 - varied[1:].mean()),
    )


def _envelope(curves: Curves, there: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The best curve [draws, points] among those in `there` [draws, curves, points], and whether it counts."""
    best = np.where(there, curves.log_loss, np.inf).argmin(1)
    return best, there.any(1) & curves.interior(best, there)


def _resampled(
    curves: Curves, there: NDArray[np.bool_], draws: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """`_envelope` of resamples of whole runs; how often a run is drawn does not affect a minimum."""
    names, number = np.unique(curves.run, return_inverse=True)
    found = []
    for first in range(0, draws, 32):
        count = min(32, draws - first)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), count) > 0
        found.append(_envelope(curves, drawn[:, number, None] & there))
    return np.concatenate([best for best, _ in found]), np.concatenate([counts for _, counts in found])
