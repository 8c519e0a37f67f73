"""Draws of a fit's parameters without refitting: from the linearised law, or from the posterior."""

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.asked import whole
from scaling.laws.intervals.clusters import clusters_of
from scaling.laws.intervals.covariance import covariance
from scaling.laws.intervals.interval import require_draws
from scaling.laws.intervals.posterior import sample
from scaling.laws.solve.draws import DrawMethod, Draws
from scaling.laws.solve.fitted_law import FittedLaw


def draw_parameters(fit: FittedLaw, method: DrawMethod, n: int, seed: int, cluster: ArrayLike | bool | None) -> Draws:
    """Draw `n` times without refitting; see `Fit.draw`."""
    n, seed = whole(n, "draw: n", 2), whole(seed, "draw: seed")
    require_draws(n)
    if method == "nuts":
        theta, notes = sample(fit.problem, fit.theta, fit.priors, n, seed)
    elif method in ("sandwich", "laplace"):
        spread = covariance(fit.problem, fit.theta, method, clusters_of(fit, cluster))
        theta, notes = spread.draw(fit.theta, n, np.random.default_rng(seed)), ()
    else:
        raise UserError(f"draw: method must be 'sandwich', 'laplace' or 'nuts'; got {method!r}")
    return Draws(method, seed, fit.problem.natural(theta), fit.problem.objective(theta), notes=notes)
