"""The exponent from other curves, and without one of the budgets."""

from collections.abc import Callable
from functools import partial

import numpy as np

from scaling.errors import UserError
from scaling.laws.isoflop.akima import fit_splines
from scaling.laws.isoflop.choice import Choice, Curves
from scaling.laws.isoflop.minima import OtherExponent
from scaling.laws.isoflop.parabola import CURVATURES, fit_parabolas
from scaling.laws.isoflop.points import Points
from scaling.laws.table.runs import Runs

DRAWS = 200
"""draws that determine the weights of the minima"""


def other_exponents(runs: Runs, chosen: Choice, points: Points, seed: int) -> tuple[OtherExponent, ...]:
    """Exponents from the curves that were not chosen, on the same rows, and the extremes without one of `points`."""
    curves: dict[str, Callable[[], Curves]] = {
        f"parabola, {name}": partial(fit_parabolas, runs, chosen.groups, name) for name in CURVATURES
    }
    curves["akima"] = partial(fit_splines, runs, chosen.groups)
    own = f"{chosen.method}, {chosen.curvature}" if chosen.curvature else chosen.method
    found = []
    for name, fit in curves.items():
        exponent = None if name == own else _exponent(runs, chosen, fit, seed)
        found += [] if exponent is None else [OtherExponent(name, exponent)]
    if len(points.C) < 3:
        return tuple(found)
    left = sorted((points.without(i).exponent(), c) for i, c in enumerate(points.C))
    return (*found, *(OtherExponent(f"without C {c:.3g}", exponent) for exponent, c in (left[0], left[-1])))


def _exponent(runs: Runs, chosen: Choice, fit: Callable[[], Curves], seed: int) -> float | None:
    """The exponent; None where these curves cannot be fitted, or have fewer than two minima that count."""
    try:
        curves = fit()
    except UserError:
        return None
    log_N, log_loss = curves.minima(DRAWS, np.random.default_rng(seed))
    sizes = [np.log(runs.N[rows]) for rows in chosen.groups]
    counted = [i for i, n in enumerate(sizes) if curves.convex[i] and n.min() < log_N[0, i] < n.max()]
    if len(counted) < 2:
        return None
    C = np.array([np.exp(np.log(runs.flops[chosen.groups[i]]).mean()) for i in counted])
    log_N = np.where(np.isfinite(log_N), log_N, np.nan)[:, counted]
    floor, none = curves.min_spread[counted], np.zeros_like(log_N)
    return Points(C, log_N, log_loss[:, counted], floor, none, none).exponent()
