"""Figures about a fitted law: residuals, profile, bootstrap cloud, frontier and forecast fan, as values."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling import laws
from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.forms.form import GROUP
from scaling.laws.intervals import interval
from scaling.laws.quantities import quantity
from scaling.report.data import Frontier, ReportData, frozen_on
from scaling.report.figures.marks import MANY, forecast_point, runs_as_points
from scaling.report.figures.spec import Axis, Band, Color, FigureSpec, Line, Mark, Panel, Points
from scaling.report.figures.sweep import loss_figure
from scaling.report.titles import derived_title, title, titles_of
from scaling.text import percent
from scaling.units import Scale, power, si

SHADES = 6
"""model sizes whose curves are drawn under the frontier"""
CURVE = 80
"""points of a law's curve"""
SCALES: dict[str, Scale] = {"C": "power", "N": "si", "D": "si", "M": "si", "N*": "si", "D*": "si", "D*/N*": "si"}


def column_residuals_figure(fit: laws.Fit) -> FigureSpec:
    """How far each run lies from the law, against everything that the table knows of it."""
    runs = fit.runs
    percent = 100 * (runs.loss / fit.fitted() - 1)
    reach = 1.15 * float(max(np.abs(percent).max(), 1e-9))
    sizes = runs.values.get("N", runs.column(fit.form.columns[0]))
    bars = np.zeros((len(runs), 0, 2))
    if runs.sigma is not None:
        sem = 100 * runs.sigma / fit.fitted()
        bars = np.stack([percent - sem, percent + sem], -1)[:, None]
    panels = []
    for i, letter in enumerate(_letters(fit)):
        x = runs.column(letter)
        limits = _widened(x, 1.25)
        trend = _running_median(x, percent)
        marks: list[Mark] = [Line(limits, (0.0, 0.0), "muted", "", 1.2)]
        for name, rows, color in _kinds(fit, sizes):
            texts = _texts(fit, percent, rows)
            ends = [(low, high) for low, high in bars[rows].reshape(-1, 2).tolist()]
            size = 6.0 if len(runs) <= MANY else 4.5
            marks.append(
                Points(x[rows].tolist(), percent[rows].tolist(), color, name, size=size, y_interval=ends, hover=texts)
            )
        if trend is not None:
            marks.append(Line(*trend, "forecast", "running median", 2.2, front=True))
        shaded = i % 2 and fit.form.pooling is None
        panels.append(
            Panel(
                "",
                Axis(title(runs, letter), SCALES.get(letter, "si"), log=True, limits=limits),
                Axis("loss above the law (%)", "percent", limits=(-reach, reach)),
                marks,
                colors=_scale("N" if "N" in runs.values else fit.form.columns[0], sizes) if shaded else None,
            )
        )
    objective = fit.loss.kind + (f" δ={fit.loss.delta:g}" if fit.loss.delta is not None else "")
    caption = (
        f"Actual over predicted loss, minus 1. {_formula(fit)}, by {objective} on {fit.residual} residuals. "
        f"A law that fits leaves no trend in any panel."
    )
    return FigureSpec("Residuals of the law", caption, panels, titles_of(runs).conventions)


def one_column_figure(fit: laws.Fit, level: float) -> FigureSpec:
    """A law of one quantity over its runs, with its interval after a bootstrap."""
    runs, (letter,) = fit.runs, fit.form.columns
    x = runs.column(letter)
    grid = np.geomspace(*_widened(x, 1.25), CURVE)
    predicted = fit.predict(level=level, **{letter: grid})
    marks: list[Mark] = [
        Line(grid.tolist(), np.asarray(predicted.loss).tolist(), "law", fit.form.name, 2.2, hover=fit.form.name),
        Points(x.tolist(), runs.loss.tolist(), "ink", "runs", hover=list(runs.rows)),
    ]
    if fit.draws is not None:
        edges = np.asarray(predicted.low).tolist(), np.asarray(predicted.high).tolist()
        marks.insert(0, Band(grid.tolist(), *edges, "law", f"{percent(level)} interval of the law"))
    axes = (
        Axis(title(runs, letter), SCALES.get(letter, "si"), log=True),
        Axis(title(runs, "loss"), log=bool(runs.loss.min() > 0)),
    )
    panel = Panel("", *axes, marks)
    caption = f"{_formula(fit)}."
    return FigureSpec(f"Loss against {title(runs, letter)}", caption, [panel], titles_of(runs).conventions)


def points_profile_figure(
    values: ArrayLike,
    objectives: ArrayLike,
    cut: float | None,
    name: str,
    about: str,
    axis: str | None = None,
    scale: Scale = "plain",
) -> FigureSpec:
    """The least objective with one quantity held, against that quantity.

    axis: its title with its unit, where that is more than the name; scale: how its numbers are written.
    """
    x, y = np.asarray(values, np.float64), np.asarray(objectives, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3:
        raise UserError(f"profile: values and objectives must be two rows of 3 or more; got {x.shape} and {y.shape}")
    order = np.argsort(x)
    x, y = x[order], y[order]
    least = float(np.nanmin(y))
    rise, best = y - least, float(x[np.nanargmin(y)])
    log = bool(x[0] > 0 and x[-1] > 10 * x[0])
    top = float(np.nanmax(rise)) * 1.06
    marks: list[Mark] = []
    if cut is not None:
        line = cut - least
        if line <= 0:
            raise UserError(f"profile: the cut {cut:g} is not above the least objective {least:g}")
        top = min(top, 4 * line) if np.nanmax(rise) > line else 1.3 * line
        low, high = _crossings(x, rise, line)
        ends = f"{_end(low, '≤', x[0])} to {_end(high, '≥', x[-1])}"
        shown = (x[0] if low is None else low, x[-1] if high is None else high)
        marks.append(Band(shown, (0.0, 0.0), (line, line), "law", f"below the cut: {ends}"))
        marks.append(Line((x[0], x[-1]), (line, line), "forecast", "cut", 1.6, dash=True))
    marks += [
        Line(x.tolist(), rise.tolist(), "law", "profile", 2.2, hover=f"profile of {name}"),
        Points([best], [0.0], "law", f"least, at {best:.4g}", "star", size=9),
    ]
    open_ended = cut is not None and None in (low, high)
    caption = (
        f"The law is refitted with {name} fixed at each value. "
        + ("The profile does not reach the cut on both sides: the data do not bound it there. " if open_ended else "")
        + about
    )
    panel = Panel(
        "",
        Axis(axis or name, scale, log=log, limits=(float(x[0]), float(x[-1]))),
        Axis("objective above its minimum", "power", limits=(-0.04 * top, top)),
        marks,
    )
    return FigureSpec(f"Profile of {name}", caption.strip(), [panel])


def profile_figure(found: laws.Profile, about: str) -> FigureSpec:
    """The same of a profile, with its interval's cut, names and units."""
    at = "" if found.C is None else f" at {power(found.C)} FLOPs"
    caption = f"{percent(found.level)} interval. {about}".strip()
    axis = derived_title(found.conventions, found.name) + at
    scale = SCALES.get(found.name, "plain") if found.C is not None else "plain"
    return points_profile_figure(found.values, found.objectives, found.cut, found.name + at, caption, axis, scale)


def bootstrap_figure(fit: laws.Fit, pairs: Sequence[tuple[str, str]], C: float | None, level: float) -> FigureSpec:
    """The refits of a bootstrap as points, pair by pair of parameters or derived quantities."""
    if fit.draws is None:
        raise UserError("no bootstrap to show yet: call fit.bootstrap() first")
    if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise UserError(f"pairs are names two by two, such as [('alpha', 'beta')]; got {pairs!r}")
    panels = [_cloud_panel(fit, x, y, C, level) for x, y in pairs]
    what = {"rows": "of the rows drawn with replacement", "runs": "of whole training runs drawn with replacement"}
    at = "" if C is None else f" N*, D*, L* and D*/N* at {power(C)} FLOPs."
    caption = (
        f"{len(fit.draws)} refits {what.get(fit.draws.kind, f'to fresh {fit.draws.kind}')}. Star: the fit, with the "
        f"{percent(level)} interval of each quantity.{at} {_formula(fit)}."
    )
    return FigureSpec("Draws of the bootstrap", caption, panels, titles_of(fit.runs).conventions)


def frontier_figure(data: ReportData, fit: laws.Fit) -> FigureSpec:
    """Loss against compute: runs, the law at some model sizes, and the envelope of these curves."""
    figure = loss_figure(data)
    assert figure is not None
    panel = figure.panels[0]
    sizes = np.geomspace(fit.runs.N.min(), fit.runs.N.max(), SHADES)
    per_token = fit.runs.flops_per_token() if fit.runs.C is not None else lambda N: 6.0 * N
    flops = np.geomspace(*panel.limits("x"), 80)
    curves: list[Mark] = []
    for size, shade in zip(sizes, _places(sizes), strict=True):
        tokens = flops / float(per_token(size))
        inside = (tokens >= fit.runs.D.min() / 3) & (tokens <= fit.runs.D.max() * 3)
        loss = np.asarray(fit.predict(N=size, D=tokens[inside]).loss)
        hover = f"the law at N = {si(float(size))}"
        label = f"the law at {SHADES} sizes" if len(curves) == SHADES // 2 else ""
        curves.append(Line(flops[inside].tolist(), loss.tolist(), shade, label, 1.1, opacity=0.7, hover=hover))
    order = np.argsort(fit.runs.flops, kind="stable")
    best = np.minimum.accumulate(fit.runs.loss[order])
    reached = Line(
        np.repeat(fit.runs.flops[order], 2)[1:].tolist(), np.repeat(best, 2)[:-1].tolist(), "ink",
        "lowest loss reached so far", 1.3,
    )  # fmt: skip
    caption = (
        f"Points: runs, by size. Thin lines: the law at {SHADES} sizes; their envelope is the frontier, the least "
        f"loss that the law allows at each budget. {_formula(fit)}."
    )
    marks = [replace(mark, front=True) if isinstance(mark, Line) else mark for mark in panel.marks]
    shown = replace(panel, marks=[*curves, reached, *marks])
    return replace(figure, caption=caption, panels=[shown])


def fan_figure(data: ReportData, fit: laws.Fit, inner: Frontier, inner_level: float) -> FigureSpec:
    """The frontier carried on beyond the runs, with two bands, a frozen forecast and what came out."""
    outer = data.frontier
    assert outer is not None
    marks: list[Mark] = []
    if outer.low:
        marks.append(
            Band(outer.flops, outer.low, outer.high, "law", f"{percent(data.level)} interval of the law", 0.13)
        )
        marks.append(Band(inner.flops, inner.low, inner.high, "law", f"{percent(inner_level)} interval", 0.25))
    done = [run for run in data.runs if run.role == "fit"]
    marks.append(Line(outer.flops, outer.loss, "law", "least loss by the law", 2.2, front=len(done) > MANY))
    marks.append(runs_as_points(done, "muted", "runs fitted"))
    if data.forecast is not None:
        marks.append(forecast_point(data.forecast))
    if data.tests:
        marks.append(runs_as_points(data.tests, "actual", "actual", "diamond"))
    edge = float(fit.runs.flops.max())
    losses = [run.loss for run in data.finished if run.loss is not None]
    ends = [*losses, *outer.loss, *outer.low, *([data.forecast.low, data.forecast.high] if data.forecast else [])]
    low, high = min(ends) / 1.03, min(max(ends), 2.5 * float(np.median(losses))) * 1.03
    marks.insert(0, Line((edge, edge), (low, high), "muted", "largest run fitted", 1.2, dash=True))
    panel = Panel(
        "",
        Axis(data.titles.flops, "power", log=True, limits=(outer.flops[0], outer.flops[-1] * 1.15)),
        Axis(data.titles.loss, "plain", log=True, limits=(low, high)),
        marks,
    )
    frozen = ""
    if data.forecast is not None:
        frozen = (
            f" The forecast, frozen {frozen_on(data.forecast)}, is for one run: its {percent(data.forecast.level)} "
            "interval also includes a run's scatter and the disagreement of the approaches."
        )
    caption = (
        "Bands: the least loss at each budget by refits of the law; a single run scatters around it, and beyond the "
        f"dashed line the bands assume that the law holds.{frozen} {_formula(fit)}."
    )
    return FigureSpec("Extrapolation of the law", caption, [panel], data.titles.conventions)


def _cloud_panel(fit: laws.Fit, x: str, y: str, C: float | None, level: float) -> Panel:
    (at_x, x_drawn), (at_y, y_drawn) = _drawn(fit, x, C), _drawn(fit, y, C)
    marks: list[Mark] = [
        Points(x_drawn.tolist(), y_drawn.tolist(), "law", "refits", size=3, opacity=0.25),
        Points(
            [at_x], [at_y], "forecast", f"the fit, {percent(level)} intervals", "star", size=9,
            x_interval=[interval(x_drawn, level)], y_interval=[interval(y_drawn, level)],
            hover=[f"{x} {at_x:.5g}\n{y} {at_y:.5g}"],
        ),
    ]  # fmt: skip
    return Panel("", _cloud_axis(fit, x, x_drawn), _cloud_axis(fit, y, y_drawn), marks)


def _cloud_axis(fit: laws.Fit, name: str, drawn: Array) -> Axis:
    """Room for all but the farthest draws, logarithmic where they span more than a factor of five."""
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.002, 0.998])
    log = bool(low > 0 and high > 5 * low)
    margin = 0.06 * (math.log(high / low) if log else high - low)
    limits = (low * math.exp(-margin), high * math.exp(margin)) if log else (low - margin, high + margin)
    ends = float(limits[0]), float(limits[1])
    return Axis(derived_title(fit.runs.conventions, name), SCALES.get(name, "plain"), log=log, limits=ends)


def _letters(fit: laws.Fit) -> list[str]:
    """C, N, D and D/N where the table has them, then whatever else the law reads."""
    have = fit.runs.values
    known = ["C"] if "C" in have or {"N", "D"} <= set(have) else []
    known += [letter for letter in ("N", "D") if letter in have]
    known += ["M"] if {"N", "D"} <= set(have) else []
    known += [letter for letter in fit.form.columns if letter not in (*known, GROUP)]
    return [letter for letter in known if np.ptp(np.log(fit.runs.column(letter))) > 1e-9]


def _running_median(x: Array, y: Array) -> tuple[list[float], list[float]] | None:
    """Medians of neighbours in x, a fifth of the points each; None below 20 points, where they would say nothing."""
    if len(x) < 20:
        return None
    order = np.argsort(x, kind="stable")
    width = max(7, len(x) // 5)
    windows = [order[i : i + width] for i in range(0, len(x) - width + 1, max(1, width // 3))]
    middles = [(float(np.exp(np.log(x[w]).mean())), float(np.median(y[w]))) for w in windows]
    return [m for m, _ in middles], [v for _, v in middles]


def _drawn(fit: laws.Fit, name: str, C: float | None) -> tuple[float, Array]:
    """A parameter or derived quantity by the fit, and by each refit of its bootstrap.

    Raises UserError for an unknown name, and for one of a budget without C.
    """
    assert fit.draws is not None
    per_token = fit.runs.flops_per_token() if C is not None and fit.runs.C is not None else None
    own = quantity(fit.form, fit.natural, name, C, per_token)
    return float(own), quantity(fit.form, fit.draws.samples, name, C, per_token)


def _kinds(fit: laws.Fit, sizes: Array) -> list[tuple[str, NDArray[np.intp], Color | list[float]]]:
    """Name, rows and colour of the runs of each group of a pooled law, or of all, which are coloured by size."""
    if fit.form.pooling is None:
        return [("runs", np.arange(len(sizes)), _places(sizes))]
    names, of = fit.form.pooling.groups, fit.runs.column(GROUP)
    return [(name, np.flatnonzero(of == i + 1), i / (len(names) - 1)) for i, name in enumerate(names)]


def _texts(fit: laws.Fit, percent: Array, rows: NDArray[np.intp]) -> list[str]:
    runs = fit.runs
    parts = [(letter, runs.column(letter)) for letter in _letters(fit)]
    return [
        f"{runs.rows[i]}\n" + ", ".join(f"{'D/N' if name == 'M' else name} {si(float(v[i]))}"
                                       for name, v in parts)
        + f"\nloss {runs.loss[i]:.4f}, {percent[i]:+.2f} % above the law"
        for i in rows
    ]  # fmt: skip


def _formula(fit: laws.Fit) -> str:
    values = ", ".join(f"{name} {value:.4g}" for name, value in fit.params.items())
    return f"{fit.form.formula} with {values}"


def _places(values: Array) -> list[float]:
    """Where each value stands between the least and the greatest, on a logarithmic scale."""
    logs = np.log(values)
    spread = float(np.ptp(logs))
    return ((logs - logs.min()) / spread).tolist() if spread > 0 else [0.5] * len(logs)


def _scale(name: str, values: Array) -> tuple[str, str, str] | None:
    low, high = float(values.min()), float(values.max())
    return (name, si(low), si(high)) if high > low else None


def _widened(values: Array, factor: float) -> tuple[float, float]:
    return float(values.min()) / factor, float(values.max()) * factor


def _crossings(x: Array, rise: Array, line: float) -> tuple[float | None, float | None]:
    """Where the profile first crosses `line` on either side of its least, None where it does not."""
    at = int(np.nanargmin(rise))
    ends: list[Any] = []
    for side in (range(at, 0, -1), range(at, len(x) - 1)):
        step = -1 if side.step < 0 else 1
        found = None
        for i in side:
            if rise[i + step] > line >= rise[i]:
                share = (line - rise[i]) / (rise[i + step] - rise[i])
                found = float(x[i] + share * (x[i + step] - x[i]))
                break
        ends.append(found)
    return ends[0], ends[1]


def _end(value: float | None, sign: str, edge: float) -> str:
    return f"{sign} {edge:.4g}" if value is None else f"{value:.4g}"
