"""The likelihood of a fit: the densities that correspond to the objectives, and AIC, AICc, BIC.

Minimising Σ w·ρ(r) is maximum likelihood under p(r) = exp(−w·ρ(r)/τ) / Z(τ/w), whatever the temperature τ. With ρ as
it is and τ fitted, this is a proper density: Gauss for L2 (τ = σ²), Laplace for L1, the asymmetric Laplace for a
quantile, and for Huber a Gaussian core with exponential tails and the requested δ. Its normalising constant matters:
dropping it, or fitting a scale inside ρ(r/s), silently turns a Huber fit into L1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.objectives import Loss, student_scale

NAMES = {
    "l2": "Gauss, σ fitted",
    "l1": "Laplace, scale fitted",
    "quantile": "asymmetric Laplace, scale fitted",
    "huber": "exp(−huber/τ)/Z(τ), δ as given, τ fitted",
    "student_t": "Student's t, scale fitted",
}


@dataclass(frozen=True)
class Likelihood:
    """A fit's maximum log likelihood, of the losses themselves (so that log and raw residuals compare)."""

    density: str
    value: float
    """nats"""
    parameters: float
    """number of fitted parameters, including the density's scale; fractional where priors contribute"""
    rows: int

    @property
    def aic(self) -> float:
        """2k − 2 log L (Akaike 1974)."""
        return 2.0 * self.parameters - 2.0 * self.value

    @property
    def aicc(self) -> float:
        """AIC for few rows (Hurvich and Tsai 1989); infinite where there are no more rows than parameters + 1."""
        left = self.rows - self.parameters - 1
        return self.aic + 2.0 * self.parameters * (self.parameters + 1) / left if left > 0 else np.inf

    @property
    def bic(self) -> float:
        """k log n − 2 log L (Schwarz 1978)."""
        return float(self.parameters * np.log(self.rows) - 2.0 * self.value)


def likelihood(fit: FittedLaw) -> Likelihood:
    """The likelihood that the fit maximised, at its maximum.

    Student's t with unequal σ of the rows is evaluated with the scale s/√w of each row, where the fit counted rows w
    times.
    """
    value = log_density(fit.residuals, fit.problem.weights, fit.loss) + _jacobian(fit)
    return Likelihood(NAMES[fit.loss.kind], value, len(fit.problem.free) + 1, len(fit.runs))


def akaike_weights(likelihoods: Sequence[Likelihood]) -> list[float]:
    """Shares of exp(−ΔAICc / 2) (Burnham and Anderson 2002, 2.9), of AIC where AICc is infinite for one."""
    values = np.array([found.aicc for found in likelihoods])
    if not np.isfinite(values).all():
        values = np.array([found.aic for found in likelihoods])
    shares = np.exp(-0.5 * (values - values.min()))
    return [float(share) for share in shares / shares.sum()]


def log_density(residuals: Array, weights: Array, loss: Loss) -> float:
    """Σ log p(r) with the scale that makes it greatest."""
    from scipy.optimize import minimize_scalar

    if loss.kind == "student_t":
        return _log_student(residuals, weights, loss)
    # −d log Z/d(1/τ) is between τ/2 and τ (Gauss and Laplace are the ends), which brackets the best τ.
    mean = max(loss(residuals, weights) / len(residuals), 1e-30)

    def negative(log_tau: float) -> float:
        tau = np.exp(log_tau)
        return float(len(residuals) * mean / tau + np.sum(_log_z(tau / weights, loss)))

    ends = (np.log(mean) - 1e-6, np.log(2.0 * mean) + 1e-6)
    found = minimize_scalar(negative, bounds=ends, method="bounded", options={"xatol": 1e-9})
    return -float(found.fun)


def _log_z(tau: Array, loss: Loss) -> Array:
    """log ∫ exp(−ρ(r)/τ) dr."""
    from scipy.special import erf

    if loss.kind == "l2":
        return np.asarray(0.5 * np.log(2.0 * np.pi * tau))
    if loss.kind == "huber":
        assert loss.delta is not None
        core = np.sqrt(2.0 * np.pi * tau) * erf(loss.delta / np.sqrt(2.0 * tau))
        return np.asarray(np.log(core + 2.0 * tau / loss.delta * np.exp(-(loss.delta**2) / (2.0 * tau))))
    over, under = loss.sides()
    return np.asarray(np.log(tau * (1.0 / over + 1.0 / under)))


def _log_student(residuals: Array, weights: Array, loss: Loss) -> float:
    from scipy.stats import t

    assert loss.nu is not None
    size = residuals * np.sqrt(weights)
    scale = float(student_scale(size, np.ones_like(size), loss.nu, np))
    return float(np.sum(t.logpdf(size / scale, loss.nu) - np.log(scale) + 0.5 * np.log(weights)))


def _jacobian(fit: FittedLaw) -> float:
    """Σ log |dt(L)/dL|: a density of log L is not one of L."""
    loss = fit.runs.loss
    if fit.residual == "raw":
        return 0.0
    return -float(np.sum(np.log(loss if fit.residual == "log" else 1.0 + loss)))
