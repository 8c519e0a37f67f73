"""The figures of a report, as values: what is drawn, on which axes, with which conventions in the caption."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from scaling.report.data import Bounds, Budget, Curve, Minimum, PowerLaw, ReportData, Run
from scaling.report.figures.spec import Axis, Band, Color, Figure, Line, Mark, Panel, Points, Symbol
from scaling.units import write_number

NAMES = ("forecast", "loss_against_flops", "isoflop", "optima", "residuals")
"""of all figures that a report may have"""
MANY = 80
"""runs in a figure beyond which their points are small"""
CURVE_POINTS = 240
"""of each training curve; an eye sees no more"""


def figures(data: ReportData) -> list[Figure]:
    """Every figure that the data carry, in reading order."""
    makers: tuple[Callable[[ReportData], Figure | None], ...] = (outcome, frontier, isoflops, optima, residuals)
    return [figure for maker in makers if (figure := maker(data)) is not None]


def frontier(data: ReportData) -> Figure | None:
    """Loss against training FLOPs: each run's way there, where it ended, and the best that the law allows."""
    done = [run for run in data.finished if run.role == "fit"]
    ends = [(curve.flops[-1], curve.loss[-1]) for curve in data.curves]
    ends += [(run.flops, run.loss) for run in data.finished if run.loss is not None]
    if not ends:
        return None
    place = _sizes(data)
    marks: list[Mark] = [_training(curve, place(curve.run.params)) for curve in data.curves]
    if data.frontier is not None:
        f = data.frontier
        if f.low:
            marks.append(Band(f.flops, f.low, f.high, "law"))
        label = f"least loss by the fitted law{f', {data.level:.0%} interval' if f.low else ''}"
        marks.append(Line(f.flops, f.loss, "law", label, 2.2, dash=True))
    marks.append(runs_as_points(done, [place(run.params) for run in done]))
    forecast = data.forecast
    if forecast is not None:
        marks.append(forecast_point(data))
    if data.tests:
        marks.append(runs_as_points(data.tests, "actual", "test runs", "diamond"))
    finals = [loss for _, loss in ends]
    highest = min(max([*finals, *(loss for curve in data.curves for loss in curve.loss)]), max(finals) * 1.9)
    lowest = min([*finals, *([forecast.low] if forecast else [])])
    reach = [*(flops for flops, _ in ends), *([forecast.flops] if forecast else [])]
    start = min(reach) / (12 if data.curves else 1.6)
    panel = Panel(
        "",
        Axis(data.words.flops, "power", log=True, limits=(start, max(reach) * 1.6)),
        Axis(data.words.loss, "plain", log=True, limits=(lowest / 1.04, highest * 1.02)),
        marks,
        colors=_scale(data),
    )
    on_the_way = (
        "Thin lines: training loss on the way, averaged between records and over a short stretch; it is the loss of "
        "the model before its learning rate has come down. "
    )
    caption = (
        f"{on_the_way if data.curves else ''}Points: the held-out loss at the end of each run. {_conventions(data)}"
    )
    return Figure("loss_against_flops", "Loss against training FLOPs", caption, [panel])


def isoflops(data: ReportData) -> Figure | None:
    """Loss against size at each budget, with the parabola through it and its minimum."""
    if not data.budgets:
        return None
    marks: list[Mark] = []
    shades = [i / max(1, len(data.budgets) - 1) for i in range(len(data.budgets))]
    count = sum(len(budget.runs) for budget in data.budgets)
    for budget, shade in zip(data.budgets, shades, strict=True):
        if budget.curve_n:
            marks.append(Line(budget.curve_n, budget.curve_loss, shade, "", 1.8, opacity=0.75))
        label = f"{write_number(budget.flops, 'power')} FLOPs"
        marks.append(runs_as_points(budget.runs, shade, label, against_size=True, among=count))
    for budget, shade in zip(data.budgets, shades, strict=True):
        if budget.minimum is not None:
            marks.append(_star(budget, budget.minimum, shade))
    marks += _star_legend(data.budgets)
    outside = [
        f" At {write_number(b.flops, 'power')} FLOPs: {b.note}." for b in data.budgets if not b.interior and b.note
    ]
    caption = (
        f"One curve for each budget: {data.curves_are}. Stars: minima, with their {data.level:.0%} interval; only "
        f"those inside the range of sizes, on a curve that opens upwards, are used.{''.join(outside)} "
        f"{_conventions(data)}"
    )
    sizes = [float(run.params) for budget in data.budgets for run in budget.runs]
    sizes += [n for budget in data.budgets for n in budget.curve_n]
    limits = (min(sizes) / 1.15, max(sizes) * 1.15)  # an interval may be without an end
    panel = Panel("", Axis(data.words.params, "si", log=True, limits=limits), Axis(data.words.loss, "plain"), marks)
    return Figure("isoflop", "Loss against size at equal training FLOPs", caption, [panel])


def optima(data: ReportData) -> Figure | None:
    """The best N and D against the budget, with the power laws through them."""
    panels = []
    for law, title in ((data.n_law, data.words.params), (data.d_law, data.words.tokens)):
        if law is not None:
            panels.append(_optimum_panel(data, law, title))
    if not panels:
        return None
    caption = (
        "Stars: minima of the isoFLOP curves, with their intervals. The line is the power law through those that are "
        f"interior, the band its {data.level:.0%} interval. {_conventions(data)}"
    )
    return Figure("optima", "Compute-optimal size and tokens", caption, panels)


def outcome(data: ReportData) -> Figure | None:
    """The forecast and its interval beside what came out, and the law on the way from the sweep to the test."""
    forecast = data.forecast
    if forecast is None:
        return None
    tests = data.tests
    panels = [_extrapolation(data), _close_up(data, tests)]
    caption = (
        f"The forecast was frozen{' on ' + forecast.made if forecast.made else ''} before the test began; its bar "
        f"is the {forecast.level:.0%} interval for one run. "
        f"Bars on actual losses: standard error of the evaluation. {_conventions(data)}"
    )
    return Figure("forecast", "Forecast against outcome", caption, panels)


def residuals(data: ReportData) -> Figure | None:
    """How far each fitted run lies from the parametric law."""
    if data.law is None or not data.law.residuals:
        return None
    place = _sizes(data)
    every = [*data.law.residuals, *data.law.test_residuals]
    limits = (min(run.flops for run, _ in every) / 1.5, max(run.flops for run, _ in every) * 1.5)
    reach = 1.15 * max(0.02, *(abs(value) for _, value in every))
    sizes = [place(run.params) for run, _ in data.law.residuals]
    marks: list[Mark] = [
        Line(limits, (0.0, 0.0), "muted", "", 1.2),
        _residual_points(data.law.residuals, sizes, "runs of the fit", "circle"),
    ]
    if data.law.test_residuals:
        marks.append(_residual_points(data.law.test_residuals, "actual", "test runs (not fitted)", "diamond"))
    panel = Panel(
        "",
        Axis(data.words.flops, "power", log=True, limits=limits),
        Axis("loss above the law (%)", "percent", limits=(-reach, reach)),
        marks,
        colors=_scale(data),
    )
    caption = f"Actual over predicted loss, less one, of the law {data.law.formula}. {_conventions(data)}"
    return Figure("residuals", "What the parametric law leaves over", caption, [panel])


def _residual_points(
    residuals: Sequence[tuple[Run, float]], color: Color | list[float], label: str, symbol: Symbol
) -> Points:
    x, y = [run.flops for run, _ in residuals], [value for _, value in residuals]
    hover = [f"{_hover(run)}\nloss {value:+.2f} % above the law" for run, value in residuals]
    return Points(x, y, color, label, symbol, hover=hover)


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
    best = [(b.flops, b.minimum) for b in data.budgets if b.minimum is not None and b.interior]
    if best:
        x, y = [flops for flops, _ in best], [minimum.loss for _, minimum in best]
        texts = [_star_text(flops, minimum) for flops, minimum in best]
        marks.append(Points(x, y, "law", "isoFLOP minima", "star", hover=texts))
    marks.append(forecast_point(data))
    tests = data.tests
    if tests:
        marks.append(runs_as_points(tests, "actual", "actual", "diamond"))
    x = [*(flops for flops, _ in best), forecast.flops, *(run.flops for run in tests)]
    if len(x) == 1 and data.frontier is not None:
        x += [data.frontier.flops[0]]
    limits = (min(x) / 1.6, max(x) * 1.6)
    return Panel("From the sweep to the test", Axis(data.words.flops, "power", log=True, limits=limits),
                 Axis(data.words.loss, "plain", log=True), [_cut(mark, limits) for mark in marks])  # fmt: skip


def _close_up(data: ReportData, tests: Sequence[Run]) -> Panel:
    """The forecast's interval and each test run's loss on a linear scale."""
    forecast = data.forecast
    assert forecast is not None
    names = ["forecast", *(f"seed {run.seed}" for run in tests)]
    marks: list[Mark] = [
        Band((-0.6, len(names) - 0.4), (forecast.low,) * 2, (forecast.high,) * 2, "forecast"),
        Line((-0.6, len(names) - 0.4), (forecast.loss,) * 2, "forecast", "", 1.2, dash=True),
        Points([0.0], [forecast.loss], "forecast", f"forecast, {forecast.level:.0%} interval", "square", size=9,
               y_interval=[(forecast.low, forecast.high)], hover=[_forecast_text(data)]),
    ]  # fmt: skip
    if tests:
        at = [float(i + 1) for i in range(len(tests))]
        marks.append(runs_as_points(tests, "actual", "actual", "diamond", at))
    title = "The test, close up" if tests else "The forecast, close up (no test run yet)"
    return Panel(
        title,
        Axis("", limits=(-0.6, len(names) - 0.4), ticks=[(float(i), name) for i, name in enumerate(names)]),
        Axis(data.words.loss),
        marks,
    )


def _optimum_panel(data: ReportData, law: PowerLaw, title: str) -> Panel:
    size = law.symbol == "N*"
    interval = f" [{law.interval[0]:.3f}, {law.interval[1]:.3f}]" if law.interval else ""
    marks: list[Mark] = []
    if law.band_low:
        marks.append(Band(law.flops, law.band_low, law.band_high, "law"))
    marks.append(Line(law.flops, law.values, "law", f"{law.symbol} ∝ C^{law.exponent:.3f}{interval}"))
    if law.parametric:
        marks.append(Line(law.flops, law.parametric, "ink", "by the parametric law", 1.4, dash=True))
    for budget in data.budgets:
        if (m := budget.minimum) is not None:
            value, bounds = (m.n, m.n_interval) if size else (m.d, m.d_interval)
            shown = [bounds] if bounds and budget.interior else ()  # an interval for what counts only
            text = _star_text(budget.flops, m) + _why(budget)
            marks.append(Points([budget.flops], [value], "law", "", "star", budget.interior, 9, shown, hover=[text]))
    marks += _star_legend(data.budgets)
    forecast = data.forecast
    if forecast is not None:
        value = forecast.n if size else forecast.d
        text = f"the tested model\n{write_number(forecast.flops, 'power')} FLOPs\n{_si(value)}"
        marks.append(Points([forecast.flops], [value], "forecast", "tested model", "square", size=8, hover=[text]))
    places = [*law.values, *(y for mark in marks if isinstance(mark, Points) for y in mark.y)]
    limits = (min(places) / 1.6, max(places) * 1.6)  # an interval may be without an end
    return Panel("", Axis(data.words.flops, "power", log=True), Axis(title, "si", log=True, limits=limits), marks)


def _training(curve: Curve, color: float) -> Line:
    """A run's training loss, each point the mean of its neighbourhood on a logarithmic axis of compute."""
    flops, loss = np.asarray(curve.flops), np.asarray(curve.loss)
    if len(flops) > CURVE_POINTS:
        edges = np.geomspace(flops[0], flops[-1], CURVE_POINTS + 1)
        cells = np.clip(np.searchsorted(edges, flops, side="right") - 1, 0, CURVE_POINTS - 1)
        count = np.bincount(cells, minlength=CURVE_POINTS)
        filled = count > 0
        flops = np.exp(np.bincount(cells, np.log(flops), CURVE_POINTS)[filled] / count[filled])
        loss = np.bincount(cells, loss, CURVE_POINTS)[filled] / count[filled]
    loss = _smooth(flops, loss)
    hover = f"{curve.run.run_id}, N {_si(curve.run.params)} (training loss)"
    return Line(flops.tolist(), loss.tolist(), color, "", 1.1, opacity=0.55, hover=hover)


def _smooth(flops: np.ndarray, loss: np.ndarray, width: float = 0.06) -> np.ndarray:
    """Means weighted by a Gaussian of `width` in log FLOPs: batches differ more than the loss falls in it."""
    at = np.log(flops)
    weights = np.exp(-0.5 * ((at[:, None] - at) / width) ** 2)
    return (weights @ loss) / weights.sum(1)


def runs_as_points(
    runs: Sequence[Run],
    color: Color | list[float],
    label: str = "",
    symbol: Symbol = "circle",
    at: Sequence[float] | None = None,
    *,
    against_size: bool = False,
    among: int = 0,
) -> Points:
    """Held-out losses of runs with their standard errors, against FLOPs, against N, or at places of their own.

    among: how many runs the figure shows, where these are not all.
    """
    x = at if at is not None else [float(run.params if against_size else run.flops) for run in runs]
    y = [math.nan if run.loss is None else run.loss for run in runs]
    sem = [(loss - (run.loss_sem or 0.0), loss + (run.loss_sem or 0.0)) for run, loss in zip(runs, y, strict=True)]
    size = 7.0 if max(among, len(runs)) <= MANY else 4.5
    return Points(x, y, color, label, symbol, size=size, y_interval=sem, hover=[_hover(run) for run in runs])


def _star(budget: Budget, minimum: Minimum, color: Color) -> Points:
    bounds = [minimum.n_interval] if minimum.n_interval and budget.interior else ()
    text = _star_text(budget.flops, minimum) + _why(budget)
    return Points([minimum.n], [minimum.loss], color, "", "star", budget.interior, 11, (), bounds, [text])


def _star_text(flops: float, minimum: Minimum) -> str:
    return (
        f"minimum at {write_number(flops, 'power')} FLOPs\nN* {_si(minimum.n)}{_bounds(minimum.n_interval)}\n"
        f"D* {_si(minimum.d)}{_bounds(minimum.d_interval)}\nloss {minimum.loss:.4f}"
    )


def _why(budget: Budget) -> str:
    return "" if budget.interior else f"\nnot used: {budget.note}"


def _star_legend(budgets: Sequence[Budget]) -> list[Mark]:
    """Entries without marks of their own."""
    found = [budget for budget in budgets if budget.minimum is not None]
    kinds = [("isoFLOP minimum", True)] if any(budget.interior for budget in found) else []
    kinds += [("not interior, not used", False)] if any(not budget.interior for budget in found) else []
    return [Points([], [], "ink", label, "star", filled) for label, filled in kinds]


def forecast_point(data: ReportData) -> Points:
    f = data.forecast
    assert f is not None
    label = f"forecast, {f.level:.0%} interval"
    return Points([f.flops], [f.loss], "forecast", label, "square", size=8, y_interval=[(f.low, f.high)],
                  hover=[_forecast_text(data)])  # fmt: skip


def _forecast_text(data: ReportData) -> str:
    f = data.forecast
    assert f is not None
    return (
        f"forecast at {write_number(f.flops, 'power')} FLOPs\nN {_si(f.n)}, D {_si(f.d)}\n"
        f"loss {f.loss:.4f} [{f.low:.4f}, {f.high:.4f}]"
    )


def _hover(run: Run) -> str:
    loss = "–" if run.loss is None else f"{run.loss:.4f}" + (f" ± {run.loss_sem:.4f}" if run.loss_sem else "")
    lines = [
        run.run_id,
        f"N {_si(run.params)}, D {_si(run.tokens)}, D/N {run.tokens / run.params:.3g}",
        f"{write_number(run.flops, 'power')} FLOPs",
        f"loss {loss}",
    ]
    if math.isfinite(run.learning_rate):
        lines.append(f"learning rate {run.learning_rate:.3g}, seed {run.seed}")
    return "\n".join(lines)


def _cut(mark: Mark, limits: tuple[float, float]) -> Mark:
    """A curve without what lies outside the shown part, so that the other axis fits what is shown."""
    if isinstance(mark, Points):
        return mark
    keep = [i for i, x in enumerate(mark.x) if limits[0] <= x <= limits[1]]
    x = [mark.x[i] for i in keep]
    if isinstance(mark, Band):
        return Band(x, [mark.low[i] for i in keep], [mark.high[i] for i in keep], mark.color, mark.label)
    return Line(x, [mark.y[i] for i in keep], mark.color, mark.label, mark.width, mark.dash, mark.opacity, mark.hover)


def _sizes(data: ReportData) -> Callable[[float], float]:
    """Where a size stands between the smallest and the largest, on a logarithmic scale."""
    low, high = _edges([run.params for run in data.runs])
    return lambda params: math.log(params / low) / math.log(high / low) if high > low else 0.5


def _scale(data: ReportData) -> tuple[str, str, str] | None:
    """What the colours say, where there is more than one size."""
    low, high = _edges([run.params for run in data.runs])
    return ("parameters", _si(low), _si(high)) if high > low else None


def _edges(params: Sequence[float]) -> tuple[float, float]:
    return min(params), max(params)


def _si(value: float) -> str:
    return write_number(value, "si")


def _bounds(bounds: Bounds | None) -> str:
    return "" if bounds is None else f" [{_si(bounds[0])}, {_si(bounds[1])}]"


def _conventions(data: ReportData) -> str:
    """What N, FLOPs, loss and tokens mean here, in one sentence."""
    if data.words.conventions:
        return data.words.conventions
    epochs = max((run.epochs for run in data.runs), default=0.0)
    seen = "no training token was seen twice" if epochs <= 1 else f"training data were seen up to {epochs:.3g} times"
    return (
        "N counts all parameters, embedding included; FLOPs are the exact training count; loss is the mean over the "
        f"whole held-out split; {seen}."
    )
