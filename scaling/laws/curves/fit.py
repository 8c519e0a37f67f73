"""Fit a law to whole curves, and predict the curve of another schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.files import number, opened, path_of, read_json, reading, require_whole, sealed
from scaling.laws.arrays import Array
from scaling.laws.curves.curve import LossCurve
from scaling.laws.curves.discrepancy import ONE_SIGMA, ahead, learned, schedules
from scaling.laws.curves.fitted import FittedCurves, PredictedCurve
from scaling.laws.curves.laws import POINT, RATE, CurveLaw, get_curve_law
from scaling.laws.curves.reading import AnyCurves, as_curves
from scaling.laws.curves.text import curve_table, format_curve_table
from scaling.laws.fit import Fit, fit
from scaling.laws.intervals.bootstrap import bootstrap
from scaling.laws.intervals.discrepancy import Discrepancy, Errors
from scaling.laws.intervals.interval import interval
from scaling.laws.solve.diagnostics import Diagnostics
from scaling.laws.solve.draws import Draws
from scaling.laws.solve.objectives import Loss, huber, objective_of
from scaling.laws.solve.priors import Prior, with_priors
from scaling.laws.solve.problem import make_problem
from scaling.laws.table.runs import Runs
from scaling.result import write_text_atomically
from scaling.strict_json import finite, to_json

DRAWS = 400
"""default number of refits, each of which reads every checkpoint of every curve"""
OWN_STARTS, OWN_DRAWS = 8, 60
"""starts and refits of a fit without one of the schedules"""
KIND = "scaling.laws.CurveFit"


@dataclass(frozen=True, eq=False)
class CurveFit(FittedCurves):
    """A law fitted to curves; intervals come from the last draws made by `bootstrap`.

    The interval of a single run includes the form's own error (`discrepancy`); those of the law and of its parameters
    assume that the form is right, which it is not. experiments/curves has the record.
    A fit does not apply to other peak rates, batch sizes, data or (unless the law reads N) model sizes than those
    fitted: its constants depend on them.
    """

    def bootstrap(self, n: int = DRAWS, seed: int = 0) -> Draws:
        """Refit `n` times to the fitted curves plus residuals, multiplied by one random factor per cluster ("wild").

        Errors of a run's checkpoints are correlated, so whole runs are drawn; there are too few runs to leave any
        out.
        """
        # once: the learned error of a law of curves is relative to such draws
        self.fit.draws = bootstrap(self.fit, n, None, seed, "wild", None, once=True)
        return self.fit.draws

    @cached_property
    def discrepancy(self) -> Discrepancy:
        """The form's error in units of `fit.residual_sd`: learned on published curves, updated with the fit's own."""
        known = learned()
        return known.of(self.law.name).sharpened(self.own_cuts, known.worth)

    @cached_property
    def own_cuts(self) -> list[Errors]:
        """Errors at each schedule of the curves, predicted by a fit of the others, where these are enough for the
        law."""
        found, labels = [], schedules(self.curves)
        for label in range(labels.max() + 1):
            rest = [curve for curve, own in zip(self.curves, labels, strict=True) if own != label]
            try:
                _require_curves(rest, self.law, len(rest))
                fitted = self._refitted(rest)
            except UserError:  # a single size is left, or no curve whose rate falls
                continue
            left_out = [curve for curve, own in zip(self.curves, labels, strict=True) if own == label]
            found.append(fitted.errors([curve.after(int(curve.steps[-1])) for curve in left_out]))
        return found

    def errors(self, curves: Sequence[LossCurve]) -> Errors:
        """Errors of the forecasts at the checkpoints of curves, in units of `fit.residual_sd`."""
        unit = self.fit.residual_sd
        predicted = [self._log_loss(curve) for curve in curves]
        error, sd = (np.concatenate(parts) for parts in zip(*predicted, strict=True))
        error = error - np.log(np.concatenate([curve.loss for curve in curves]))
        far = np.concatenate([ahead(self.curves, curve) for curve in curves])
        return Errors(error / unit, sd / unit, np.ones(len(error)), far, np.ones(len(error)))

    def _refitted(self, curves: Sequence[LossCurve]) -> "CurveFit":
        own = self.fit
        fitted = fit_curves(curves, self.law, loss=own.loss, starts=OWN_STARTS, fixed=own.fixed, priors=own.priors)
        fitted.bootstrap(OWN_DRAWS)
        return fitted

    def _log_loss(self, curve: LossCurve) -> tuple[Array, Array]:
        """Log loss at a curve's steps [points], and its standard deviation over the draws."""
        form, runs = _table(self.law, [curve])
        columns = [runs.column(name) for name in form.columns]
        if self.fit.draws is None:
            raise UserError("no interval yet: call bootstrap() first")
        drawn = form.loss(self.fit.draws.samples[:, None, :], columns)
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw may have no loss there
            low, high = interval(np.log(drawn).T, ONE_SIGMA)
        return np.log(form.loss(self.fit.natural, columns)), (high - low) / 2

    def predict(
        self, rates: ArrayLike, steps: ArrayLike | None = None, N: float | None = None, level: float = 0.9
    ) -> PredictedCurve:
        """The loss after `steps` updates (None: 64 of them, spread from the warmup to the end) of a schedule.

        rates: learning rate of each update. N: parameters, where the law reads them.
        Raises UserError for steps in the warmup, which the laws do not cover, and beyond the schedule.
        """
        schedule = LossCurve("the schedule", rates)
        notes = self._notes(schedule, N)
        if steps is None:
            first = min(schedule.warmup + 1, len(schedule.rates))
            steps = np.unique(np.round(np.geomspace(first, len(schedule.rates), 64)).astype(np.int64))
        at = np.sort(np.atleast_1d(np.asarray(steps)))
        curve = LossCurve("the schedule", rates, at, np.ones(len(at)), N)
        form, runs = _table(self.law, [curve])
        columns = [runs.column(name) for name in form.columns]
        loss = form.loss(self.fit.natural, columns)
        draws = self.fit.draws
        if draws is None:
            return PredictedCurve(curve.steps, loss, notes=notes)
        drawn = form.loss(draws.samples[:, None, :], columns)
        low, high = interval(drawn.T, level)
        return PredictedCurve(curve.steps, loss, low, high, level, *self._single_run(curve, level), notes)

    def _single_run(self, curve: LossCurve, level: float) -> tuple[Array, Array]:
        """Ends of the interval of a run's losses, from the law's error, the form's error and the run's own
        scatter."""
        from scipy.special import stdtrit

        centre, sd = self._log_loss(curve)
        unit, known = self.fit.residual_sd, self.discrepancy
        form = unit * known.form_sd(ahead(self.curves, curve))
        half = np.sqrt(known.law_sd(sd) ** 2 + form**2 + unit**2) * stdtrit(learned().freedom, (1 + level) / 2)
        return np.exp(centre - half), np.exp(centre + half)

    def _notes(self, schedule: LossCurve, N: float | None) -> tuple[str, ...]:
        """Notes where a schedule is outside the fitted range."""
        seen: dict[str, tuple[float | None, list[float]]] = {
            "peak rate": (schedule.peak, [curve.peak for curve in self.curves]),
            "number of steps": (len(schedule.rates), [len(curve.rates) for curve in self.curves]),
            "N": (N, [curve.N for curve in self.curves if curve.N is not None] if self.law.reads_N else []),
        }
        return tuple(
            f"its {name}, {value:.6g}, is outside of those fitted, {min(known):.6g} to {max(known):.6g}"
            for name, (value, known) in seen.items()
            if value is not None and known and not 0.999 * min(known) <= value <= 1.001 * max(known)
        )

    def summary(self, level: float = 0.9) -> str:
        """An aligned text: the law, its parameters, how well it fits each curve, and caveats."""
        return format_curve_table(self.table(level))

    def table(self, level: float = 0.9) -> dict[str, Any]:
        """The contents of `summary` as a dictionary: what `scaling fit --json` prints for a law of whole curves."""
        return curve_table(self, None if self.fit.draws is None else self.discrepancy, level)

    def to_dict(self) -> dict[str, Any]:
        """The whole fit as JSON values."""
        given = self.fit.to_dict()
        kept = ("params", "fixed", "priors", "prior_noise", "objective", "residual_sd", "diagnostics", "bootstrap")
        values: dict[str, Any] = {
            "kind": KIND,
            "law": self.law.name,
            "formula": self.law.formula,
            "source": self.law.source,
        }
        values |= {name: given[name] for name in kept} | {"data": {"hash": self.fit.runs.hash}}
        values |= {"discrepancy": None if self.fit.draws is None else asdict(self.discrepancy)}
        return dict(finite(values | {"curves": [curve.to_dict() for curve in self.curves]}))

    def save(self, path: str | Path) -> Path:
        """Write `path` as JSON, atomically."""
        path = path_of(path)
        write_text_atomically(path, to_json(sealed(self.to_dict())))
        return path


def fit_curves(
    curves: AnyCurves,
    law: str | CurveLaw = "multi_power",
    *,
    loss: Loss | str | None = None,
    starts: int = 32,
    fixed: Mapping[str, float] | None = None,
    priors: Mapping[str, Prior] | None = None,
    after: int = 0,
) -> CurveFit:
    """Fit a law to the held-out losses at all checkpoints of some runs, under any schedules.

    curves: of `sweeps.load_curves`, or a table or file as `read_curves` reads; the learning rate of at least one must
    decay, else the reduction is undetermined. Checkpoints in the
    warmup are not used, because the laws do not cover it. Residuals are of log losses, as in both papers.
    law: a name in `laws.CURVE_LAWS`. loss: default huber(1e-3), both papers' objective. fixed: known parameters.
    priors: of parameters; default the law's own (`CurveLaw.priors`), {} for none.
    after: losses before this step are not used, in addition to those of the warmup.

    Raises UserError where the curves are not enough for the law.
    """
    law = get_curve_law(law)
    curves = as_curves(curves)
    used = [curve.after(max(after, curve.warmup + 1)) for curve in curves]
    used = [curve for curve in used if len(curve.steps)]
    _require_curves(used, law, len(curves))
    form, runs = _table(law, used)
    known = (
        {name: prior for name, prior in law.priors.items() if name not in (fixed or {})} if priors is None else priors
    )
    fitted = fit(runs, form, loss=objective_of(loss, huber()), starts=starts, fixed=fixed, priors=known)
    return CurveFit(law, tuple(used), fitted)


def load_curve_fit(path: str | Path) -> CurveFit:
    """Read a saved `CurveFit`. Raises UserError where the file is not one, or was edited."""
    path = path_of(path)
    try:
        with reading(
            path, "a saved fit of whole curves", "make one with `scaling fit --law multi_power`", alone=True
        ):
            values, whole = opened(read_json(path))
            if values.get("kind") != KIND:
                raise ValueError("it does not say that it is one")
            law = get_curve_law(values["law"])
            curves = tuple(LossCurve(**curve) for curve in values["curves"])
            form, runs = _table(law, curves)
            runs, order = runs.sorted(), runs.order()
            objective, draws = values["objective"], values["bootstrap"]
            value = number(objective["value"], "objective")
            problem = make_problem(runs, form, Loss.from_dict(objective), objective["residual"], values["fixed"])
            priors = {name: Prior(**prior) for name, prior in values["priors"].items()}
            problem = with_priors(problem, priors, values["prior_noise"]) if priors else problem
            natural = np.array([values["params"][name] for name in form.params])
            drawn = None if draws is None else Draws.from_dict(require_whole(draws))
            fitted = Fit(problem, runs, natural, Diagnostics.from_dict(values["diagnostics"]), priors, order, drawn)
    except FileNotFoundError:
        raise UserError(f"no file {path}; make one with `scaling fit --law multi_power` or fit.save(path)") from None
    if not np.isclose(fitted.objective, value, rtol=1e-9, atol=1e-25):
        raise UserError(f"{path} was edited: its parameters give {fitted.objective:.9g}, it says {value:.9g}")
    if not whole:
        raise UserError(f"{path} was edited: its contents do not give its seal; fit again with `scaling fit`")
    found = CurveFit(law, curves, fitted)
    if values["discrepancy"] is not None:  # computing it takes further fits
        kept = values["discrepancy"]
        found.__dict__["discrepancy"] = Discrepancy(**{**kept, "own": tuple(kept["own"])})
    return found


def _table(law: CurveLaw, curves: Sequence[LossCurve]) -> tuple[Any, Runs]:
    """The law at the checkpoints of `curves`, and the checkpoints as rows."""
    early = next((c for c in curves if len(c.steps) and c.steps[0] < min(c.warmup + 1, len(c.rates))), None)
    if early is not None:
        raise UserError(
            f"{early.run}: step {early.steps[0]} is in its warmup of {early.warmup} steps, which {law.name} does "
            "not model; ask for later ones"
        )
    if law.reads_N and (lacking := [curve.run for curve in curves if curve.N is None]):
        raise UserError(f"{law.name} reads N, which {lacking[0]} lacks: give its number of parameters, N=…")
    counts = [len(curve.steps) for curve in curves]
    trace = law.trace(curves)
    table: dict[str, Any] = {
        "loss": np.concatenate([curve.loss for curve in curves]),
        "S1": trace.area,
        POINT: np.arange(1.0, len(trace.area) + 1),
        RATE: np.repeat([curve.peak for curve in curves], counts),
        "step": np.concatenate([curve.steps for curve in curves]),
        "run": np.repeat([curve.cluster for curve in curves], counts),
    }
    table |= {"N": np.repeat([curve.N for curve in curves], counts).astype(float)} if law.reads_N else {}
    named: dict[str, Any] = {name: name for name in table if name != "N"}
    runs = Runs(table, N="N" if law.reads_N else None, D=None, **named, trusted=True)
    conventions = dict(item for curve in curves for item in curve.conventions.items())
    for name, value in conventions.items():
        other = next((c for c in curves if c.conventions.get(name, value) != value), None)
        if other is not None:
            raise UserError(f"{other.run}: {name} is {other.conventions[name]}, and {value} of others: not one law")
    return law.form(trace), runs.with_conventions(**conventions)


def _require_curves(curves: Sequence[LossCurve], law: CurveLaw, given: int) -> None:
    if not curves:
        raise UserError(f"{law.name}: none of {given} curves has a loss after its warmup; evaluate during training, "
                        "records.evaluate_every")  # fmt: skip
    if twice := [curve.run for i, curve in enumerate(curves) if curve.run in {c.run for c in curves[:i]}]:
        raise UserError(f"{law.name}: two curves are called {twice[0]}; name each run once")
    sizes = sorted({curve.N for curve in curves if curve.N is not None})
    if len(sizes) > 1 and not law.reads_N:
        raise UserError(
            f"{law.name} is a law of one size, and the curves are of {len(sizes)}, N {sizes[0]:g} to {sizes[-1]:g}: "
            "fit those of one size, or annealing_N, which reads N"
        )
    if len(sizes) == 1 and law.reads_N:
        raise UserError(f"{law.name} needs curves of several sizes; all have N = {sizes[0]:g}: fit annealing")
    if not any((np.diff(c.rates[c.warmup - 1 : c.steps[-1]]) < 0).any() for c in curves):
        raise UserError(
            f"{law.name}: the learning rate falls in none of {len(curves)} curves, so its effect cannot be fitted; "
            "add a run with a cosine or a cooldown"
        )
