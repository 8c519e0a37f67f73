"""How far a fit could have come out otherwise: bootstraps over rows, over training runs, and over noise."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError

if TYPE_CHECKING:
    from scaling.laws.fit import Fit

Array = NDArray[np.float64]
Kind = Literal["rows", "runs", "noise"]


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """The law fitted again to data that could have been."""

    kind: Kind
    """what was drawn: rows, whole training runs, or fresh noise around the fitted law"""
    seed: int
    samples: Array
    """[n, k], natural parameters in the form's order"""
    objectives: Array
    """[n], each on its own data"""
    noise_sd: Array | None = None
    """[n], for kind "noise": the standard deviation that each draw's noise was made with"""

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"Bootstrap({len(self)} of {self.kind}, seed {self.seed})"

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "samples": self.samples.tolist(),
            "objectives": self.objectives.tolist(),
            "noise_sd": None if self.noise_sd is None else self.noise_sd.tolist(),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Bootstrap":
        """The inverse of `to_dict`."""
        sd = values["noise_sd"]
        return Bootstrap(
            values["kind"],
            values["seed"],
            np.array(values["samples"], np.float64),
            np.array(values["objectives"], np.float64),
            None if sd is None else np.array(sd, np.float64),
        )


def bootstrap(fit: "Fit", n: int, cluster: ArrayLike | bool | None, seed: int, kind: Kind | None) -> Bootstrap:
    """Refit `n` times; see `Fit.bootstrap`. Each refit starts from the fit's own optimum."""
    from scaling.laws.solver import solve

    if n < 2:
        raise UserError(f"bootstrap: n must be at least 2; got {n}")
    groups = _groups(fit, cluster)
    if kind is None:
        kind = "rows" if groups is None else "runs"
    rng = np.random.default_rng(seed)
    problem = fit.problem
    sd, y, weights = None, None, None
    if kind == "noise":
        y, sd = _noisy_losses(fit, n, rng)
    else:
        labels = np.arange(len(problem.y)) if groups is None else groups
        weights = problem.weights * resample_counts(labels, n, len(problem.free) + 1, rng)
    starts = np.broadcast_to(fit.theta, (n, len(fit.theta)))
    solution = solve(problem, starts, y, weights, _drawn_priors(fit, n, rng), tolerance=1e-9)
    return Bootstrap(kind, seed, problem.natural(solution.theta), solution.objective, sd)


def _drawn_priors(fit: "Fit", n: int, rng: np.random.Generator) -> Array | None:
    """Prior means [n, k] drawn from the priors: each refit then answers to data and priors that could have been.

    Randomise, then optimise (Bardsley et al. 2014): for a linear law exactly the posterior.
    """
    if not fit.priors or fit.problem.prior_mean is None:
        return None
    sd = np.array([fit.priors[name].sd if name in fit.priors else 0.0 for name in fit.form.params])
    return fit.problem.prior_mean + sd * rng.standard_normal((n, len(sd)))


def _noisy_losses(fit: "Fit", n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Transformed losses [n, points] of the fitted law with fresh noise, and the noise's standard deviation [n].

    The deviation is itself drawn from what the residuals leave open, s²·ν/χ²(ν) with ν degrees of freedom, which
    makes the intervals of a linear law exactly Student's t.
    """
    freedom = len(fit.runs) - len(fit.problem.free)
    sd = fit.residual_sd * np.sqrt(freedom / rng.chisquare(freedom, n))
    weights = fit.problem.weights
    noise = sd[:, None] / np.sqrt(weights) * rng.standard_normal((n, len(weights)))
    return fit.problem.y + fit.residuals + noise, sd


def resample_counts(groups: NDArray[np.int64], n: int, least: int, rng: np.random.Generator) -> Array:
    """How often each row is drawn when whole groups are drawn with replacement: [n, points].

    groups: number of each row's group, 0 and up. A draw with fewer than `least` different rows cannot carry the fit
    and is drawn again, which matters only for tables of a few rows.
    """
    count = int(groups.max()) + 1
    drawn = np.empty((n, len(groups)))
    todo = np.arange(n)
    for _ in range(100):
        drawn[todo] = rng.multinomial(count, np.full(count, 1.0 / count), len(todo))[:, groups]
        todo = todo[(drawn[todo] > 0).sum(1) < least]
        if not len(todo):
            return drawn
    raise UserError(
        f"bootstrap: {count} groups of {len(groups)} rows are too few to draw from: most draws hold fewer than "
        f"{least} different rows; use kind='noise'"
    )


def interval(values: Array, level: float) -> tuple[Any, Any]:
    """The central share `level` of draws: from the (1−level)/2 to the (1+level)/2 quantile.

    Raises UserError for a level outside (0, 1).
    """
    check_level(level)
    # Draws may be infinite (a minimum that some draws do not have); "lower"/"higher" never subtract infinities.
    low = np.quantile(values, (1 - level) / 2, axis=-1, method="lower")
    high = np.quantile(values, (1 + level) / 2, axis=-1, method="higher")
    return (low, high) if np.ndim(low) else (float(low), float(high))


def check_level(level: float) -> None:
    """Raises UserError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, such as 0.9; got {level!r}")


def _groups(fit: "Fit", cluster: ArrayLike | bool | None) -> NDArray[np.int64] | None:
    """Number of each sorted row's group; None: every row stands for itself."""
    if cluster is False or (cluster is None and fit.runs.run is None):
        return None
    if cluster is None or cluster is True:
        if fit.runs.run is None:
            raise UserError("bootstrap: cluster=True needs runs with a run column: laws.Runs(…, run='name')")
        labels: NDArray[Any] = fit.runs.run
    else:
        labels = np.asarray(cluster).astype(str)
        if labels.shape != (len(fit.runs),):
            raise UserError(f"bootstrap: cluster must hold {len(fit.runs)} labels; got shape {labels.shape}")
        labels = labels[fit.input_order]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
