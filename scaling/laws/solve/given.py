"""What the residuals of a fit say against what was given beside the losses: the rows' standard errors, and priors."""

from collections.abc import Iterator

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.noise import noise_of
from scaling.laws.solve.problem import Problem

UNEQUAL = 0.75
"""share of the rows that weights leave, from which on refits do not take them for known"""
ROWS_PER_PARAMETER = 10
"""with fewer, a resample of rows loses whole budgets: fresh noise is drawn instead"""
FEWEST_ROWS = 3
"""the same where a sigma column weighs rows unequally: fresh noise takes it at its word, and of 90 % intervals by the
standard errors of two, three and five seeds 53, 72 and 79 % held (60 tables of 30 rows), by rows 93 to 96 % (200)"""
BORNE_OUT = 3.0
"""nats by which residuals whose scatter goes by sigma are likelier than of one scatter, or it is told: of 30 rows
with their true sigma, which differ by half, these are 7 and more, with that of two to five seeds -25 to 9"""
PULLED, NOISIER = 3.0, 2.0
"""standard deviations that a parameter is off its prior, and times the noise without priors, from which it is told"""


def given_notes(fit: FittedLaw) -> list[str]:
    """A line each."""
    return [*_sigma_notes(fit), *_prior_notes(fit)]


def rows_left(weights: Array) -> float:
    """How many rows of equal weight tell as much as rows of these [rows] (Kish 1965: (Σw)²/Σw²)."""
    return float(weights.sum() ** 2 / np.sum(weights**2))


def are_unequal(weights: Array) -> bool:
    """Whether so few rows have most of the weight that intervals rest on their standard errors being right."""
    return rows_left(weights) < UNEQUAL * len(weights)


def fewest_rows(problem: Problem) -> int:
    """With fewer, refits are to fresh noise unless told otherwise; else to rows drawn."""
    return (FEWEST_ROWS if are_unequal(problem.weights) else ROWS_PER_PARAMETER) * len(problem.free)


def _sigma_notes(fit: FittedLaw) -> Iterator[str]:
    """Standard errors of two or three seeds are themselves off by half: they weigh some rows far too much."""
    if fit.runs.sigma is None or not are_unequal(fit.problem.weights) or not (fit.residuals != 0).all():
        return
    w, squares, rows = fit.problem.weights, fit.residuals**2, len(fit.runs)
    unequal = -0.5 * rows * np.log(np.mean(w * squares)) + 0.5 * np.sum(np.log(w))
    nats = unequal + 0.5 * rows * np.log(np.mean(squares))
    if nats < BORNE_OUT or rows_left(w) <= len(fit.problem.free):
        yield (
            f"the weights by {fit.runs.conventions['sigma']} leave what {rows_left(w):.2g} of {rows} rows would "
            "tell, and the residuals do not bear them out: standard errors of a few seeds are such, and make a fit "
            "worse; leave sigma out, or give all rows the same"
        )


def _prior_notes(fit: FittedLaw) -> Iterator[str]:
    if not fit.priors or not fit.problem.prior_noise:
        return
    times = noise_of(fit.residuals, fit.problem) / fit.problem.prior_noise
    off = {name: abs(fit.params[name] - prior.mean) / prior.sd for name, prior in fit.priors.items()}
    told = [f"{name} {fit.params[name]:.3g}, {off[name]:.2g} standard deviations off its prior" for name in off]
    if times > NOISIER or max(off.values()) > PULLED:
        yield (
            f"runs and priors disagree: {'; '.join(told)}; the noise of the runs is {times:.2g} times what it is "
            "without priors: the fit is a compromise between two laws, of which one is wrong"
        )
