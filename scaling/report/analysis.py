"""The laws' side of a report: isoFLOP minima, power laws, the parametric law and its frontier, as plain values."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from scaling import laws
from scaling.errors import UserError
from scaling.laws.intervals import interval
from scaling.laws.isoflop import FittedPowerLaw, MinimumMethod
from scaling.report.data import CurveLawShown, Frontier, IsoflopCurve, Law, Minimum, OptimumCurve, ReportData, Run
from scaling.units import si

GRID = 25
"""points of each law's curve"""
DRAWN: dict[MinimumMethod, str] = {
    "skewed": "a parabola in log N that may be steeper on one side",
    "parabola": "a parabola in log N",
    "akima": "an Akima spline in log N",
}
"""what is drawn through the runs of a budget"""


def analysed(
    data: ReportData,
    table: laws.Runs,
    saved: laws.Fit | None = None,
    *,
    quick: bool = False,
    designed: bool = True,
) -> ReportData:
    """`data` with the isoFLOP analysis and the parametric law of the runs in `table`, where there are enough runs.

    saved: the sweep's own fit, whose law is drawn.
    quick: without the law's summary, whose profiles take most of the time.
    designed: the runs are a sweep's; other runs must form budgets (see `laws.try_isoflop`).
    """
    data = replace(data, exclusions=[(exclusion.row, exclusion.reason) for exclusion in table.exclusions])
    fit, notes = _fit(data, table, saved)
    grid = _grid(data, table)
    if fit is not None:
        data = replace(data, law=_law(data, fit, quick=quick))
        if set(fit.form.columns) == {"N", "D"}:
            data = replace(data, frontier=sampled_frontier(fit, grid, data.level))
    try:
        if saved is not None and not saved.form.of_sizes:
            raise UserError(f"the runs of {saved.form.name} differ in more than sizes and tokens")
        if not (designed or table.form_budgets()):
            raise UserError("the runs form no budgets of several sizes")
        found = laws.isoflop(table, level=data.level)
    except UserError as error:
        return replace(data, missing=[*data.missing, *notes, f"No isoFLOP analysis: {error}."])
    data = with_minima(data, found, grid)
    notes += [f"IsoFLOP analysis: {note}." for note in found.notes]
    if data.n_law is None:
        count = sum(curve.interior for curve in data.isoflops)
        notes.append(
            f"No power law through the isoFLOP minima: {count} of {len(data.isoflops)} can be used, two are needed."
        )
    return replace(data, missing=[*data.missing, *notes])


def with_minima(data: ReportData, found: laws.Isoflop, grid: Sequence[float]) -> ReportData:
    """`data` with the isoFLOP minima of its runs and the power laws through them at the budgets `grid`.

    Beside them N* and D* by the parametric law, where `data` has its frontier, which is at these budgets.
    """
    n_law = d_law = None
    if found.N_law is not None and found.D_law is not None:
        best = data.frontier
        n_law = _optimum_curve("N*", found.N_law, grid, data.level, best.n if best else ())
        d_law = _optimum_curve("D*", found.D_law, grid, data.level, best.d if best else ())
    drawn = DRAWN[found.method]
    return replace(data, isoflops=isoflop_curves(found, data.runs), n_law=n_law, d_law=d_law, curves_are=drawn)


def with_curve_law(data: ReportData, home: Path) -> ReportData:
    """`data` with the law of whole curves in `curves.fit.json` of the sweep's folder, where there is one."""
    path = home / "curves.fit.json"
    if not path.exists():
        return data
    try:
        fitted = laws.load_curve_fit(path)
    except UserError as error:
        return replace(data, missing=[*data.missing, f"No law of whole curves: {error}."])
    ratios = {run: np.exp(residuals) for run, residuals in fitted.residuals().items()}
    curves = [(c.run, c.steps.tolist(), c.loss.tolist(), (c.loss * ratios[c.run]).tolist()) for c in fitted.curves]
    return replace(data, curve_law=CurveLawShown(fitted.summary(data.level), curves))


def saved_fit(home: Path) -> tuple[laws.Fit | None, list[str]]:
    """`fit.json` of the sweep in the folder `home`, and what to say where it is no fit."""
    path = home / "fit.json"
    try:
        return (laws.load(path) if path.exists() else None), []
    except UserError as error:
        return None, [f"The law was fitted again: {error}."]


def _fit(data: ReportData, table: laws.Runs, saved: laws.Fit | None) -> tuple[laws.Fit | None, list[str]]:
    """The saved fit if it is one of these runs, else its law fitted to them; the law of a forecast where it has an
    optimum, or none is saved."""
    notes = []
    if saved is not None and saved.runs.hash == table.hash:
        return saved, _open(saved)
    if saved is not None:
        notes.append("fit.json was made from different runs, so the law was fitted again.")
    try:
        if saved is None or saved.form.frontier is not None:
            fitted = laws.Forecaster(table, level=data.level).fit
        else:
            fitted = laws.fit(table, saved.form, loss=saved.loss, residual=saved.residual)
    except UserError as error:
        return None, [*notes, f"No parametric law: {error}."]
    return fitted, [*notes, *_open(fitted)]


def _open(fit: laws.Fit) -> list[str]:
    """Warnings about a law that the runs do not determine."""
    if not (names := " and ".join(fit.diagnostics.unbounded)):
        return []
    return [f"No usable law: the runs do not determine {names}, which diverged to the limits of floating point; add "
            "sizes or budgets."]  # fmt: skip


def _grid(data: ReportData, table: laws.Runs) -> list[float]:
    """Budgets at which laws are drawn: from the smallest run to beyond the forecast."""
    ends = [*table.flops.tolist(), *([data.forecast.flops] if data.forecast else [])]
    return np.geomspace(min(ends) / 1.4, max(ends) * 1.6, GRID).tolist()


def _law(data: ReportData, fit: laws.Fit, *, quick: bool) -> Law:
    by_row = {(run.run_id, run.loss): run for run in data.runs}  # labels alone may be there twice
    by_label = {run.run_id: run for run in data.runs}  # what a law predicts may be another thing than the run's loss
    drawn = fit.draws is not None
    exponent = float(fit.form.frontier(fit.natural)[0]) if fit.form.frontier is not None else None
    percent = 100 * (fit.runs.loss / fit.fitted() - 1)
    tests = [
        (run, 100 * (run.loss / float(fit.predict(N=run.params, D=run.tokens, C=run.flops).loss) - 1))
        for run in data.tests
        if run.loss is not None and fit.form.predicts.in_unit and set(fit.form.columns) <= {"N", "D", "C"}
    ]
    values = ", ".join(f"{name} {value:.4g}" for name, value in fit.params.items())
    return Law(
        formula=f"{fit.form.formula}, {values}",
        exponent=exponent,
        interval=fit.interval("a", data.level) if drawn and exponent is not None else None,
        summary="" if quick else fit.summary(data.level),
        residuals=[
            (by_row.get((row, loss)) or by_label[row], float(value))
            for row, loss, value in zip(fit.runs.rows, fit.runs.loss.tolist(), percent, strict=True)
        ],
        test_residuals=tests,
        of=fit.form.predicts.column,
    )


def sampled_frontier(fit: laws.Fit, grid: Sequence[float], level: float) -> Frontier:
    """The least loss at each budget, with its interval after a bootstrap, and the N and D that reach it."""
    per_token = fit.runs.flops_per_token() if fit.runs.C is not None else None
    best = [fit.optimal(C, level, per_token) for C in grid]
    bounds = [optimum.loss_interval for optimum in best if optimum.loss_interval is not None]
    return Frontier(
        flops=grid,
        loss=[optimum.loss for optimum in best],
        low=[low for low, _ in bounds],
        high=[high for _, high in bounds],
        n=[optimum.N for optimum in best],
        d=[optimum.D for optimum in best],
    )


def isoflop_curves(found: laws.Isoflop, runs: Sequence[Run]) -> list[IsoflopCurve]:
    """The curve of each budget of an isoFLOP analysis, with its runs."""
    by_row = {(run.run_id, run.params, run.loss): run for run in runs}  # labels alone may be there twice
    curves = []
    for budget in found.budgets:
        minimum, ends = None, [float(budget.N.min()), float(budget.N.max())]
        if np.isfinite(budget.N_opt):
            minimum = Minimum(
                budget.N_opt,
                budget.D_opt,
                budget.loss_opt,
                budget.N_interval,
                budget.D_interval,
                budget.loss_interval,
            )
            reach = (ends[1] / ends[0]) ** 0.5  # a minimum far outside says no more than that it is outside
            ends.append(float(np.clip(budget.N_opt, ends[0] / reach, ends[1] * reach)))
        n = np.geomspace(min(ends) / 1.05, max(ends) * 1.05, 60)
        shown = [by_row[row] for row in zip(budget.rows, budget.N.tolist(), budget.loss.tolist(), strict=True)]
        curves.append(IsoflopCurve(budget.C, shown, n.tolist(), budget.curve(n).tolist(), minimum, budget.counts,
                              _why_not(budget.verdict, budget.advice)))  # fmt: skip
    return curves


def _why_not(verdict: str, advice: Sequence[float]) -> str:
    """Why a minimum does not count, and which sizes would settle it; empty where it counts."""
    if verdict == "interior":
        return ""
    why = "the curve is not convex" if verdict == "not convex" else f"the minimum is {verdict}"
    return f"{why}; sizes to add: {', '.join(si(size) for size in advice)}"


def _optimum_curve(
    symbol: Literal["N*", "D*"], law: FittedPowerLaw, grid: Sequence[float], level: float, parametric: Sequence[float]
) -> OptimumCurve:
    bands = [interval(law.drawn(C), level) for C in grid]
    return OptimumCurve(
        symbol,
        law.exponent,
        law.exponent_interval,
        grid,
        [law(C) for C in grid],
        [low for low, _ in bands],
        [high for _, high in bands],
        parametric,
    )
