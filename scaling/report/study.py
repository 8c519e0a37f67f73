"""A table of runs and a fitted law, from anywhere, as the values that figures are made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scaling import laws
from scaling.errors import UserError
from scaling.laws.quantities import derived
from scaling.report import analysis
from scaling.report.data import Frontier, ReportData, Run, Words
from scaling.report.read import prediction

GRID = 33
"""points of the law's curve"""
QUANTITIES = {
    "C": "training FLOPs C",
    "N": "parameters N",
    "D": "training tokens D",
    "M": "tokens per parameter D/N",
    "loss": "loss",
}


DERIVED = {"a": "a, N* ∝ C^a", "b": "b, D* ∝ C^b", "D*/N*": "D*/N*, tokens per parameter"}


def table(runs: laws.Runs, level: float) -> ReportData:
    """The runs without any law. Raises UserError where they have no parameters or no tokens."""
    missing = [letter for letter in ("N", "D") if letter not in runs.values]
    if missing:
        raise UserError(f"this figure shows N and D; the table of runs names no column {' and '.join(missing)}")
    sigma = [None] * len(runs) if runs.sigma is None else runs.sigma.tolist()
    columns = (values.tolist() for values in (runs.N, runs.D, runs.flops, runs.loss))
    rows = zip(runs.rows, *columns, sigma, strict=True)
    values = [Run(label, "fit", "completed", n, d, c, loss, sem, None) for label, n, d, c, loss, sem in rows]
    return ReportData("", Path(), "", level, values, words=words(runs))


def isoflop(runs: laws.Runs, found: laws.Isoflop, fit: laws.Fit | None) -> ReportData:
    """The runs with their isoFLOP minima and, where a fit is given, the optima by its law."""
    n_curve: Sequence[float] = ()
    d_curve: Sequence[float] = ()
    if fit is not None:
        _, n_curve, d_curve = analysis.frontier(fit, grid(runs), found.level)
    return analysis.with_minima(table(runs, found.level), found, grid(runs), n_curve, d_curve)


def law(
    fit: laws.Fit,
    level: float,
    flops: Sequence[float],
    forecast: laws.Forecast | None = None,
    outcome: laws.Outcome | Mapping[str, float] | None = None,
) -> ReportData:
    """The fit's runs, its frontier at the budgets `flops`, a forecast and what came out."""
    data = table(fit.runs, level)
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
        frontier=frontier(fit, level, flops),
        forecast=None if forecast is None else prediction(forecast),
        words=data.words,
    )


def frontier(fit: laws.Fit, level: float, flops: Sequence[float]) -> Frontier:
    """The least loss at each budget, with its interval after a bootstrap."""
    return analysis.frontier(fit, flops, level)[0]


def grid(runs: laws.Runs, end: float | None = None) -> list[float]:
    """Budgets from the smallest run to `end` FLOPs, or a little beyond the largest."""
    low, high = float(runs.flops.min()), float(runs.flops.max())
    return np.geomspace(low / 1.4, max(1.4 * high, end or 0.0), GRID).tolist()


def words(runs: laws.Runs) -> Words:
    """Titles of axes and the end of captions, from the conventions that the table carries."""
    meanings = dict(runs.conventions)
    shared = [f"{key} {value}" for key, value in meanings.items() if key not in (*QUANTITIES, "run", "sigma")]
    left_out = f", {len(runs.exclusions)} left out with a reason" if runs.exclusions else ""
    said = [f"{len(runs)} runs{left_out}, data {runs.hash}", *shared]
    return Words(
        flops=title(runs, "C"),
        params=title(runs, "N"),
        tokens=title(runs, "D"),
        ratio=title(runs, "M"),
        loss=title(runs, "loss"),
        conventions="; ".join(said) + ".",
    )


def title(runs: laws.Runs, letter: str) -> str:
    """What a quantity is, and by which column or convention."""
    return title_by(runs.conventions, letter)


def title_by(conventions: Mapping[str, str], letter: str) -> str:
    """The same from the conventions alone."""
    name, meaning = QUANTITIES.get(letter, letter), conventions.get(letter, "")
    if not meaning or meaning in (letter, name):
        return name
    if letter == "loss":
        return f"loss ({meaning})" if meaning.lower() != "loss" else "loss"
    return f"{name} ({meaning})"


def derived_title(conventions: Mapping[str, str], name: str) -> str:
    """What a parameter or derived quantity is, and its unit where it has one."""
    if name in DERIVED:
        return DERIVED[name]
    letter = {"L*": "loss", "N*": "N", "D*": "D"}.get(name)
    return name if letter is None else f"{name}, {title_by(conventions, letter)}"


def drawn(fit: laws.Fit, name: str, C: float | None) -> tuple[float, NDArray[np.float64]]:
    """A parameter or derived quantity by the fit, and by each refit of its bootstrap.

    Raises UserError for an unknown name, and for one of a budget without C.
    """
    assert fit.draws is not None
    per_token = fit.runs.flops_per_token() if C is not None and fit.runs.C is not None else None
    own = derived(fit.form, fit.natural, name, C, per_token)
    return float(own), derived(fit.form, fit.draws.samples, name, C, per_token)
