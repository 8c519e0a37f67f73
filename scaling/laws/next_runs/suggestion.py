"""The next runs to train: those that reduce the uncertainty of a forecast most for their compute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import scaling
from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount, whole
from scaling.laws.fit import Fit, fit
from scaling.laws.forms import Form, get_form
from scaling.laws.next_runs.design import least_variance, variance_after
from scaling.laws.next_runs.predictive_covariance import PredictiveCovariance, predictive_covariance
from scaling.laws.next_runs.target import make_target
from scaling.names import several
from scaling.text import align

if TYPE_CHECKING:
    import pandas as pd

RIVALS = ("chinchilla", "chinchilla_equal", "chinchilla_no_offset")
"""default set of alternative laws"""
GRID = 12
"""default candidates: this many sizes times this many numbers of tokens"""
MARGIN = 2.0
"""factor by which the default candidates reach beyond the runs' N, D and D/N on both sides"""


@dataclass(frozen=True)
class SuggestedRun:
    """A suggested run."""

    N: float
    D: float
    flops: float
    variance_cut: float
    """increase of the target's variance without this run, as a share of the variance before"""


@dataclass(frozen=True, eq=False)
class Suggestion:
    """Runs to add, the largest variance reduction per FLOP first, and their expected effect."""

    target: str
    relative: bool
    """whether the standard deviations are shares of the target (a loss) or in its own unit (an exponent)"""
    runs: tuple[SuggestedRun, ...]
    sd_before: float
    """standard deviation of the target now: within the laws and from their disagreement"""
    sd_after: float
    """expected standard deviation with the suggested runs"""
    sd_law: float
    """the part of `sd_before` due to noise within a law"""
    sd_models: float
    """the part of `sd_before` due to disagreement between separate optima and forms"""
    laws: tuple[tuple[str, float, float], ...]
    """name, weight, and target (a loss, or the exponent) of every law and basin considered"""
    budget: float
    """FLOPs that all runs together may take"""

    @property
    def flops(self) -> float:
        """Total FLOPs of the suggested runs."""
        return sum(run.flops for run in self.runs)

    @property
    def table(self) -> list[dict[str, float]]:
        """One row for each run."""
        return [
            {"N": r.N, "D": r.D, "flops": r.flops, "tokens_per_param": r.D / r.N, "variance_cut": r.variance_cut}
            for r in self.runs
        ]

    def to_dict(self) -> dict[str, Any]:
        """The whole suggestion as JSON values."""
        return {
            "target": self.target,
            "relative": self.relative,
            "sd_before": self.sd_before,
            "sd_after": self.sd_after,
            "sd_law": self.sd_law,
            "sd_models": self.sd_models,
            "budget": self.budget,
            "flops": self.flops,
            "runs": self.table,
            "laws": [{"name": name, "weight": weight, "target": value} for name, weight, value in self.laws],
        }

    def summary(self) -> str:
        """An aligned text."""
        rows = [["run", "N", "D", "D/N", "FLOPs", "variance cut"]]
        for i, run in enumerate(self.runs):
            sizes = [f"{run.N:.4g}", f"{run.D:.4g}", f"{run.D / run.N:.3g}", f"{run.flops:.3g}"]
            rows.append([str(i + 1), *sizes, f"{run.variance_cut:.1%}"])
        size = (lambda sd: f"{sd:.2%}") if self.relative else (lambda sd: f"{sd:.4f}")
        lines = [
            f"runs that reduce the error of {self.target}: standard deviation {size(self.sd_before)} now "
            f"(law {size(self.sd_law)}, models {size(self.sd_models)}), {size(self.sd_after)} expected with them",
            *align(rows),
            f"together {self.flops:.3g} FLOPs, of a budget of {self.budget:.3g}",
            "variance cut: share of the present variance that only this run removes",
        ]
        return "\n".join(lines)

    def to_sweep(self, base: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
        """The configuration of a sweep that trains these runs as a `list` design, as plain values for YAML.

        base: the configuration of the fitted sweep (its `sweep.yaml`): settings shared by its runs are kept, its
        design and forecast are dropped. Sizes count all parameters, as in `laws.from_results`.
        name: of the new sweep; None: the base's with "-suggested".

        Raises UserError where the base is not a sweep, or varies something that a list of sizes and tokens cannot
        express.
        """
        if not {"name", "run", "design"} <= base.keys():
            raise UserError(f"to_sweep: base must be a sweep's configuration; it has {', '.join(base) or 'nothing'}")
        varied = {key for kind in ("axes", "zip") for key in base["design"].get(kind) or {}}
        if other := sorted(varied - {"model.params", "tokens"}):
            raise UserError(
                f"to_sweep: {base['name']} varies {', '.join(other)}; set the value of choice in "
                "`run`, and give that sweep with a design of sizes as base"
            )
        shared = {key: value for key, value in base.items() if key not in ("name", "design", "forecast", "seeds")}
        run = {key: value for key, value in base["run"].items() if key != "tokens"}
        sizes = scaling.ladder.size_keys()
        run["model"] = {key: value for key, value in run.get("model", {}).items() if f"model.{key}" not in sizes}
        points = [{"params": round(r.N), "tokens": round(r.D)} for r in self.runs]
        return {
            "name": name or f"{base['name']}-suggested",
            **shared,
            "run": run,
            "ladder": {**base.get("ladder", {}), "count": "total"},
            "design": {"kind": "list", "points": points},
            "seeds": list(base.get("seeds", (0,)))[:1],
        }


def suggest(
    fit: Fit,
    candidates: "pd.DataFrame | Mapping[str, Any] | Sequence[tuple[float, float]] | None" = None,
    *,
    target: float | str | Mapping[str, float] | None = None,
    budget: float | None = None,
    k: int = 4,
    laws: Sequence[str | Form] | None = None,
) -> Suggestion:
    """The runs, at most k and together within `budget`, that minimise the variance of the forecast at `target`.

    candidates: columns N and D, or pairs (N, D). None: 12 sizes times 12 numbers of tokens, evenly spaced in the
    logarithm, up to a factor of two beyond the runs' own on both sides in N, D and D/N, each within the budget, none
    with fewer FLOPs than the cheapest run and none within 5 % of an existing run.
    target: FLOPs (the loss L* of the compute-optimal model there), "a" (the exponent), or {"N": …, "D": …} (the loss
    of that model). None: L* at 10 times the largest FLOPs of the runs.
    budget: FLOPs of all suggested runs together; None: those of the existing runs. FLOPs of a candidate follow the
    runs' own counts where the table has them, else 6·N·D.
    laws: other laws whose disagreement counts; None: those with E, with α = β, without E. (): none.

    V-optimal design: the law is linearised around the fit, and a new run yields one outcome with the residuals'
    variance. After a bootstrap the draws' variance is used where it is larger than the linearised law's, and separate
    basins among the draws count as laws of their own. Each candidate is suggested at most once.

    Raises UserError where no candidate is within the budget, and for laws of other columns than N, D and C.
    """
    unknown = set(fit.form.columns) - {"N", "D", "C", "M"}
    if unknown or not {"N", "D"} <= fit.runs.values.keys():
        raise UserError(f"suggest: candidates are sizes and tokens; {fit.form.name} also reads {', '.join(unknown)}")
    k = whole(k, "suggest: k", 1)
    aim = make_target(fit, target)
    must = "suggest: budget must be a positive number of FLOPs"
    budget = _spent(fit) if budget is None else amount(budget, must)
    columns = _columns(fit, *_given(default_candidates(fit, budget) if candidates is None else candidates))
    if not (columns["C"] <= budget).any():
        raise UserError(
            f"suggest: no candidate is within the budget of {budget:.4g} FLOPs; the cheapest takes "
            f"{columns['C'].min():.4g}"
        )
    known = predictive_covariance(fit, _rivals(fit, laws, aim.allows), aim, columns)
    runs, after = _chosen(known, columns, budget, k)
    sds = (float(known.matrix[0, 0]), after, float(known.within[0, 0]), float(known.between[0, 0]))
    sd = [float(np.sqrt(max(variance, 0.0))) for variance in sds]
    predictions = tuple((name, weight, float(np.exp(v)) if aim.relative else v) for name, weight, v in known.laws)
    return Suggestion(aim.text, aim.relative, runs, sd[0], sd[1], sd[2], sd[3], predictions, budget)


def _chosen(
    known: PredictiveCovariance, columns: Mapping[str, Array], budget: float, k: int
) -> tuple[tuple[SuggestedRun, ...], float]:
    """The candidates that minimise the variance, and that variance."""
    K, noise, cost = known.matrix, known.noise, columns["C"]
    chosen = least_variance(K, noise, cost, budget, k)
    before, after = float(K[0, 0]), variance_after(K, noise, chosen)
    runs = []
    for i in chosen:
        without = variance_after(K, noise, [j for j in chosen if j != i])
        cut = (without - after) / max(before, 1e-300)
        runs.append(SuggestedRun(float(columns["N"][i]), float(columns["D"][i]), float(cost[i]), cut))
    return tuple(sorted(runs, key=lambda run: -run.variance_cut / run.flops)), after


def _rivals(fitted: Fit, forms: Sequence[str | Form] | None, allows: Any) -> list[Fit]:
    if forms is None:
        forms = RIVALS if fitted.form.name in RIVALS else ()
    known = [form for form in map(get_form, several(forms)) if form.name != fitted.form.name and allows(form)]
    return [fit(fitted.runs, form, loss=fitted.loss, residual=fitted.residual, starts=32) for form in known]


def _spent(fitted: Fit) -> float:
    """FLOPs of the existing runs; of several rows of one run the last counts."""
    flops, run = fitted.runs.flops, fitted.runs.run
    return float(flops.sum() if run is None else sum(flops[run == name].max() for name in np.unique(run)))


def _given(candidates: Any) -> tuple[Array, Array]:
    if hasattr(candidates, "columns") or isinstance(candidates, Mapping):
        missing = [name for name in ("N", "D") if name not in candidates]
        if missing:
            raise UserError(f"suggest: candidates have no column {', '.join(missing)}; they need N and D")
        N, D = (np.asarray(candidates[name], np.float64) for name in ("N", "D"))
    else:
        pairs = np.asarray(candidates, np.float64)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise UserError(f"suggest: candidates must be pairs (N, D); got an array of shape {pairs.shape}")
        N, D = pairs.T
    bad = [i for i in range(len(N)) if not (np.isfinite(N[i]) and np.isfinite(D[i]) and N[i] > 0 and D[i] > 0)]
    if not len(N) or bad:
        raise UserError(
            f"suggest: candidates must be positive and finite; {f'number {bad[0]} is not' if bad else 'none'}"
        )
    return N, D


def _columns(fitted: Fit, N: Array, D: Array) -> dict[str, Array]:
    return {"N": N, "D": D, "C": fitted.runs.per_token(N) * D, "M": D / N}


def default_candidates(fit: Fit, budget: float) -> dict[str, Array]:
    """N and D of the candidates that `suggest` uses by default; see there."""
    runs = fit.runs
    sides = [np.geomspace(x.min() / MARGIN, x.max() * MARGIN, GRID) for x in (runs.N, runs.D)]
    N, D = (side.ravel() for side in np.meshgrid(*sides))
    near = np.abs(np.log(N[:, None] / runs.N)) + np.abs(np.log(D[:, None] / runs.D))
    ratio = runs.D / runs.N
    # Corners of the grid would be the most informative if the law held there: stay where the runs support it.
    inside = (ratio.min() / MARGIN <= D / N) & (ratio.max() * MARGIN >= D / N)
    cost = _columns(fit, N, D)["C"]
    # So would runs cheaper than the cheapest, but there losses fall faster than in any of these laws.
    keep = (near.min(1) > 0.05) & inside & (cost >= runs.flops.min())
    cost = np.where(keep, cost, np.inf)
    keep &= cost <= max(budget, cost.min())  # where the budget allows none, the cheapest tells by how much
    return {"N": N[keep], "D": D[keep]}
