"""The figures of a report, as values: what is drawn, on which axes, with which conventions in the caption."""

from collections.abc import Callable, Sequence

from scaling.report.data import (
    OptimumCurve,
    ReportData,
    Run,
    frozen_on,
)
from scaling.report.figures.marks import (
    cut,
    forecast_point,
    forecast_text,
    residual_points,
    runs_as_points,
    shade_legend,
    shade_of,
    star,
    star_legend,
    star_text,
    training_line,
    why_not_used,
)
from scaling.report.figures.spec import Axis, Band, FigureSpec, Line, Mark, Panel, Points
from scaling.text import percent
from scaling.units import power, si


def sweep_figures(data: ReportData) -> dict[str, FigureSpec]:
    """Every figure that the data carry by its name, in reading order."""
    made = {name: figure(data) for name, figure in FIGURES.items()}
    return {name: spec for name, spec in made.items() if spec is not None}


def loss_figure(data: ReportData) -> FigureSpec | None:
    """Loss against training FLOPs: each run's way there, where it ended, and the best that the law allows."""
    done = [run for run in data.finished if run.role == "fit"]
    ends = [(curve.flops[-1], curve.loss[-1]) for curve in data.curves]
    ends += [(run.flops, run.loss) for run in data.finished if run.loss is not None]
    if not ends:
        return None
    place = shade_of(data)
    marks: list[Mark] = [
        training_line(curve, place(curve.run.params), "" if i else "training loss during the run", len(data.curves))
        for i, curve in enumerate(data.curves)
    ]
    if data.frontier is not None:
        f = data.frontier
        if f.low:
            marks.append(Band(f.flops, f.low, f.high, "law"))
        label = f"least loss by the fitted law{f', {percent(data.level)} interval' if f.low else ''}"
        marks.append(Line(f.flops, f.loss, "law", label, 2.2, dash=True))
    ended = "held-out loss at the end" if data.curves else ""
    marks.append(runs_as_points(done, [place(run.params) for run in done], ended))
    forecast = data.forecast
    if forecast is not None:
        marks.append(forecast_point(forecast))
    if data.tests:
        marks.append(runs_as_points(data.tests, "actual", "test runs", "diamond"))
    finals = [loss for _, loss in ends]
    highest = min(max([*finals, *(loss for curve in data.curves for loss in curve.loss)]), max(finals) * 1.9)
    lowest = min([*finals, *([forecast.low] if forecast else [])])
    reach = [*(flops for flops, _ in ends), *([forecast.flops] if forecast else [])]
    start = min(reach) / (12 if data.curves else 1.6)
    panel = Panel(
        "",
        Axis(data.titles.flops, "power", log=True, limits=(start, max(reach) * 1.6)),
        Axis(
            f"loss ({data.unit})" if data.curves else data.titles.loss,
            "plain",
            log=True,
            limits=(lowest / 1.04, highest * 1.02),
        ),
        marks,
        colors=shade_legend(data),
    )
    on_the_way = (
        "Thin lines: training loss during the run, averaged between records and over a short stretch, at a learning "
        "rate that has not yet decayed. "
    )
    held_out = data.titles.loss.startswith("held-out")  # a table from elsewhere does not say what its losses are of
    points = "the held-out loss at the end of each run" if held_out else "the table's losses"
    caption = f"{on_the_way if data.curves else ''}Points: {points}."
    return FigureSpec("Loss against training FLOPs", caption, [panel], data.meaning)


def isoflop_figure(data: ReportData) -> FigureSpec | None:
    """Loss against size at each budget, with the parabola through it and its minimum."""
    if not data.isoflops:
        return None
    marks: list[Mark] = []
    shades = [i / max(1, len(data.isoflops) - 1) for i in range(len(data.isoflops))]
    count = sum(len(budget.runs) for budget in data.isoflops)
    for budget, shade in zip(data.isoflops, shades, strict=True):
        if budget.curve_n:
            marks.append(Line(budget.curve_n, budget.curve_loss, shade, "", 1.8, opacity=0.75))
        label = f"{power(budget.flops)} FLOPs"
        marks.append(runs_as_points(budget.runs, shade, label, against_size=True, among=count))
    for budget, shade in zip(data.isoflops, shades, strict=True):
        if budget.minimum is not None:
            marks.append(star(budget, budget.minimum, shade))
    marks += star_legend(data.isoflops)
    outside = [f" At {power(b.flops)} FLOPs: {b.note}." for b in data.isoflops if not b.interior and b.note]
    caption = (
        f"One curve for each budget: {data.curves_are}. Stars: minima, with their {percent(data.level)} interval; "
        f"only those within the range of sizes, on a convex curve, are used.{''.join(outside)}"
    )
    sizes = [float(run.params) for budget in data.isoflops for run in budget.runs]
    sizes += [n for budget in data.isoflops for n in budget.curve_n]
    limits = (min(sizes) / 1.15, max(sizes) * 1.15)  # an interval may be without an end
    panel = Panel("", Axis(data.titles.params, "si", log=True, limits=limits), Axis(data.titles.loss, "plain"), marks)
    return FigureSpec("Loss against size at equal training FLOPs", caption, [panel], data.meaning)


def optima_figure(data: ReportData) -> FigureSpec | None:
    """The best N and D against the budget, with the power laws through them."""
    panels = []
    for law, title in ((data.n_law, data.titles.params), (data.d_law, data.titles.tokens)):
        if law is not None:
            panels.append(_optimum_panel(data, law, title))
    if not panels:
        return None
    caption = (
        "Stars: minima of the isoFLOP curves, with their intervals. The line is the power law through those that are "
        f"interior, the band its {percent(data.level)} interval."
    )
    return FigureSpec("Compute-optimal size and tokens", caption, panels, data.meaning)


def forecast_figure(data: ReportData) -> FigureSpec | None:
    """The forecast and its interval beside what came out, and the law on the way from the sweep to the test."""
    forecast = data.forecast
    if forecast is None:
        return None
    tests = data.tests
    panels = [_extrapolation(data), _close_up(data, tests)]
    caption = (
        f"The forecast was frozen on {frozen_on(forecast)} before the test began; its bar "
        f"is the {percent(forecast.level)} interval for one run. "
        f"Bars on actual losses: standard error of the evaluation."
    )
    return FigureSpec("Forecast against outcome", caption, panels, data.meaning)


def residuals_figure(data: ReportData) -> FigureSpec | None:
    """How far each fitted run lies from the parametric law."""
    if data.law is None or not data.law.residuals:
        return None
    place = shade_of(data)
    every = [*data.law.residuals, *data.law.test_residuals]
    limits = (min(run.flops for run, _ in every) / 1.5, max(run.flops for run, _ in every) * 1.5)
    reach = 1.15 * max(0.02, *(abs(value) for _, value in every))
    sizes = [place(run.params) for run, _ in data.law.residuals]
    marks: list[Mark] = [
        Line(limits, (0.0, 0.0), "muted", "", 1.2),
        residual_points(data.law.residuals, sizes, "runs of the fit", "circle"),
    ]
    if data.law.test_residuals:
        marks.append(residual_points(data.law.test_residuals, "actual", "test runs (not fitted)", "diamond"))
    panel = Panel(
        "",
        Axis(data.titles.flops, "power", log=True, limits=limits),
        Axis(f"{data.law.of} above the law (%)", "percent", limits=(-reach, reach)),
        marks,
        colors=shade_legend(data),
    )
    caption = f"Actual over predicted {data.law.of}, minus 1, for the law {data.law.formula}."
    return FigureSpec("Residuals of the parametric law", caption, [panel], data.meaning)


def curve_law_figure(data: ReportData) -> FigureSpec | None:
    """Held-out losses on the way and the law of whole curves that was fitted to them."""
    if data.curve_law is None:
        return None
    marks: list[Mark] = []
    last = max(1, len(data.curve_law.curves) - 1)
    for i, (run, steps, losses, fitted) in enumerate(data.curve_law.curves):
        marks.append(Points(steps, losses, i / last, run, size=4.5, opacity=0.7))
        marks.append(Line(steps, fitted, i / last, "", 1.6, front=True, hover=run))
    panel = Panel("", Axis("optimizer steps", "si", log=True), Axis(data.titles.loss, "plain", log=True), marks)
    caption = f"Points: held-out losses; lines: {data.curve_law.summary.splitlines()[0]}."
    return FigureSpec("A law of whole loss curves", caption, [panel], data.meaning)


def _extrapolation(data: ReportData) -> Panel:
    """The best loss by the law against compute, from the fitted budgets to the tested one."""
    forecast = data.forecast
    assert forecast is not None
    marks: list[Mark] = []
    if data.frontier is not None:
        f = data.frontier
        if f.low:
            marks.append(Band(f.flops, f.low, f.high, "law"))
        marks.append(Line(f.flops, f.loss, "law", "law fitted to the sweep"))
    best = [(b.flops, b.minimum) for b in data.isoflops if b.minimum is not None and b.interior]
    if best:
        x, y = [flops for flops, _ in best], [minimum.loss for _, minimum in best]
        texts = [star_text(flops, minimum) for flops, minimum in best]
        marks.append(Points(x, y, "law", "isoFLOP minima", "star", hover=texts))
    marks.append(forecast_point(forecast))
    tests = data.tests
    if tests:
        marks.append(runs_as_points(tests, "actual", "actual", "diamond"))
    x = [*(flops for flops, _ in best), forecast.flops, *(run.flops for run in tests)]
    if len(x) == 1 and data.frontier is not None:
        x += [data.frontier.flops[0]]
    limits = (min(x) / 1.6, max(x) * 1.6)
    return Panel("From the sweep to the test", Axis(data.titles.flops, "power", log=True, limits=limits),
                 Axis(data.titles.loss, "plain", log=True), [cut(mark, limits) for mark in marks])  # fmt: skip


def _close_up(data: ReportData, tests: Sequence[Run]) -> Panel:
    """The forecast's interval and each test run's loss on a linear scale."""
    forecast = data.forecast
    assert forecast is not None
    names = ["forecast", *(f"seed {run.seed}" for run in tests)]
    marks: list[Mark] = [
        Band((-0.6, len(names) - 0.4), (forecast.low,) * 2, (forecast.high,) * 2, "forecast"),
        Line((-0.6, len(names) - 0.4), (forecast.loss,) * 2, "forecast", "", 1.2, dash=True),
        Points([0.0], [forecast.loss], "forecast", f"forecast, {percent(forecast.level)} interval", "square", size=9,
               y_interval=[(forecast.low, forecast.high)], hover=[forecast_text(forecast)]),
    ]  # fmt: skip
    if tests:
        at = [float(i + 1) for i in range(len(tests))]
        marks.append(runs_as_points(tests, "actual", "actual", "diamond", at))
    title = "The test, close up" if tests else "The forecast, close up (no test run yet)"
    return Panel(
        title,
        Axis("", limits=(-0.6, len(names) - 0.4), ticks=[(float(i), name) for i, name in enumerate(names)]),
        Axis(data.titles.loss),
        marks,
    )


def _optimum_panel(data: ReportData, law: OptimumCurve, title: str) -> Panel:
    size = law.symbol == "N*"
    interval = f" [{law.interval[0]:.3f}, {law.interval[1]:.3f}]" if law.interval else ""
    marks: list[Mark] = []
    if law.band_low:
        marks.append(Band(law.flops, law.band_low, law.band_high, "law"))
    marks.append(Line(law.flops, law.values, "law", f"{law.symbol} ∝ C^{law.exponent:.3f}{interval}"))
    if law.parametric:
        marks.append(Line(law.flops, law.parametric, "ink", "by the parametric law", 1.4, dash=True))
    for budget in data.isoflops:
        if (m := budget.minimum) is not None:
            value, bounds = (m.n, m.n_interval) if size else (m.d, m.d_interval)
            shown = [bounds] if bounds and budget.interior else ()  # an interval for what counts only
            text = star_text(budget.flops, m) + why_not_used(budget)
            marks.append(Points([budget.flops], [value], "law", "", "star", budget.interior, 9, shown, hover=[text]))
    marks += star_legend(data.isoflops)
    forecast = data.forecast
    if forecast is not None:
        value = forecast.N if size else forecast.D
        text = f"the tested model\n{power(forecast.flops)} FLOPs\n{si(value)}"
        marks.append(Points([forecast.flops], [value], "forecast", "tested model", "square", size=8, hover=[text]))
    places = [*law.values, *(y for mark in marks if isinstance(mark, Points) for y in mark.y)]
    limits = (min(places) / 1.6, max(places) * 1.6)  # an interval may be without an end
    axes = Axis(data.titles.flops, "power", log=True), Axis(title, "si", log=True, limits=limits)
    return Panel("The best size" if size else "The best number of tokens", *axes, marks)


FIGURES: dict[str, Callable[[ReportData], FigureSpec | None]] = {
    "forecast": forecast_figure,
    "loss_against_flops": loss_figure,
    "isoflop": isoflop_figure,
    "optima": optima_figure,
    "residuals": residuals_figure,
    "curves": curve_law_figure,
}
"""all that a report may have"""
