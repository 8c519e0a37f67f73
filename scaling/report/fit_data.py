"""A table of runs and a fitted law, from anywhere, as the values that figures are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from scaling import laws
from scaling.errors import UserError
from scaling.report import analysis
from scaling.report.data import ReportData, Run
from scaling.report.titles import titles_of

GRID = 33
"""points of the law's curve"""


def runs_data(runs: laws.Runs, level: float) -> ReportData:
    """The runs without any law. Raises UserError where they have no parameters or no tokens."""
    missing = [letter for letter in ("N", "D") if letter not in runs.values]
    if missing:
        raise UserError(f"this figure shows N and D; the table of runs names no column {' and '.join(missing)}")
    return table_data(runs, level)


def table_data(runs: laws.Runs, level: float) -> ReportData:
    """The same, with NaN for parameters, tokens and FLOPs that the table does not have."""
    sigma = [None] * len(runs) if runs.sigma is None else runs.sigma.tolist()
    known = {"C": runs.flops, **runs.values} if {"N", "D"} <= set(runs.values) else runs.values
    columns = [known.get(letter, np.full(len(runs), np.nan)).tolist() for letter in ("N", "D", "C", "loss")]
    names = [""] * len(runs) if runs.run is None else runs.run.tolist()
    rows = zip(runs.rows, *columns, sigma, names, strict=True)
    values = [
        Run(label, "fit", "completed", n, d, c, loss, sem, None, name=name)
        for label, n, d, c, loss, sem, name in rows
    ]
    return ReportData("", Path(), "", level, values, titles=titles_of(runs))


def isoflop_data(runs: laws.Runs, found: laws.Isoflop, fit: laws.Fit | None) -> ReportData:
    """The runs with their isoFLOP minima and, where a fit is given, the optima by its law."""
    grid = flops_grid(runs)
    data = runs_data(runs, found.level)
    if fit is not None:
        data = replace(data, frontier=analysis.sampled_frontier(fit, grid, found.level))
    return analysis.with_minima(data, found, grid)


def fit_data(
    fit: laws.Fit,
    level: float,
    flops: Sequence[float],
    forecast: laws.Forecast | None = None,
    outcome: laws.Outcome | Mapping[str, float] | None = None,
) -> ReportData:
    """The fit's runs, its frontier at the budgets `flops`, a forecast and its outcome."""
    data = runs_data(fit.runs, level)
    tests: list[Run] = []
    if outcome is not None:
        if forecast is None:
            raise UserError("an outcome is shown beside its forecast: give both")
        if isinstance(outcome, laws.Outcome) and outcome.forecast_hash != forecast.hash:
            raise UserError(f"the outcome belongs to forecast {outcome.forecast_hash[:8]}, not {forecast.hash[:8]}")
        losses = outcome.losses if isinstance(outcome, laws.Outcome) else outcome
        f = forecast
        tests = [Run(name, "test", "completed", f.N, f.D, f.flops, loss, None, None) for name, loss in losses.items()]
    return ReportData(
        data.name,
        data.folder,
        data.subtitle,
        level,
        [*data.runs, *tests],
        frontier=analysis.sampled_frontier(fit, flops, level),
        forecast=forecast,
        titles=data.titles,
    )


def flops_grid(runs: laws.Runs, end: float | None = None) -> list[float]:
    """Budgets from the smallest run to `end` FLOPs, or a little beyond the largest."""
    low, high = float(runs.flops.min()), float(runs.flops.max())
    return np.geomspace(low / 1.4, max(1.4 * high, end or 0.0), GRID).tolist()
