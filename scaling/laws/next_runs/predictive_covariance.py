"""Predictive covariance of a target and of candidate runs, from noise, separate optima and other forms.

Within a law: the Gauss–Newton covariance v·J M⁻¹ Jᵀ, inflated where the bootstrap shows more spread. Between laws:
separate basins that bootstrap draws fall into, and other forms, each with its own prediction, weighted by the share
of draws and by the likelihood. A run on which the laws disagree, and whose outcome affects their prediction of the
target, is informative even where each law on its own is certain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.laws.arrays import Array
from scaling.laws.intervals.interval import interval
from scaling.laws.next_runs.target import Target
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.likelihood import akaike_weights, likelihood, log_density
from scaling.laws.solve.linear import derivative, jacobian, natural_slope
from scaling.laws.solve.objectives import transform
from scaling.laws.solve.solver import solve

_DRAWS = 256
"""bootstrap draws that are assigned to basins: four blocks of the solver"""


@dataclass(frozen=True)
class PredictiveCovariance:
    """Means and covariance of the target (first) and of the candidates' transformed losses."""

    noise: float
    """variance of a run's transformed loss around the law"""
    within: Array
    """[1 + m, 1 + m], the mean of the laws' own covariances"""
    between: Array
    """[1 + m, 1 + m], the covariance of the laws' predictions"""
    laws: tuple[tuple[str, float, float], ...]
    """name, weight and target of each law or basin"""

    @property
    def matrix(self) -> Array:
        """[1 + m, 1 + m], the sum of both."""
        return self.within + self.between


def predictive_covariance(
    fit: FittedLaw, others: Sequence[FittedLaw], target: Target, columns: Mapping[str, Array]
) -> PredictiveCovariance:
    """The predictive covariance. others: fits of other forms to the same runs. columns: of candidates by letter
    [m]."""
    noise = noise_variance(fit)
    fits = [fit, *others]
    weights = akaike_weights([likelihood(one) for one in fits])
    basins, own_draws = _basins(fit, noise, target, columns)
    parts = [(fit, theta, weights[0] * share) for theta, share in basins]
    parts += [(one, one.theta, weight) for one, weight in zip(others, weights[1:], strict=True)]
    shares = np.array([share for _, _, share in parts])
    means = np.array([_predictions(one, theta[None], target, columns)[0] for one, theta, _ in parts])
    away = means - shares @ means
    covariances = np.array([_covariance(one, theta, noise, target, columns) for one, theta, _ in parts])
    within = np.tensordot(shares, covariances, 1) * _inflation(fit, own_draws, noise, target, columns)
    named = zip([one.form.name for one, _, _ in parts], shares, means[:, 0], strict=True)
    laws = tuple((name, float(share), float(value)) for name, share, value in named)
    return PredictiveCovariance(noise, within, (away.T * shares) @ away, laws)


def noise_variance(fit: FittedLaw) -> float:
    """Variance of a run around the law; for robust objectives that of the central residuals."""
    if fit.loss.kind == "l2":
        return max(fit.residual_sd**2, 1e-24)
    size = np.abs(fit.residuals) * np.sqrt(fit.problem.weights)
    freedom = len(size) / (len(size) - len(fit.problem.free))
    return max(float((1.4826 * np.median(size)) ** 2 * freedom), 1e-24)


def _predictions(fit: FittedLaw, theta: Array, target: Target, columns: Mapping[str, Array]) -> Array:
    """[lanes, 1 + m]: the target and the candidates' transformed losses at the solver's numbers [lanes, free]."""
    natural = fit.problem.natural(theta)
    losses = fit.form.loss(natural[:, None, :], [columns[name] for name in fit.form.columns])
    return np.column_stack([target(fit.form, natural), transform(losses, fit.residual, np)])


def _covariance(fit: FittedLaw, theta: Array, noise: float, target: Target, columns: Mapping[str, Array]) -> Array:
    J = derivative(lambda lanes: _predictions(fit, lanes, target, columns), theta)
    rows = jacobian(fit.problem, theta) * np.sqrt(_independent_weights(fit))[:, None]
    M, natural = rows.T @ rows, natural_slope(fit.problem, theta)
    for name, prior in fit.priors.items():
        slope = natural[fit.form.params.index(name)]
        M = M + noise / prior.sd**2 * np.outer(slope, slope)
    # A parameter without any effect (E driven to 0) has no information in M; no candidate depends on it either.
    scale = np.sqrt(np.maximum(np.diag(M), 1e-20 * np.diag(M).max()))
    inverse = np.linalg.pinv(M / np.outer(scale, scale), rcond=1e-13, hermitian=True)
    half = J / scale
    return np.asarray(noise * half @ inverse @ half.T)


def _inflation(fit: FittedLaw, draws: Array, noise: float, target: Target, columns: Mapping[str, Array]) -> float:
    """Factor by which the rows are less informative than as many with equal, independent noise: at least 1.

    The ratio of the target's variance over the draws in the fit's own basin (by their central 68 %) to that of the
    linearised law. It is above 5 on the Chinchilla data, whose noise is larger where leverage is high.
    """
    if len(draws) < 20:
        return 1.0
    low, high = interval(target(fit.form, draws), 0.6827)
    alone = {name: column[:0] for name, column in columns.items()}
    linear = float(_covariance(fit, fit.theta, noise, target, alone)[0, 0])
    ratio = (0.5 * (high - low)) ** 2 / max(linear, 1e-300)
    return float(max(ratio, 1.0)) if np.isfinite(ratio) else 1.0


def _independent_weights(fit: FittedLaw) -> Array:
    """Weights of the rows; rows of one run share the weight of one, because their errors are correlated."""
    if fit.runs.run is None:
        return fit.problem.weights
    _, where, counts = np.unique(fit.runs.run, return_inverse=True, return_counts=True)
    return fit.problem.weights / counts[where]


def _basins(
    fit: FittedLaw, noise: float, target: Target, columns: Mapping[str, Array]
) -> tuple[list[tuple[Array, float]], Array]:
    """Separate minima of the fit's problem that searches from its bootstrap draws end in, with weights; draws of the
    first.

    The weight is the share of draws that end there times the likelihood. Minima whose predictions agree within a
    tenth of the noise are merged. The first is the fit's own, and the draws [n, k] that end there are returned with
    it.
    """
    if fit.draws is None:
        return [(fit.theta, 1.0)], np.zeros((0, len(fit.natural)))
    draws = fit.draws.samples[:_DRAWS]
    begun = fit.problem.theta(draws)
    usable = np.isfinite(begun).all(1)
    ended = solve(fit.problem, np.concatenate([fit.theta[None], begun[usable]])).theta
    ended[0] = fit.theta
    predicted = _predictions(fit, ended, target, columns)
    first: list[int] = []
    basin = np.full(len(ended), -1)
    for i in np.flatnonzero(np.isfinite(predicted).all(1)):
        near = [np.abs(predicted[i] - predicted[j]).max() < 0.1 * np.sqrt(noise) for j in first]
        basin[i] = near.index(True) if any(near) else len(first)
        if not any(near):
            first.append(int(i))
    heights = np.array([log_density(fit.problem.residuals(ended[i]), fit.problem.weights, fit.loss) for i in first])
    shares = np.bincount(basin[basin >= 0]) * np.exp(heights - heights.max())
    weighted = [(ended[i], float(share)) for i, share in zip(first, shares / shares.sum(), strict=True)]
    return weighted, draws[usable][basin[1:] == 0]
