"""Checks of a fit's residuals against given information: the rows' standard errors, and priors."""

from collections.abc import Iterator

import numpy as np

from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.noise import noise_of
from scaling.laws.solve.problem import median_sigma

TOLD, EQUAL = 1.0, 10.0
"""common variance, in units of the median row's own, from which it is noted, and from which rows count as weighted
alike"""
TIMES = 2.0
"""factor between the scatter of the runs and their standard errors from which a note is made"""
PULLED, NOISIER = 3.0, 2.0
"""standard deviations of a parameter from its prior, and factor on the noise without priors, from which a note is
made"""


def given_notes(fit: FittedLaw) -> list[str]:
    """The notes, one line each."""
    return [*_sigma_notes(fit), *_prior_notes(fit)]


def _sigma_notes(fit: FittedLaw) -> Iterator[str]:
    """Notes where the residuals contradict sigma, which weights the rows."""
    if fit.runs.sigma is None or not (fit.residuals != 0).all():
        return
    name, given = fit.runs.conventions["sigma"], median_sigma(fit.runs, fit.residual)
    common = fit.problem.common
    own = fit.residual_sd / np.sqrt(1.0 + common)
    if common >= TOLD:
        beside = f"{own * np.sqrt(common):.2g}{' of log loss' if fit.residual == 'log' else ''}"
        equal = ", nearly all alike" if common > EQUAL else ""
        yield (
            f"runs scatter by {beside} beside {name} (median {given:.2g}), so rows are weighted by both{equal}; "
            "standard errors of a few seeds are too noisy to weight by them alone"
        )
    elif not 1 / TIMES < own / given < TIMES:
        yield (
            f"runs scatter {own / given:.2g} times as much as {name} says; only its ratios between rows are used, "
            "and intervals follow the scatter"
        )


def _prior_notes(fit: FittedLaw) -> Iterator[str]:
    if not fit.priors or not fit.problem.prior_noise:
        return
    times = noise_of(fit.residuals, fit.problem) / fit.problem.prior_noise
    off = {name: abs(fit.params[name] - prior.mean) / prior.sd for name, prior in fit.priors.items()}
    parts = [f"{name} {fit.params[name]:.3g}, {off[name]:.2g} standard deviations from its prior" for name in off]
    if times > NOISIER or max(off.values()) > PULLED:
        yield (
            f"runs and priors disagree: {'; '.join(parts)}; the noise of the runs is {times:.2g} times that "
            "without priors: the fit is a compromise, and either the priors or the runs are wrong"
        )
