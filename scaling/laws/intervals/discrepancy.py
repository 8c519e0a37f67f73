"""How far the world departs from a law, and the law from the world: what no fit to one table can say of itself.

A run's log loss is the law's, plus the error of its parameters, plus the run's own scatter, plus a discrepancy of the
form itself (Kennedy and O'Hagan 2001): a random walk in log FLOPs, of variance κ²·ln(ahead) so far beyond what was
fitted. κ, and how the parameters' own error compares with what came out, are learned on published runs and shipped;
the user's own runs then sharpen them, the published ones counting as `Learned.worth` of their errors.
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
"""a squared error counts as this many variances at most"""
REFUTES = 0.99
"""probability that errors at the last own cut are smaller where the law holds: beyond, they refute it"""
KEYS = ("kappa", "law")


@dataclass(frozen=True, eq=False)
class Errors:
    """Forecasts of single runs by a law, and what came out; all [points]."""

    error: Array
    """log(forecast / actual)"""
    law: Array
    """standard deviation that the parameters' error gives log L"""
    run: Array
    """a single run's scatter"""
    ahead: Array
    """C/C_max, or what else says how far beyond the runs a point is"""
    weight: Array
    """how much each counts"""


@dataclass(frozen=True)
class Discrepancy:
    """Variances of log loss around a forecast."""

    kappa: float
    """standard deviation of the form's error an e-fold beyond the runs"""
    law: float
    """the error of a law's parameters, in units of its own standard deviation"""
    widened: float = 1.0
    """factor on all standard deviations but a run's scatter, from the user's own runs"""
    own: tuple[float, ...] = ()
    """mean squared errors at the user's own cuts, in units of the variances expected"""
    slope: float = 0.0
    """standard deviation of the power of FLOPs with which losses fall, where the runs do not say it"""

    def form_sd(self, ahead: ArrayLike) -> Array:
        """Of the form's own error."""
        far = np.log(np.maximum(ahead, 1.0))
        return np.asarray(self.widened * np.hypot(self.kappa * np.sqrt(far), self.slope * far))

    def law_sd(self, sd: ArrayLike) -> Array:
        """Of the parameters' error, from the law's own standard deviation."""
        return np.asarray(self.widened * self.law * np.asarray(sd))

    def variance(self, of: Errors) -> Array:
        """Of log loss around forecasts [points]."""
        return np.asarray(self.law_sd(of.law) ** 2 + self.form_sd(of.ahead) ** 2 + of.run**2)

    def sharpened(self, cuts: Sequence[Errors], worth: float) -> "Discrepancy":
        """Moved to the errors at the user's own cuts; worth: of how many of these the learned values are."""
        squares = [np.minimum(cut.error**2 / self.variance(cut), WILDEST) for cut in cuts]
        own = tuple(float(np.average(z, weights=cut.weight)) for z, cut in zip(squares, cuts, strict=True))
        return replace(self, widened=float(np.sqrt((worth + sum(own)) / (worth + len(own)))), own=own)

    def deviations(self, of: Errors) -> float:
        """Root mean square of errors, in standard deviations."""
        return float(np.sqrt(np.average(of.error**2 / self.variance(of), weights=of.weight)))


def refuted_at(deviations: float, freedom: float) -> bool:
    """Whether errors of so many standard deviations are more than chance, by a Student's t."""
    from scipy.special import stdtrit

    return deviations > float(stdtrit(freedom, (1 + REFUTES) / 2))


@dataclass(frozen=True)
class Learned:
    """What published runs say: an experiment learns it and writes it down."""

    provenance: dict[str, Any]
    """the sets, the protocol, the command"""
    freedom: float
    """degrees of freedom of the Student's t that errors follow"""
    worth: float
    """own cuts that it counts as beside a user's"""
    laws: dict[str, dict[str, float]]
    record: dict[str, Any]
    """how forecasts fared on each set, the values learned without the set's family"""
    scale: float = 1.0
    """factor on all standard deviations with which intervals of 90 % hold 90 % of the published outcomes, families
    equal: errors at runs of one table have much in common, and their likelihood takes that for a wider scatter"""

    def of(self, law: str) -> Discrepancy:
        """A law's discrepancy; for one that was not tried, the largest of those that were."""
        of = self.laws.get(law) or {key: max(each[key] for each in self.laws.values()) for key in KEYS}
        return Discrepancy(of["kappa"], of["law"])


@cache
def shipped(package: str) -> Learned:
    """What `learned.json` of a package holds."""
    return Learned(**json.loads(files(package).joinpath("learned.json").read_text(encoding="utf-8")))


def likelihood(known: Discrepancy, of: Errors, freedom: float) -> Array:
    """Log density of errors [points], each a Student's t of its variance."""
    from scipy.stats import t

    sd = np.sqrt(known.variance(of))
    return np.asarray(t.logpdf(of.error / sd, freedom) - np.log(sd))


def learn(
    found: Sequence[Errors], weights: ArrayLike, freedom: float, doubt: float, start: tuple[float, float]
) -> Discrepancy:
    """The discrepancy that is most likely by errors at several fits.

    weights: likelihood that the mean point of each fit counts. doubt: standard deviation, in log, of a prior that a
    law's own standard deviation is right. start: κ and that factor.
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
