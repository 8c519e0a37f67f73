"""Which law fits best, and which one predicts best."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.fit import Fit, fit
from scaling.laws.forms import Form, get_form
from scaling.laws.solve.likelihood import Likelihood, akaike_weights, likelihood
from scaling.laws.solve.objectives import Loss, Residual, l2, objective_of, student_t
from scaling.laws.solve.priors import Prior
from scaling.laws.table.runs import AnyRuns, Runs, as_runs
from scaling.laws.validate.backtest import Backtest, backtest, default_cuts
from scaling.names import several
from scaling.text import align

HEAVY = 1.0
"""excess kurtosis (0 for a Gaussian) from which another density is tried"""


@dataclass(frozen=True, eq=False)
class ComparedLaw:
    """One law among those compared."""

    fit: Fit
    likelihood: Likelihood
    backtest: Backtest | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Laws fitted to the same runs with the same objective, ordered by backtest error, or by AIC without a
    backtest."""

    entries: tuple[ComparedLaw, ...]
    notes: tuple[str, ...]

    @property
    def order(self) -> tuple[str, ...]:
        """Names of the laws: by their root mean square error in the backtest, or by AIC where there is none."""
        return tuple(entry.fit.form.name for entry in self.entries)

    @property
    def weights(self) -> dict[str, float]:
        """Akaike weights: the laws' shares of exp(−ΔAICc / 2), or of AIC where AICc is infinite for one of them."""
        return dict(zip(self.order, akaike_weights([entry.likelihood for entry in self.entries]), strict=True))

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row for each law: its likelihood and criteria beside the backtest's scores."""
        least, weights = min(entry.likelihood.aic for entry in self.entries), self.weights
        return [
            {
                "form": entry.fit.form.name,
                "objective": entry.fit.objective,
                "parameters": entry.likelihood.parameters,
                "log_likelihood": entry.likelihood.value,
                "aic": entry.likelihood.aic,
                "delta_aic": entry.likelihood.aic - least,
                "aicc": entry.likelihood.aicc if np.isfinite(entry.likelihood.aicc) else None,
                "bic": entry.likelihood.bic,
                "weight": weights[entry.fit.form.name],
                "backtest": None if entry.backtest is None else asdict(entry.backtest.score),
            }
            for entry in self.entries
        ]

    def to_dict(self) -> dict[str, Any]:
        """The whole comparison as JSON values."""
        first = self.entries[0]
        return {
            "density": first.likelihood.density,
            "objective": {"residual": first.fit.residual, **first.fit.loss.to_dict()},
            "rows": first.likelihood.rows,
            "table": self.table,
            "cuts": None if first.backtest is None else [cut.cut for cut in first.backtest.cuts],
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """An aligned text."""
        rows = [["", "k", "log L", "ΔAIC", "ΔAICc", "ΔBIC", "weight", "backtest rmse", "bias", "inside"]]
        table = self.table
        least = [min(np.inf if row[name] is None else row[name] for row in table) for name in ("aicc", "bic")]
        for row in table:
            aicc = "—" if row["aicc"] is None else f"{row['aicc'] - least[0]:.1f}"
            score = row["backtest"]
            tested = (
                ["—"] * 3
                if score is None
                else [f"{score['rmse']:.2%}", f"{score['bias']:+.2%}", f"{score['coverage']:.0%}"]
            )
            cells = [str(row["parameters"]), f"{row['log_likelihood']:.2f}", f"{row['delta_aic']:.1f}", aicc]
            rows.append([row["form"], *cells, f"{row['bic'] - least[1]:.1f}", f"{row['weight']:.2g}", *tested])
        density = self.entries[0].likelihood.density
        return "\n".join([f"likelihood: {density}", *align(rows), *(f"note: {note}" for note in self.notes)])


def compare(
    runs: AnyRuns,
    laws: Sequence[str | Form],
    *,
    loss: Loss | str | None = None,
    residual: Residual = "log",
    starts: int = 64,
    test: bool = True,
    cuts: Sequence[float] | None = None,
    level: float = 0.9,
    n: int = 300,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    priors: Mapping[str, Prior] | None = None,
) -> Comparison:
    """Compare laws by the likelihood that corresponds to the objective (AIC, AICc, BIC), and by backtest.

    Laws are ordered by backtest error where there are backtests; a note says if AIC puts another law first.

    loss: the objective, which determines the density: l2, the default, Gaussian with σ fitted; l1 Laplace;
    student_t(ν) Student's t; huber(δ) the normalised exp(−ρ/τ), with τ fitted and δ fixed; see `solve.likelihood`.
    The density's scale counts as a parameter. A note says if residuals have heavier tails than a Gaussian, so that
    Student's t is likelier and puts another law first.
    test: whether to backtest too, at `cuts` (None: those of the law with most parameters), see `laws.backtest`.
    fixed, priors: as in `laws.fit`, for every law that has a parameter of that name, in fits and backtests. Fixed
    parameters are not counted; the likelihood is that of the runs alone, at the fit with its priors.

    Raises UserError for fewer than two laws, for a name that none of them has, and where a law cannot be fitted.
    """
    runs = as_runs(runs)
    known = list({form.name: form for form in map(get_form, several(laws))}.values())
    if len(known) < 2:
        raise UserError(
            f"compare: at least two different laws; got {', '.join(form.name for form in known) or 'none'}"
        )
    loss = objective_of(loss, l2())
    known_before = _known_before(known, fixed or {}, priors or {})
    by = "flops"
    if test and cuts is None:
        by, cuts = _cuts(runs, known, fixed or {})
    notes = [] if cuts or not test else ["too few runs for a backtest"]
    entries = []
    for form in known:
        options: dict[str, Any] = {"loss": loss, "residual": residual, "starts": starts, **known_before[form.name]}
        fitted = fit(runs, form, **options)
        tested = None
        if test and cuts:
            tested = backtest(runs, form, by=by, cuts=cuts, level=level, n=n, seed=seed, **options)
        entries.append(ComparedLaw(fitted, likelihood(fitted), tested))
        notes += [f"{form.name}: {name} ended where it has no effect" for name in fitted.diagnostics.at_bounds]
    by_aic = sorted(entries, key=lambda entry: entry.likelihood.aic)
    notes += _tails(by_aic, starts) if loss.kind == "l2" else []
    entries = sorted(by_aic, key=_rank)
    notes += _disagree(by_aic[0], entries[0])
    if runs.run is not None and len(np.unique(runs.run)) < len(runs):
        notes.append("rows of one run are not independent, but the likelihood treats them as if they were")
    return Comparison(tuple(entries), tuple(notes))


def _cuts(runs: Runs, forms: Sequence[Form], fixed: Mapping[str, float]) -> tuple[str, Sequence[float]]:
    """The quantity to cut by, FLOPs or a column, and the cuts, for the law with most parameters."""
    letter = "C" if {"C"} <= runs.values.keys() or {"N", "D"} <= runs.values.keys() else forms[0].columns[0]
    free = max(len(form.free(fixed)) for form in forms)
    return "flops" if letter == "C" else letter, default_cuts(runs.column(letter), free)


def _rank(entry: ComparedLaw) -> float:
    return entry.likelihood.aic if entry.backtest is None else entry.backtest.score.rmse


def _disagree(by_aic: ComparedLaw, by_backtest: ComparedLaw) -> list[str]:
    """A note where the likelier law predicts worse."""
    if by_aic is by_backtest or by_aic.backtest is None or by_backtest.backtest is None:
        return []
    likely, better = by_aic.backtest.score.rmse, by_backtest.backtest.score.rmse
    return [
        f"AIC ranks {by_aic.fit.form.name} first, the backtest {by_backtest.fit.form.name}: rms errors on unseen "
        f"runs {likely:.2%} and {better:.2%}"
    ]


def _known_before(
    forms: Sequence[Form], fixed: Mapping[str, float], priors: Mapping[str, Prior]
) -> dict[str, dict[str, Any]]:
    """For each law, the entries of `fixed` and `priors` that name its parameters."""
    params = {name for form in forms for name in form.params}
    for what, names in (("fixed", fixed), ("priors", priors)):
        if unknown := [name for name in names if name not in params]:
            laws = "; ".join(f"{form.name} has {', '.join(form.params)}" for form in forms)
            raise UserError(f"compare: {what}: none of the laws has {', '.join(unknown)}: {laws}")
    return {
        form.name: {
            "fixed": {name: value for name, value in fixed.items() if name in form.params},
            "priors": {name: prior for name, prior in priors.items() if name in form.params},
        }
        for form in forms
    }


def _tails(entries: Sequence[ComparedLaw], starts: int) -> list[str]:
    """A note on the order under Student's t, where the best law's residuals are not Gaussian."""
    from scipy.stats import kurtosis

    first = entries[0].fit
    if kurtosis(first.residuals * np.sqrt(first.problem.weights)) < HEAVY:
        return []
    found = {}
    for entry in entries:
        own = entry.fit
        options: dict[str, Any] = {"residual": own.residual, "fixed": own.fixed, "priors": own.priors}
        refit = fit(own.runs, own.form, loss=student_t(), starts=starts, **options)
        found[own.form.name] = likelihood(refit).aic
    best = min(found, key=found.__getitem__)
    gain = entries[0].likelihood.aic - found[best]
    if gain <= 0 or best == first.form.name:
        return []
    lead = found[first.form.name] - found[best]
    return [
        f"the residuals have heavy tails: with Student's t (AIC lower by {gain:.0f}) {best} is first, "
        f"{first.form.name} {lead:.1f} behind; use loss=laws.student_t()"
    ]
