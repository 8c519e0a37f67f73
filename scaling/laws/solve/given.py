"""Checks of a fit's residuals against given information: the rows' standard errors, and priors."""

from collections.abc import Iterator

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.noise import noise_of
from scaling.laws.solve.problem import Problem

UNEQUAL = 0.75
"""share of effective rows under the weights from which refits do not treat the weights as known"""
ROWS_PER_PARAMETER = 10
"""with fewer, a resample of rows loses whole budgets: fresh noise is drawn instead"""
FEWEST_ROWS = 3
"""the same where a sigma column weights rows unequally: fresh noise takes sigma as exact, and 90 % intervals with the
standard errors of two, three and five seeds covered 53, 72 and 79 % (60 tables of 30 rows), by rows 93 to 96 %
(200)"""
BORNE_OUT = 3.0
"""nats by which residuals must be likelier with scatter proportional to sigma than with equal scatter to avoid a
note: for 30 rows with their true sigma, which differ by half, it is 7 and more, with that of two to five seeds -25 to
9"""
PULLED, NOISIER = 3.0, 2.0
"""standard deviations of a parameter from its prior, and factor on the noise without priors, from which a note is
made"""


def given_notes(fit: FittedLaw) -> list[str]:
    """The notes, one line each."""
    return [*_sigma_notes(fit), *_prior_notes(fit)]


def rows_left(weights: Array) -> float:
    """Effective number of rows with these weights [rows] (Kish 1965: (Σw)²/Σw²)."""
    return float(weights.sum() ** 2 / np.sum(weights**2))


def are_unequal(weights: Array) -> bool:
    """Whether a few rows have most of the weight, so that intervals depend on their standard errors being right."""
    return rows_left(weights) < UNEQUAL * len(weights)


def fewest_rows(problem: Problem) -> int:
    """The number of rows below which refits use fresh noise by default; otherwise they resample rows."""
    return (FEWEST_ROWS if are_unequal(problem.weights) else ROWS_PER_PARAMETER) * len(problem.free)


def _sigma_notes(fit: FittedLaw) -> Iterator[str]:
    """Notes about sigma: standard errors of two or three seeds are off by half, and overweight some rows."""
    if fit.runs.sigma is None or not are_unequal(fit.problem.weights) or not (fit.residuals != 0).all():
        return
    w, squares, rows = fit.problem.weights, fit.residuals**2, len(fit.runs)
    unequal = -0.5 * rows * np.log(np.mean(w * squares)) + 0.5 * np.sum(np.log(w))
    nats = unequal + 0.5 * rows * np.log(np.mean(squares))
    if nats < BORNE_OUT or rows_left(w) <= len(fit.problem.free):
        yield (
            f"weighted by {fit.runs.conventions['sigma']}, the {rows} rows count as {rows_left(w):.2g}, and the "
            "residuals do not support these weights; standard errors of a few seeds are too noisy and make a fit "
            "worse: leave sigma out, or give all rows the same"
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
