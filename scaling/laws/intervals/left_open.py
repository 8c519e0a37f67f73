"""Refits of a bootstrap that begin along what the data leave open.

A refit that begins at the fit's own parameters ends near them in every direction in which the data are silent, and
the interval is narrow for no reason in the data. So each resample is fitted a second time, from a place drawn evenly
along the profile of a parameter that is not identified. It stays where it ends if that fits the resample as well, and
so draws spread over all that fits. Where a resample has one best fit, both searches end there, and the first one's
result is kept.

Nominal 90 % intervals that held the truth, of 24 simulated sweeps with .3 % noise, with the second search (without):
runs of two sizes, alpha 100 % (8 %), E 100 % (8 %), N* and L* at 10 times the largest budget 100 % (21 %, 25 %); of
two token counts, beta 100 % (0 %), L* 100 % (4 %); of sizes within a factor of 2, alpha and N* 96 % (62 %, 67 %); of
two granularities, the best one 100 % (8 %); of dense models and 8 experts, what 64 experts are worth 100 % (33 %).
"""

from collections.abc import Callable, Mapping

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.intervals.coordinate import coordinate
from scaling.laws.intervals.profile import Profile
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.noise import noise_of
from scaling.laws.solve.solver import Solution

AS_WELL = 0.01
"""in nats: a search that ends this little above another fits as well"""
ELSEWHERE = 0.05
"""in the solver's numbers (logarithms, exponents): searches that end closer than this ended at one place"""
NOTHING = float(np.log(1e-3))
"""of positive parameters in units of the data: as good as 0 below that (E and an amplitude, of losses)"""
LEAST = 0.01
"""share of the draws from which a note says that they are spread"""


def spread(
    fit: FittedLaw,
    profiles: Mapping[str, Profile],
    own: Solution,
    refit: Callable[[Array], Solution],
    rng: np.random.Generator,
) -> tuple[Array, Array, tuple[str, ...]]:
    """θ [n, free] and objectives [n] of resamples, refitted from along the profiles where that fits as well; a note.

    profiles: of the parameters that are not identified; own: the resamples fitted from the fit's own parameters;
    refit: fits them from starts [n, free].
    """
    moved = refit(_along(fit, profiles, len(own.theta), rng))
    slack = AS_WELL * noise_of(fit.residuals, fit.problem)
    kinds = {p.name: p.kind for p in fit.form.parameters}
    floor = np.array([NOTHING if kinds[name] == "positive" else -np.inf for name in fit.problem.free])
    apart = np.abs(np.maximum(moved.theta, floor) - np.maximum(own.theta, floor)).max(1) > ELSEWHERE
    better = (moved.total < own.total - slack) | (apart & (moved.total <= own.total + slack))
    theta = np.where(better[:, None], moved.theta, own.theta)
    return theta, np.where(better, moved.objective, own.objective), _note(tuple(profiles), float(better.mean()))


def _note(names: tuple[str, ...], share: float) -> tuple[str, ...]:
    """What the draws say of themselves; nothing where every resample had one best fit."""
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    said = f"{share:.0%} of the draws are spread along {listed}, which the runs do not identify"
    return (said,) if share >= LEAST else ()


def _along(fit: FittedLaw, profiles: Mapping[str, Profile], n: int, rng: np.random.Generator) -> Array:
    """Starts [n, free]: parameters take turns, each evenly over the coordinate of its profile within the cut."""
    starts = np.empty((n, len(fit.theta)))
    for i, (name, along) in enumerate(profiles.items()):
        with np.errstate(all="ignore"):  # far off an amplitude may be beyond float64
            theta = fit.problem.theta(along.natural)
        inside = (along.objectives <= along.cut) & np.isfinite(theta).all(1)
        theta, u = theta[inside], coordinate(fit, name, None, None).of(along.values[inside])
        turns = np.arange(i, n, len(profiles))
        at = rng.uniform(u.min(), u.max(), len(turns))
        starts[turns] = np.stack([np.interp(at, u, column) for column in theta.T], -1)
    return starts
