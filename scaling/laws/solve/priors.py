"""Priors on a law's parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.asked import amount, real
from scaling.laws.solve.problem import Problem


@dataclass(frozen=True)
class Prior:
    """A Gaussian over a parameter in the columns' own units."""

    mean: float
    sd: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", real(self.mean, "Prior: mean must be finite"))
        object.__setattr__(self, "sd", amount(self.sd, "Prior: sd must be positive and finite"))


def with_priors(problem: Problem, priors: Mapping[str, Prior], noise: float) -> Problem:
    """The problem with priors on its parameters, each weighing ½((p − mean)/sd)² nats.

    noise: the divisor that puts the objective in nats, from `laws.solve.noise.noise_of`.
    """
    names = problem.form.params
    mean = np.array([priors[name].mean if name in priors else 0.0 for name in names])
    precision = np.array([noise / priors[name].sd ** 2 if name in priors else 0.0 for name in names])
    return problem.with_priors(mean, precision, noise)


def drawn_means(
    problem: Problem, priors: Mapping[str, Prior], n: int, rng: np.random.Generator, fitted: Array | None
) -> Array | None:
    """Prior means [n, k] drawn from the priors, so that each refit uses randomised data and randomised priors.

    Randomise, then optimise (Bardsley et al. 2014): for a linear law exactly the posterior.
    fitted: the parameters [k], where refits use fresh noise around the fitted law: there the priors are drawn around
    its parameters, because around their own means they would pull twice.
    """
    if problem.prior_mean is None:
        return None
    sd = np.array([priors[name].sd if name in priors else 0.0 for name in problem.form.params])
    return (problem.prior_mean if fitted is None else fitted) + sd * rng.standard_normal((n, len(sd)))
