"""How far a fit could have come out otherwise: draws of its parameters, by refitting or from the linearised law.

Which kind for which design, by 200 simulated ladders of 5 budgets × 7 sizes over two decades of C, 0.5 % noise
(tests/test_laws_coverage.py): 90 % intervals of a, N* and L* at 10 times the largest budget held the truth in
  Gaussian noise, l2             "laplace" 90–93 %, "noise" 88–93 %, "rows" 87–91 %, "sandwich" 87–91 %
  t₂ noise, huber or student_t   "laplace" 88–95 %, "sandwich" 87–97 %, "rows" 87–96 %; "noise" is too wide (95–98 %)
  t₂ noise, l1                   "laplace" 88–97 %, "sandwich" and "rows" too wide (up to 98 %)
  checkpoints of one run         "runs" and "sandwich" by run 88–92 %; by row 62–76 %
On 3 budgets × 5 sizes L* is covered less by "laplace" (87–88 %) and "sandwich" (from 83 %), and best by "noise" with
Gaussian (91–93 %) noise; "rows" is too wide there (up to 99 %). "sandwich" alone follows rows that scatter
differently, as digitised and published tables do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.intervals.covariance import covariance
from scaling.laws.solve.priors import drawn_means

if TYPE_CHECKING:
    from scaling.laws.fit import Fit

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Kind = Literal["rows", "runs", "noise"]
Method = Literal["sandwich", "laplace", "nuts"]
SAME_BUDGET = 0.1
"""rows whose FLOPs differ by less than this share are of one budget, as in `laws.isoflop`"""


@dataclass(frozen=True, eq=False)
class Draws:
    """Parameters that the law could have had."""

    kind: Kind | Method
    """what was refitted (rows, whole training runs, noise around the fitted law), or what they were drawn from"""
    seed: int
    samples: Array
    """[n, k], natural parameters in the form's order"""
    objectives: Array
    """[n]: of a bootstrap each on its own data, else on the data"""
    noise_sd: Array | None = None
    """[n], for kind "noise": the standard deviation that each draw's noise was made with"""
    strata: int = 1
    """within how many groups of rows (budgets) the rows or runs were drawn"""
    notes: tuple[str, ...] = ()
    """what to be wary of"""

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        within = f" within {self.strata} strata" if self.strata > 1 else ""
        return f"Draws({len(self)} of {self.kind}{within}, seed {self.seed})"

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "samples": self.samples.tolist(),
            "objectives": self.objectives.tolist(),
            "noise_sd": None if self.noise_sd is None else self.noise_sd.tolist(),
            "strata": self.strata,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Draws":
        """The inverse of `to_dict`."""
        sd = values["noise_sd"]
        return Draws(
            values["kind"],
            values["seed"],
            np.array(values["samples"], np.float64),
            np.array(values["objectives"], np.float64),
            None if sd is None else np.array(sd, np.float64),
            values.get("strata", 1),
            tuple(values.get("notes", ())),
        )


def bootstrap(
    fit: "Fit",
    n: int,
    cluster: ArrayLike | bool | None,
    seed: int,
    kind: Kind | None,
    strata: ArrayLike | Literal["budget"] | None,
) -> Draws:
    """Refit `n` times; see `Fit.bootstrap`. Each refit starts from the fit's own optimum."""
    from scaling.laws.solve.solver import solve

    _require_count(n)
    groups = cluster_of(fit, cluster)
    if kind is None:
        kind = "rows" if groups is None else "runs"
    if kind not in ("rows", "runs", "noise"):
        raise UserError(f"bootstrap: kind must be 'rows', 'runs' or 'noise'; got {kind!r}")
    if kind == "noise" and strata is not None:
        raise UserError(
            "bootstrap: kind='noise' keeps every row, so there are no strata to draw within; drop strata="
        )
    rng = np.random.default_rng(seed)
    problem = fit.problem
    sd, y, weights, layers = None, None, None, None
    if kind == "noise":
        y, sd = _noisy_losses(fit, n, rng)
    else:
        labels = np.arange(len(problem.y)) if groups is None or kind == "rows" else groups
        layers = None if strata is None else _strata(fit, strata)
        weights = problem.weights * resample_counts(labels, n, len(problem.free) + 1, rng, layers)
    starts = np.broadcast_to(fit.theta, (n, len(fit.theta)))
    means = drawn_means(problem, fit.priors, n, rng, fit.natural if kind == "noise" else None)
    solution = solve(problem, starts, y, weights, means, tolerance=1e-9)
    count = 1 if layers is None else int(layers.max()) + 1
    return Draws(kind, seed, problem.natural(solution.theta), solution.objective, sd, count)


def draw(fit: "Fit", method: Method, n: int, seed: int, cluster: ArrayLike | bool | None) -> Draws:
    """Draw `n` times without refitting; see `Fit.draw`."""
    from scaling.laws.intervals import posterior

    _require_count(n)
    if method == "nuts":
        theta, notes = posterior.sample(fit.problem, fit.theta, fit.priors, n, seed)
    elif method in ("sandwich", "laplace"):
        spread = covariance(fit.problem, fit.theta, method, cluster_of(fit, cluster))
        theta, notes = spread.draw(fit.theta, n, np.random.default_rng(seed)), ()
    else:
        raise UserError(f"draw: method must be 'sandwich', 'laplace' or 'nuts'; got {method!r}")
    return Draws(method, seed, fit.problem.natural(theta), fit.problem.objective(theta), notes=notes)


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


def resample_counts(
    groups: Labels, n: int, least: int, rng: np.random.Generator, strata: Labels | None = None
) -> Array:
    """How often each row is drawn when whole groups are drawn with replacement: [n, points].

    groups: number of each row's group, 0 and up; strata: number of each row's stratum, each of whose groups are drawn
    among themselves. A draw with fewer than `least` different rows cannot carry the fit and is drawn again, which
    matters only for tables of a few rows.
    """
    count = int(groups.max()) + 1
    layers = list(_members(groups, np.zeros_like(groups) if strata is None else strata))
    drawn = np.empty((n, len(groups)))
    todo = np.arange(n)
    for _ in range(100):
        times = np.empty((len(todo), count))
        for members in layers:
            share = np.full(len(members), 1.0 / len(members))
            times[:, members] = rng.multinomial(len(members), share, len(todo))
        drawn[todo] = times[:, groups]
        todo = todo[(drawn[todo] > 0).sum(1) < least]
        if not len(todo):
            return drawn
    raise UserError(
        f"bootstrap: {count} groups of {len(groups)} rows are too few to draw from: most draws hold fewer than "
        f"{least} different rows; use kind='noise'"
    )


def _members(groups: Labels, strata: Labels) -> Iterator[Labels]:
    """The groups of each stratum."""
    for stratum in range(int(strata.max()) + 1):
        members = np.unique(groups[strata == stratum])
        outside = np.unique(groups[strata != stratum])
        if shared := len(np.intersect1d(members, outside)):
            raise UserError(
                f"bootstrap: {shared} runs have rows in more than one stratum, so they cannot be drawn within one; "
                "drop strata= or cluster=False"
            )
        yield members


def _strata(fit: "Fit", strata: ArrayLike | Literal["budget"]) -> Labels:
    """Number of each sorted row's stratum."""
    if isinstance(strata, str):
        if strata != "budget":
            raise UserError(f"bootstrap: strata must be 'budget' or {len(fit.runs)} labels; got {strata!r}")
        labels = budgets(fit.runs.flops)
    else:
        labels = _labels(fit, strata, "strata")
    if np.bincount(labels).min() < 2:
        raise UserError(
            f"bootstrap: {(np.bincount(labels) < 2).sum()} of {labels.max() + 1} strata hold a single row, which "
            "every draw would repeat; name strata of two rows or more, or use kind='noise'"
        )
    return labels


def budgets(flops: Array) -> Labels:
    """Number of each row's budget: rows whose FLOPs differ by less than SAME_BUDGET from the least of them."""
    order = np.argsort(flops, kind="stable")
    labels = np.zeros(len(flops), np.int64)
    first, number = flops[order[0]], 0
    for i in order:
        if flops[i] > first * (1 + SAME_BUDGET):
            first, number = flops[i], number + 1
        labels[i] = number
    return labels


def interval(values: Array, level: float) -> tuple[Any, Any]:
    """The central share `level` of draws: from the (1−level)/2 to the (1+level)/2 quantile.

    Raises UserError for a level outside (0, 1).
    """
    check_level(level)
    # Draws may be infinite (a minimum that some draws do not have); "lower"/"higher" never subtract infinities.
    # Of a draw without a number (exponents below zero, no optimum) either end may be true.
    lost = np.isnan(values)
    low = np.quantile(np.where(lost, -np.inf, values), (1 - level) / 2, axis=-1, method="lower")
    high = np.quantile(np.where(lost, np.inf, values), (1 + level) / 2, axis=-1, method="higher")
    return (low, high) if np.ndim(low) else (float(low), float(high))


def check_level(level: float) -> None:
    """Raises UserError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, such as 0.9; got {level!r}")


def cluster_of(fit: "Fit", cluster: ArrayLike | bool | None) -> Labels | None:
    """Number of each sorted row's cluster; None: every row stands for itself."""
    if cluster is False or (cluster is None and fit.runs.run is None):
        return None
    if cluster is None or cluster is True:
        if fit.runs.run is None:
            raise UserError("cluster=True needs runs with a run column: laws.Runs(…, run='name')")
        return np.unique(fit.runs.run, return_inverse=True)[1].astype(np.int64)
    return _labels(fit, cluster, "cluster")


def _labels(fit: "Fit", given: ArrayLike, name: str) -> Labels:
    labels = np.asarray(given).astype(str)
    if labels.shape != (len(fit.runs),):
        raise UserError(f"{name} must hold {len(fit.runs)} labels; got shape {labels.shape}")
    return np.unique(labels[fit.input_order], return_inverse=True)[1].astype(np.int64)


def _require_count(n: int) -> None:
    if n < 2:
        raise UserError(f"n must be at least 2; got {n}")
