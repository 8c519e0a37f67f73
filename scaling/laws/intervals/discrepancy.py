"""The discrepancy between a law's form and reality, which a fit to one table cannot estimate.

A run's log loss is the law's, plus the error of its parameters, plus the run's own scatter, plus a discrepancy of the
form itself (Kennedy and O'Hagan 2001): a random walk in log FLOPs, with variance κ²·ln(ahead) beyond the fitted runs.
κ, and a factor on the parameters' estimated error, are learned on published runs and shipped with the package; the
user's own runs then update them, with the published values counting as `Learned.worth` own errors.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.laws.arrays import Array

WILDEST = 9.0
"""cap of a squared error, in variances"""
REFUTES = 0.99
"""quantile of the errors at the last own cut, if the law held, beyond which they refute it"""
KEYS = ("kappa", "law")


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of a law's forecasts of single runs, and their expected sizes; all [points]."""

    error: Array
    """log(forecast / actual)"""
    law: Array
    """standard deviation of log L due to the parameters' error"""
    run: Array
    """a single run's scatter"""
    ahead: Array
    """C/C_max, or another measure of how far beyond the runs a point is"""
    weight: Array
    """weight of each point"""


@dataclass(frozen=True)
class Discrepancy:
    """Variances of log loss around a forecast."""

    kappa: float
    """standard deviation of the form's error an e-fold beyond the runs"""
    law: float
    """actual error of a law's parameters, in units of their estimated standard deviation"""
    widened: float = 1.0
    """factor on all standard deviations but a run's scatter, from the user's own runs"""
    own: tuple[float, ...] = ()
    """mean squared errors at the user's own cuts, in units of the variances expected"""
    slope: float = 0.0
    """standard deviation of the power of FLOPs with which losses fall, where the runs do not determine it"""

    def form_sd(self, ahead: ArrayLike) -> Array:
        """Standard deviation of the form's own error."""
        far = np.log(np.maximum(ahead, 1.0))
        return np.asarray(self.widened * np.hypot(self.kappa * np.sqrt(far), self.slope * far))

    def law_sd(self, sd: ArrayLike) -> Array:
        """Standard deviation of the parameters' error, from the law's own estimate of it."""
        return np.asarray(self.widened * self.law * np.asarray(sd))

    def variance(self, of: Errors) -> Array:
        """Variance of log loss around forecasts [points]."""
        return np.asarray(self.law_sd(of.law) ** 2 + self.form_sd(of.ahead) ** 2 + of.run**2)

    def sharpened(self, cuts: Sequence[Errors], worth: float) -> "Discrepancy":
        """The discrepancy updated by the errors at the user's own cuts.

        worth: number of own cuts that the learned values count as.
        """
        squares = [np.minimum(cut.error**2 / self.variance(cut), WILDEST) for cut in cuts]
        own = tuple(float(np.average(z, weights=cut.weight)) for z, cut in zip(squares, cuts, strict=True))
        return replace(self, widened=float(np.sqrt((worth + sum(own)) / (worth + len(own)))), own=own)

    def deviations(self, of: Errors) -> float:
        """Root mean square of errors, in standard deviations."""
        return float(np.sqrt(np.average(of.error**2 / self.variance(of), weights=of.weight)))


def refuted_at(deviations: float, freedom: float) -> bool:
    """Whether errors of this many standard deviations exceed chance, by Student's t."""
    from scipy.special import stdtrit

    return deviations > float(stdtrit(freedom, (1 + REFUTES) / 2))


@dataclass(frozen=True)
class Learned:
    """Discrepancies learned on published runs; an experiment writes them."""

    provenance: dict[str, Any]
    """the sets, the protocol, the command"""
    freedom: float
    """degrees of freedom of the Student's t that errors follow"""
    worth: float
    """number of a user's own cuts that the learned values count as"""
    laws: dict[str, dict[str, float]]
    record: dict[str, Any]
    """results of forecasts on each set, with values learned without the set's family"""
    scale: float = 1.0
    """factor on all standard deviations with which 90 % intervals cover 90 % of the published outcomes, families
    weighted equally: errors of one table's runs are correlated, which their likelihood mistakes for a wider
    scatter"""

    def of(self, law: str) -> Discrepancy:
        """A law's discrepancy; for a law without one, the largest of all."""
        of = self.laws.get(law) or {key: max(each[key] for each in self.laws.values()) for key in KEYS}
        return Discrepancy(of["kappa"], of["law"])


@cache
def shipped(package: str) -> Learned:
    """The contents of a package's `learned.json`."""
    return Learned(**json.loads(files(package).joinpath("learned.json").read_text(encoding="utf-8")))


def likelihood(known: Discrepancy, of: Errors, freedom: float) -> Array:
    """Log density of errors [points], each a Student's t of its variance."""
    from scipy.stats import t

    sd = np.sqrt(known.variance(of))
    return np.asarray(t.logpdf(of.error / sd, freedom) - np.log(sd))


def learn(
    found: Sequence[Errors], weights: ArrayLike, freedom: float, doubt: float, start: tuple[float, float]
) -> Discrepancy:
    """The maximum-likelihood discrepancy given the errors at several fits.

    weights: weight of each fit in the likelihood. doubt: standard deviation of the log of the factor on the law's own
    standard deviation, in a prior around 1. start: κ and that factor.
    """
    from scipy.optimize import minimize

    shares = np.asarray(weights, np.float64)

    def cost(logs: Array) -> float:
        known = Discrepancy(float(np.exp(logs[0])), float(np.exp(logs[1])))
        each = np.array([likelihood(known, of, freedom).mean() for of in found])
        return float(-shares @ each + 0.5 * (logs[1] / doubt) ** 2)

    best = minimize(cost, np.log(start), method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-4})
    kappa, law = (round(float(v), 4) for v in np.exp(best.x))
    return Discrepancy(kappa, law)
