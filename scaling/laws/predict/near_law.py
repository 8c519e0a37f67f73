"""A law fitted for a forecast: runs near the best of their budget dominate, and priors constrain the parameters.

Forecasts are about runs near the compute optimum, and no law of few parameters holds far from it as well: fitted to a
wide isoFLOP grid with equal weights, Chinchilla's law bends towards the runs of a few tokens per parameter and its
forecasts are 2 to 4 % too high one decade further. So a run has the weight 1 / (1 + (x/2 %)²), where x is the
distance of its loss above the lowest loss of all runs of no more FLOPs, as if its scatter grew with x. The noise
level is estimated together with the law, so that priors get their proper weight.

Runs of a single budget do not determine how fast losses fall with FLOPs: the law infers it from the curvature of
their curve, and was 4 % too low at four times the budget on two of four such tables. There the fit gets an
additional, hypothetical run (`SLOPE`), with which the error on these four tables is 1 %.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.forms import Form
from scaling.laws.intervals.covariance import curvature
from scaling.laws.quantities import least_loss
from scaling.laws.solve.checks import require_fittable
from scaling.laws.solve.common_variance import CANDIDATES, common_variance
from scaling.laws.solve.linear import derivative, jacobian
from scaling.laws.solve.multistart import starts_of
from scaling.laws.solve.objectives import huber
from scaling.laws.solve.priors import Prior, with_priors
from scaling.laws.solve.problem import Problem, make_problem, relative_variances, weights_of
from scaling.laws.solve.solver import solve
from scaling.laws.table.runs import Runs

DELTA = 0.02
"""Huber's δ on log loss: points within 2 % have full influence, a mistuned run cannot pull the law far"""
NEAR = 0.02
"""log loss above the best of the budget at which a run has half weight"""
SAME_BUDGET = 0.1
"""in log FLOPs: rounding to whole batches spreads the runs of one budget by less"""
KNOWN = {
    "alpha": Prior(0.3, 0.1),
    "beta": Prior(0.3, 0.1),
    "eta": Prior(0.0, 0.05),
    "zeta": Prior(0.0, 0.05),
}
"""priors: exponents of published laws, and how little the token term changes per e-fold of N"""
SHARE = Prior(0.6, 0.1)
"""E as a share of the lowest loss seen"""
SLOPE = Prior(0.055, 0.012)
"""power of FLOPs with which the lowest loss of a budget falls: .04 to .08 in published tables of several budgets"""
TENFOLD = float(np.log(10.0))
ONE_BUDGET = 1.9
"""runs whose FLOPs differ by less than this factor form a single budget"""
LEAST_NOISE = 0.002
"""of log loss: runs that differ in nothing but their seed differ by .1 to .3 %"""
FIRST_NOISE, ROUNDS, STARTS = 0.01, 4, 16
REACH = 2.0
"""in log N: an optimum is searched for this far beyond the runs' sizes, scaled up in proportion to C"""


def nearness(runs: Runs) -> Array:
    """The weight of each run [rows], between 0 and 1; see the module's docstring."""
    C, loss = np.log(runs.flops), np.log(runs.loss)
    least = np.array([loss[own + SAME_BUDGET >= C].min() for own in C])
    return np.asarray(1.0 / (1.0 + ((loss - least) / NEAR) ** 2))


def run_numbers(runs: Runs) -> NDArray[np.int64]:
    """The number of each row's training run [rows]; in a table without runs, each row counts as one."""
    return np.arange(len(runs)) if runs.run is None else np.unique(runs.run, return_inverse=True)[1]


def of_one_budget(flops: Array) -> bool:
    """Whether these FLOPs [rows] form a single budget, so that runs do not show how fast losses fall with FLOPs."""
    return bool(flops.max() < ONE_BUDGET * flops.min())


def steepness(runs: Runs) -> float:
    """The mean power of FLOPs with which losses near the optimum fall; 0 for runs of a single budget."""
    if of_one_budget(runs.flops):
        return 0.0
    slope, _ = np.polyfit(np.log(runs.flops), np.log(runs.loss), 1, w=np.sqrt(nearness(runs)))
    return -float(slope)


def known_before(form: Form, runs: Runs, priors: Mapping[str, Prior]) -> dict[str, Prior]:
    """Priors of a law for a forecast: `priors`, and for other parameters those of `KNOWN` and `SHARE`.

    The defaults apply only to laws with an offset E and powers of N and D: without an offset exponents are far
    smaller, and in other laws the same letters have other meanings.
    """
    least = float(runs.loss.min())
    ours = {**KNOWN, "E": Prior(SHARE.mean * least, SHARE.sd * least)}
    exponents = {power.exponent for parameter in form.parameters for power in parameter.powers if power.factor > 0}
    known = ours if "E" in form.params and exponents & KNOWN.keys() else {}
    return {name: prior for name, prior in {**known, **priors}.items() if name in form.params}


@dataclass(frozen=True, eq=False)
class NearLaw:
    """A law fitted by `near_law`."""

    problem: Problem
    runs: Runs
    """the fitted runs"""
    theta: Array
    """the solver's numbers [free]"""
    noise: float
    """standard deviation of the log loss of a run of weight 1"""
    spent: float
    """effective number of parameters that the runs, not the priors, determine: the trace of the runs' share of the
    curvature"""
    covariance: Array
    """of θ [free, free], to first order"""

    @property
    def form(self) -> Form:
        """The form of the law."""
        return self.problem.form

    @property
    def natural(self) -> Array:
        """Parameters in the columns' own units."""
        return self.problem.natural(self.theta)

    def log_loss(self, columns: Mapping[str, Array], natural: Array | None = None) -> Array:
        """log L [..., points] at columns by letter [points]; natural: parameters [..., k], None: the fitted ones."""
        natural = self.natural if natural is None else natural
        with np.errstate(all="ignore"):
            return np.asarray(np.log(self.form.loss(natural[..., None, :], [columns[c] for c in self.form.columns])))

    def sd(self, columns: Mapping[str, Array]) -> Array:
        """Standard deviation of log L [points] due to the noise, given the priors, to first order."""
        slope = derivative(lambda lanes: self.log_loss(columns, self.problem.natural(lanes)), self.theta)
        return np.asarray(np.sqrt(np.einsum("pi,ij,pj->p", slope, self.covariance, slope)))

    def best_size(self, flops: float) -> float:
        """N* at a budget, within reach of the runs."""
        per_token = self.runs.per_token
        low, high = np.log(self.runs.N.min()) - REACH, np.log(self.runs.N.max()) + REACH
        high += max(float(np.log(flops / self.runs.flops.max())), 0.0)

        def log_loss(n: Array) -> Array:
            N = np.exp(n)
            D = flops / per_token(N)
            return self.log_loss({"N": N, "D": D, "C": np.full_like(N, flops), "M": D / N})

        return float(np.exp(least_loss(log_loss, np.array([low]), np.array([high])))[0])


def near_law(runs: Runs, form: Form, priors: Mapping[str, Prior], seen: NDArray[np.bool_] | None = None) -> NearLaw:
    """Fit a law for a forecast to the rows `seen` [rows]; None: to all.

    priors: as from `known_before`. Raises UserError where the runs are not enough for the law.
    """
    seen = np.ones(len(runs), bool) if seen is None else seen
    run = run_numbers(runs)
    rows_of_run = np.bincount(run, seen)[run]
    fitted = runs.exclude(~seen, "not seen") if not seen.all() else runs
    # A rolling origin only checks whether the law holds, and may use fewer runs than a forecast needs.
    require_fittable(fitted, form, "log", {}, priors, held=0 if seen.all() else len(priors))
    # Unseen rows have weight 0, so that all cuts of a rolling origin share a compiled program; they set no reference.
    references = make_problem(fitted, form, huber(DELTA), "log", {}).fixed
    problem = make_problem(runs, form, huber(DELTA), "log", references)
    # Errors of one run's checkpoints are correlated: together they count as one row.
    share = nearness(runs) * seen / np.maximum(rows_of_run, 1)
    own = relative_variances(runs, "log")
    common = 0.0 if runs.sigma is None else float(CANDIDATES[-1])
    supposed = of_one_budget(fitted.flops)
    noise, theta = FIRST_NOISE, starts_of(problem.rows(seen), runs.loss[seen], STARTS)
    for _ in range(ROUNDS):
        problem = replace(problem, weights=share * weights_of(own, common), common=common)
        problem = with_priors(problem, priors, noise**2)
        best = solve(_supposing(problem, seen) if supposed else problem, theta).best
        known = problem.rows(seen)
        last, noise = noise, _noise(known, best, run[seen])
        theta = best[None]
        if runs.sigma is not None:
            residuals, slopes = known.residuals(best), jacobian(known, best)
            common = common_variance(own[seen], residuals, slopes, share[seen])
        if abs(np.log(noise / last)) < 0.02 and common == problem.common:
            break
    problem = with_priors(problem, priors, noise**2)
    known = problem.rows(seen)
    inverse, spent = _inverse_curvature(known, best)
    if supposed:
        inverse, _ = _inverse_curvature(_supposing(known, np.ones(len(known.y), bool)), best)
    return NearLaw(problem, fitted, best, noise, spent, noise**2 * inverse)


def _supposing(problem: Problem, seen: NDArray[np.bool_]) -> Problem:
    """The problem with one hypothetical run: ten times the FLOPs of the best run at its tokens per parameter, with
    the loss that `SLOPE` predicts and the weight of all others together, since their curve is no evidence of the
    slope."""
    best = int(np.flatnonzero(seen)[np.argmin(problem.y[seen])])
    ahead = {"N": TENFOLD / 2, "D": TENFOLD / 2, "C": TENFOLD, "M": 0.0}
    x = problem.x[:, best] + np.array([ahead[letter] for letter in problem.form.columns])
    return replace(
        problem,
        x=np.column_stack([problem.x, x]),
        y=np.append(problem.y, problem.y[best] - SLOPE.mean * TENFOLD),
        weights=np.append(problem.weights, problem.weights[seen].sum()),
    )


def _noise(problem: Problem, theta: Array, run: NDArray[np.int64]) -> float:
    """Robust weighted standard deviation of the residuals, corrected for the degrees of freedom that the fit uses.

    A weight w stands for a variance that is 1/w times as large, so that Σ w·r² / Σ w is the variance of a run of
    weight 1; it is a mean over (Σ w)² / Σ w² effective runs, w summed over the rows of each. run: run numbers [rows].
    """
    w, r = problem.weights, problem.residuals(theta)
    far = 3 * 1.4826 * float(np.median(np.abs(r)))
    rows, spent = float(w.sum() ** 2 / (np.bincount(run, w) ** 2).sum()), _inverse_curvature(problem, theta)[1]
    square = float(np.sum(w * np.clip(r, -far, far) ** 2) / w.sum()) * rows / max(rows - spent, rows / 4)
    return max(float(np.sqrt(square)), LEAST_NOISE)


def _inverse_curvature(problem: Problem, theta: Array) -> tuple[Array, float]:
    """The inverse [free, free] of the curvature, and how many parameters the runs determine rather than the priors.

    A pseudo-inverse: it omits directions that do not affect the runs (an amplitude driven to 0), nor any forecast.
    Raises UserError where a parameter ran off to values that cannot be computed.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        whole, prior = curvature(problem, theta)
    if not np.isfinite(whole).all():
        raise UserError(
            f"{len(problem.y)} runs do not determine {problem.form.name}: parameters diverged to the limits of "
            "floating point; use a law with fewer parameters, such as chinchilla, or give priors"
        )
    inverse = np.asarray(np.linalg.pinv(whole, rcond=1e-12, hermitian=True))
    return inverse, float(np.trace(inverse @ (whole - prior)))
