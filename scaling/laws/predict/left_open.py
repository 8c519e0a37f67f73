"""Predictions of all parameters that fit as well, along the exponents that the data do not identify.

Draws are refits that begin at the fit's own parameters. Where an exponent is free they all end near them, and their
interval is narrow for no reason in the data: with runs at two contexts only, nominal 90 % intervals of what a context
between the two is worth held the truth in 1 of 20 simulated sweeps. A profile follows the exponent as far as it fits.
"""

from collections.abc import Callable
from math import ceil

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.intervals.bootstrap import noisy_losses
from scaling.laws.intervals.identification import unidentified
from scaling.laws.intervals.interval import Interval, interval
from scaling.laws.intervals.profile import profile
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.solver import solve

POINTS, DRAWS = 21, 60
"""values of an exponent, and refits of fresh noise with each of them held (more for a level above 1 − 1/DRAWS)"""


def widened(
    fit: FittedLaw, ends: Interval | None, compute: Callable[[Array], Array], level: float
) -> tuple[Interval | None, tuple[str, ...]]:
    """(`ends`, widened to the intervals at all values of unidentified exponents that fit; a note on each of these).

    ends: of the draws; None before any draws, and then left so, as are those of a group of a pooled fit, whose own
    runs do not say what the others leave open. compute: predictions [n] of parameters [n, k].
    """
    if ends is None or fit.freedom != len(fit.runs) - len(fit.problem.free):
        return ends, ()
    exponents, notes = {power.exponent for p in fit.form.parameters for power in p.powers}, list[str]()
    for name, found in unidentified(fit, level).items():
        if name not in exponents:
            continue
        with np.errstate(all="ignore"):  # the law may overflow at a value far off
            at_each = [interval(compute(natural), level) for natural in _held(fit, name, level)]
        ends = min([ends[0], *(low for low, _ in at_each)]), max([ends[1], *(high for _, high in at_each)])
        notes.append(f"{found}; the interval covers every value of {name} that fits as well")
    return ends, tuple(notes)


def _held(fit: FittedLaw, name: str, level: float) -> Array:
    """Parameters [values, draws, k], refitted to fresh noise with an exponent held at values that fit the runs."""
    along, draws = profile(fit, name, points=POINTS, level=level), max(DRAWS, ceil(1 / (1 - level)))
    natural = along.natural[(along.objectives <= along.cut) & np.isfinite(along.natural).all(1)]
    starts = np.repeat([fit.problem.theta(own) for own in natural], draws, 0)
    noisy = np.tile(noisy_losses(fit, draws, np.random.default_rng(0))[0], (len(natural), 1))
    problem = fit.problem.holding(name)
    found = solve(problem, starts, noisy, tolerance=1e-9)
    return problem.natural(found.theta).reshape(len(natural), draws, -1)
