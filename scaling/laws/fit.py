"""Fit a law to runs; `Fit` has everything that can be computed from the result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.files import number, opened, path_of, read_json, reading, require_whole, sealed
from scaling.laws.asked import whole
from scaling.laws.forms import FORMS, Form, get_form
from scaling.laws.forms.pooled import pooled
from scaling.laws.intervals.bootstrap import bootstrap
from scaling.laws.intervals.clusters import clusters_of
from scaling.laws.intervals.covariance import Covariance, CovarianceMethod, covariance
from scaling.laws.intervals.draw import draw_parameters
from scaling.laws.intervals.identification import Identification, identify
from scaling.laws.intervals.interval import Interval
from scaling.laws.intervals.prediction import Optimum, PredictedLoss, interval_of, optimum_at, predicted_loss
from scaling.laws.intervals.profile import Profile, profile
from scaling.laws.pooled import SIMULATIONS, Gain, SharingTest, gains, group_of, pool, pooling_of, sharing
from scaling.laws.solve.checks import fixed_values, require_fittable, require_held
from scaling.laws.solve.diagnostics import Diagnostics, diagnose
from scaling.laws.solve.draws import BootstrapKind, DrawMethod, Draws
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.multistart import multistart, starts_of
from scaling.laws.solve.objectives import Loss, Residual, huber, objective_of
from scaling.laws.solve.optimality import polish
from scaling.laws.solve.priors import Prior, with_priors
from scaling.laws.solve.problem import make_problem
from scaling.laws.table.flops_per_token import FlopsPerToken
from scaling.laws.table.given import require_same_rows
from scaling.laws.table.runs import AnyRuns, Runs, as_runs
from scaling.laws.table.words import choice
from scaling.laws.text.fit import fit_table, format_table
from scaling.laws.text.frames import draws_frame, interval_frame, parameter_frame, predicted_frame, to_arviz
from scaling.names import offered
from scaling.result import write_text_atomically
from scaling.strict_json import finite, to_json

if TYPE_CHECKING:
    import pandas as pd


class Fit(FittedLaw):
    """A fitted law; intervals come from the last draws made, by `bootstrap` or `draw`."""

    def bootstrap(
        self,
        n: int = 4000,
        cluster: ArrayLike | bool | None = None,
        seed: int = 0,
        kind: BootstrapKind | None = None,
        strata: ArrayLike | Literal["budget"] | None = None,
    ) -> Draws:
        """Refit `n` resamples; `interval`, `predict` and `optimal` use the last draws made.

        Where the data leave a parameter open (`identified`), the draws spread over all that fits as well.

        cluster: a label for each row, in the order the rows were given; whole clusters are drawn. None: by training
        run where the runs have a run column, else by row. False: by row.
        kind: "rows" or "runs" draw from the data; "noise" draws Gaussian noise of the residuals' own size around the
        fitted law, the better choice for a designed sweep of a few runs, where a resample would lose a whole budget.
        "wild" keeps the residuals and multiplies those of each run (or cluster) by one random factor: for a few runs
        of many rows.
        None: "runs" where rows belong to training runs or clusters ("noise" where there are at most one more of these
        than parameters); else "noise" with fewer than ten rows per parameter; else "rows".
        strata: "budget", or a label for each row: rows or runs are drawn within each budget (rows whose FLOPs agree
        within 10 %) or label, so that no resample loses one. Resamples of m rows of a stratum show (m−1)/m of their
        variance.
        """
        self.draws = bootstrap(self, n, cluster, seed, kind, strata)
        return self.draws

    def draw(
        self, method: DrawMethod = "laplace", n: int = 4000, seed: int = 0, cluster: ArrayLike | bool | None = None
    ) -> Draws:
        """Draw parameters without refitting; `interval`, `predict` and `optimal` use the last draws made.

        method: "laplace" and "sandwich" from Student's t around the fit with that `covariance`; "nuts" from the
        posterior under the likelihood that belongs to the loss, see `posterior.sample` (small problems: seconds).
        cluster: as in `bootstrap`, for "sandwich".
        Raises UserError where the linearised law does not determine a parameter, or the library of NUTS is not
        installed.
        """
        self.draws = draw_parameters(self, method, n, seed, cluster)
        return self.draws

    def covariance(
        self, method: CovarianceMethod = "sandwich", cluster: ArrayLike | bool | None = None
    ) -> Covariance:
        """Covariance of the parameters by the linearised law; see `laws.intervals.covariance` for the methods.

        cluster: as in `bootstrap`; it makes "sandwich" robust to dependence within training runs.
        """
        return covariance(self.problem, self.theta, method, clusters_of(self, cluster))

    def profile(
        self,
        name: str,
        points: int = 41,
        level: float = 0.9,
        C: float | None = None,
        flops_per_token: FlopsPerToken | None = None,
    ) -> Profile:
        """How the best objective rises as a quantity is fixed away from its estimate, and the interval that follows.

        name: a fitted parameter, or a derived quantity as in `interval`, at a budget of `C` FLOPs where it has one.
        points: values to refit at, half on each side. flops_per_token: as in `optimal`.
        Raises UserError for a parameter that was not fitted, and for a derived quantity that the law does not have.
        """
        return profile(self, name, points, level, C, flops_per_token)

    def identified(self, level: float = 0.9) -> dict[str, Identification]:
        """For each fitted parameter, whether the data determine it, by its profile; if not, which runs would.

        Laws with an exponent "a" of N* ∝ C^a have an entry for it, too (where the fit has such an optimum).
        Not identified: the interval does not close, spans more than a decade (positive parameters, a), or includes 0
        (exponents).
        """
        return identify(self, level)

    def interval(
        self, name: str, level: float = 0.9, C: float | None = None, flops_per_token: FlopsPerToken | None = None
    ) -> Interval:
        """Central interval, over the last draws, of a parameter or of a derived quantity.

        name: a parameter; "a" or "b", the exponents of N* ∝ C^a and D* ∝ C^b at C ∝ N·D; "N*", "D*", "L*" or
        "D*/N*" at a budget of `C` FLOPs.
        Raises UserError for an unknown name, and before any draws.
        """
        return interval_of(self, name, level, C, flops_per_token)

    @overload
    def predict(
        self, table: "pd.DataFrame | Mapping[str, ArrayLike]", /, *, level: float = 0.9
    ) -> "pd.DataFrame": ...

    @overload
    def predict(self, table: None = None, /, *, level: float = 0.9, **columns: ArrayLike) -> PredictedLoss: ...

    def predict(self, table: Any = None, /, *, level: float = 0.9, **columns: ArrayLike) -> Any:
        """The law's loss at columns by letter, those that the form reads (N=…, D=…), broadcast together.

        table: alternatively, a DataFrame (or a mapping of columns) with columns named as in the runs or by letter;
        the result is then a DataFrame with the same index.

        With draws there are two intervals: `low`, `high` of the law itself, `run_low`, `run_high` of a single run,
        which scatters around it. Both assume that the form is right: for runs beyond those fitted use
        `laws.Forecaster`.
        Raises UserError where a column that the form reads is missing.
        """
        if table is None:
            return predicted_loss(self, columns, level)
        if columns:
            raise UserError(f"predict: give a table or {', '.join(columns)}=…, not both")
        return predicted_frame(self, table, level)

    def optimal(self, C: float, level: float = 0.9, flops_per_token: FlopsPerToken | None = None) -> Optimum:
        """The N and D that spend C training FLOPs at the least loss, with intervals once there are draws.

        flops_per_token: training FLOPs per token of a model of N parameters; None: 6·N. For a ladder trained with
        this framework pass `fit.runs.flops_per_token()`, which follows the exact count.
        """
        return optimum_at(self, C, level, flops_per_token)

    def to_frame(self, level: float = 0.9) -> "pd.DataFrame":
        """Parameters and exponents by name: value, low and high (after draws), and whether fixed."""
        return parameter_frame(self, level)

    def conf_int(self, level: float = 0.9) -> "pd.DataFrame":
        """Central intervals over the last draws, low and high, of parameters and exponents by name."""
        return interval_frame(self, level)

    def draws_frame(self) -> "pd.DataFrame":
        """The last draws, one a row, with a column for each parameter and exponent."""
        return draws_frame(self)

    def to_arviz(self) -> Any:
        """The last draws as ArviZ reads them, a DataTree with one chain in `posterior`.

        Raises UserError before any draws, and where ArviZ (the extra `arviz`) is not installed.
        """
        return to_arviz(self)

    def __getitem__(self, group: str) -> "Fit":
        """The law of one group of a pooled fit, with its runs and its share of the draws.

        Raises UserError for an unknown group, and for a fit without groups.
        """
        return Fit(*group_of(self, group))

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of a pooled fit, in the order in which the runs name them."""
        return pooling_of(self).groups

    @property
    def shared(self) -> tuple[str, ...]:
        """Parameters that the groups of a pooled fit have in common."""
        return pooling_of(self).shared

    def gain(self, C: float | None = None, level: float = 0.9) -> dict[str, Gain]:
        """The compute multiplier of every group of a pooled fit but the first.

        That is how many times fewer FLOPs it needs for the loss that the first reaches with C at its best N and D.

        C: training FLOPs of the first group; None: the largest that every group has runs of. FLOPs per token of a
        model of N parameters are each group's own, by its runs' column C, and 6·N where there is none.
        Raises UserError unless the law is one of N and D, or of C.
        """
        return gains(self, C, level)

    def test_sharing(self, n: int = SIMULATIONS, seed: int = 0) -> SharingTest:
        """Whether the groups of a pooled fit may share their `shared` parameters: a likelihood-ratio test against a
        law that shares nothing, its level from `n` simulations of the fitted law.

        Raises UserError where nothing is shared.
        """
        return sharing(self, n, seed)

    def summary(self, level: float = 0.9) -> str:
        """An aligned text: the law, its parameters, how well it fits, what to be wary of."""
        return format_table(fit_table(self, level))

    def to_dict(self) -> dict[str, Any]:
        """The whole fit as JSON values: parameters at full precision, None for what is not finite."""
        values = {
            "kind": "scaling.laws.Fit",
            **_law_of(self.form),
            "formula": self.form.formula,
            "source": self.form.source,
            "params": self.params,
            "fixed": self.fixed,
            "priors": {name: asdict(prior) for name, prior in self.priors.items()},
            "prior_noise": self.problem.prior_noise,
            "common_variance": self.problem.common,
            "objective": {"value": self.objective, "residual": self.residual, **self.loss.to_dict()},
            "residual_sd": self.residual_sd,
            "chi2_per_freedom": self.chi2_per_freedom,
            "diagnostics": asdict(self.diagnostics),
            "data": self.runs.to_dict(),
            "bootstrap": None if self.draws is None else self.draws.to_dict(),
        }
        return dict(finite(values))

    def save(self, path: str | Path) -> Path:
        """Write `path` as JSON, atomically."""
        path = path_of(path)
        write_text_atomically(path, to_json(sealed(self.to_dict())))
        return path


def fit(
    runs: AnyRuns,
    law: str | Form = "chinchilla",
    *,
    loss: Loss | str | None = None,
    objective: Loss | str | None = None,
    residual: Residual | None = None,
    starts: int = 64,
    fixed: Mapping[str, float] | None = None,
    priors: Mapping[str, Prior] | None = None,
    group: str | ArrayLike | None = None,
    shared: Sequence[str] = (),
    **columns: Any,
) -> Fit:
    """Fit a law to runs.

    runs: `laws.Runs`, or a DataFrame or the file of a table, whose columns are named as in `laws.Runs`: N="params",
    D="tokens", loss="loss", C="flops", … `loss` then names a column, and the objective is given as `objective`
    (which also works with `laws.Runs`).
    law: a name in `laws.FORMS` or a Form.
    loss: `laws.huber(δ)`, `l1()`, `l2()`, `quantile(q)` or `student_t(ν)`, or a text that `laws.parse_loss` reads;
    default huber(1e-3), Hoffmann et al.'s.
    residual: "log" compares log losses, "raw" losses, "log1p" log(1 + loss); default "log", or "raw" where some are
    not positive.
    starts: published parameters first, then a Sobol sequence.
    fixed: parameters, in the columns' own units, that are taken as known.
    priors: `laws.Prior(mean, sd)` of parameters; their weight follows from the noise of a fit without them.
    group: a column of labels (of the table, or one label per row): one joint fit with a law for each group, whose
    parameters in `shared` are common to all; `fit[label]` is the law of one, see also `Fit.gain` and
    `Fit.test_sharing`.

    Raises UserError where the runs cannot carry the law: too few, or a column that does not vary.
    """
    law = get_form(law)
    if not (loss is None or callable(loss) or isinstance(runs, Runs)):  # callable: an objective, or meant as one
        loss, columns = None, {"loss": loss, **columns}
    runs = _runs_of(runs, law, columns, group)
    loss = objective_of(loss if objective is None else objective, huber())
    residual = residual or ("log" if (runs.loss > 0).all() else "raw")
    if group is not None:
        runs, law = pool(runs, law, group, shared)
    elif shared:
        raise UserError(
            f"{', '.join(shared)} can be shared by several groups only: name their column, "
            f"{choice('group', 'COLUMN')}"
        )
    starts, fixed = whole(starts, "starts", 1), fixed_values(law, fixed)
    priors = {} if priors is None else dict(priors)
    require_fittable(runs, law, residual, fixed, priors)
    runs_sorted = runs.sorted()
    problem = make_problem(runs_sorted, law, loss, residual, fixed)
    problem, solution = multistart(problem, starts_of(problem, runs_sorted.loss, starts), priors)
    best = polish(problem, solution.best) if loss.rounded else solution.best
    require_held(problem, best)
    diagnostics = diagnose(problem, solution, int(solution.total.argmin()), starts, best)
    return Fit(problem, runs_sorted, problem.natural(best), diagnostics, priors, runs.order())


def _runs_of(runs: AnyRuns, form: Form, columns: Mapping[str, Any], group: Any) -> Runs:
    own = dict.fromkeys((*signature(fit).parameters, *signature(Runs).parameters, *form.columns))
    letters = {letter for law in FORMS.values() for letter in law.columns}
    if unknown := [name for name in columns if name not in own and name not in letters]:
        there = [name for name in own if name not in ("runs", "df", "columns", "others")]
        raise UserError(f"laws.fit has no argument {unknown[0]!r}; {offered(unknown[0], there, 'there are ')}")
    if isinstance(runs, Runs):
        return as_runs(runs, **columns)
    if hasattr(runs, "iloc"):
        require_same_rows({"the table": runs, "group": group})
    by = group if isinstance(group, str) else None
    return as_runs(runs, **{"signed": form.signed, "reads": form.columns, "groups": by, **columns})


def load(path: str | Path, law: Form | None = None) -> Fit:
    """A saved fit, with its data and draws.

    law: the law it was made with, where that is one of the user's own (`laws.form`), which a file cannot hold.
    Raises UserError where the file is none, or was edited, and where its law is not known.
    """
    path = path_of(path)
    try:
        with reading(path, "a saved fit", "make one with `scaling fit` or fit.save(path)", alone=True):
            values, whole = opened(read_json(path))
            if values.get("kind") != "scaling.laws.Fit":
                curves = "; ask a fit of whole curves with --schedule" if "curves" in values else ""
                raise ValueError(f"it does not say that it is a fit of runs{curves}")
            law, objective, draws = _saved_form(path, values, law), values["objective"], values["bootstrap"]
            _require_numbers(path, {**values["params"], "objective": objective["value"]})
            runs = Runs.from_dict(values["data"])
            loss, fixed = Loss.from_dict(objective), values.get("fixed", {})
            priors = {name: Prior(**prior) for name, prior in values.get("priors", {}).items()}
            common = number(values.get("common_variance", 0.0), "common_variance")
            problem = make_problem(runs, law, loss, objective["residual"], fixed, common)
            fitted = Fit(
                with_priors(problem, priors, values["prior_noise"]) if priors else problem,
                runs,
                np.array([values["params"][name] for name in law.params]),
                Diagnostics.from_dict(values["diagnostics"]),
                priors,
                np.arange(len(runs)),
                None if draws is None else Draws.from_dict(require_whole(draws)),
            )
    except FileNotFoundError:
        raise UserError(f"no file {path}; make one with `scaling fit` or fit.save(path)") from None
    if not np.isclose(fitted.objective, objective["value"], rtol=1e-9, atol=1e-25):
        raise UserError(
            f"{path} was edited: its parameters give {fitted.objective:.9g}, it says {objective['value']:.9g}"
        )
    if not whole:
        raise UserError(f"{path} was edited: its contents do not give its seal; fit again with `scaling fit`")
    return fitted


def _law_of(form: Form) -> dict[str, Any]:
    """The law's registered name, and the groups and shared parameters of a pooled law."""
    if form.pooling is None:
        return {"law": form.name}
    together = {"groups": list(form.pooling.groups), "shared": list(form.pooling.shared)}
    return {"law": form.pooling.base.name, "pooled": together}


class _NotUsable(UserError):
    """A saved fit that is intact, but of an unregistered law or with parameters that are not finite."""


def _require_numbers(path: str | Path, values: Mapping[str, float | None]) -> None:
    if lost := [name for name, value in values.items() if value is None or not np.isfinite(value)]:
        raise _NotUsable(
            f"{path} holds no law: its {', '.join(lost)} is not finite, for the runs left it open; fit again with "
            "`scaling fit`"
        )


def _saved_form(path: str | Path, values: Mapping[str, Any], form: Form | None) -> Form:
    """The law of a saved fit: `form` where it is given, else the registered one of that name."""
    law, params = values["law"], tuple(values["params"])
    if form is None and law not in FORMS:
        raise _NotUsable(
            f"{path} is a fit of {law!r}, which is not one of laws.FORMS; pass the law it was made with: "
            "laws.load(path, law=laws.form(…))"
        )
    form = form or FORMS[law]
    if together := values.get("pooled"):
        form = pooled(form, together["groups"], together["shared"])
        law = form.name
    if (form.name, form.params) != (law, params):
        raise _NotUsable(
            f"{path} is a fit of {law!r} with {', '.join(params)}; the form given is {form.name!r} with "
            f"{', '.join(form.params)}"
        )
    return form
