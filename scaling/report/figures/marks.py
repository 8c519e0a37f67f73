"""What figures draw of runs, minima and forecasts: points, lines and the texts above them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scaling.report.data import Bounds, IsoflopCurve, Minimum, ReportData, Run, TrainingCurve
from scaling.report.figures.spec import Band, Color, Line, Mark, Points, Symbol
from scaling.text import percent
from scaling.units import power, si

if TYPE_CHECKING:
    from scaling.laws import Forecast

MANY = 80
"""runs in a figure beyond which their points are small"""
CURVE_POINTS = 240
"""of each training curve at most; an eye sees no more"""
ALL_CURVES_POINTS = 12_000
"""of all training curves in a figure together: a page stays small"""


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
    return Points(x, y, color, label, symbol, size=size, y_interval=sem, hover=[run_text(run) for run in runs])


def forecast_point(f: "Forecast") -> Points:
    """The loss that was forecast, with its interval, against FLOPs."""
    label = f"forecast, {percent(f.level)} interval"
    return Points([f.flops], [f.loss], "forecast", label, "square", size=8, y_interval=[(f.low, f.high)],
                  hover=[forecast_text(f)])  # fmt: skip


def forecast_text(f: "Forecast") -> str:
    """What hovering over a forecast tells."""
    return (
        f"forecast at {power(f.flops)} FLOPs\nN {si(f.N)}, D {si(f.D)}\nloss {f.loss:.4f} [{f.low:.4f}, {f.high:.4f}]"
    )


def training_line(curve: TrainingCurve, color: float, label: str = "", among: int = 1) -> Line:
    """A run's training loss, each point the mean of its neighbourhood on a logarithmic axis of compute.

    among: how many curves the figure shows.
    """
    flops, loss = np.asarray(curve.flops), np.asarray(curve.loss)
    if len(flops) > (points := min(CURVE_POINTS, ALL_CURVES_POINTS // among)):
        edges = np.geomspace(flops[0], flops[-1], points + 1)
        cells = np.clip(np.searchsorted(edges, flops, side="right") - 1, 0, points - 1)
        count = np.bincount(cells, minlength=points)
        filled = count > 0
        flops = np.exp(np.bincount(cells, np.log(flops), points)[filled] / count[filled])
        loss = np.bincount(cells, loss, points)[filled] / count[filled]
    loss = _smooth(flops, loss)
    hover = f"{curve.run.run_id}, N {si(curve.run.params)}"
    x, y = flops.tolist(), loss.tolist()
    return Line(x, y, color, label, 1.1, opacity=0.55, hover=hover, y_title="training loss")


def _smooth(flops: np.ndarray, loss: np.ndarray, width: float = 0.06) -> np.ndarray:
    """Means weighted by a Gaussian of `width` in log FLOPs: batches differ more than the loss falls in it."""
    at = np.log(flops)
    weights = np.exp(-0.5 * ((at[:, None] - at) / width) ** 2)
    return (weights @ loss) / weights.sum(1)


def residual_points(
    residuals: Sequence[tuple[Run, float]], color: Color | list[float], label: str, symbol: Symbol
) -> Points:
    """How much each run's loss is above the law, in per cent, against FLOPs."""
    x, y = [run.flops for run, _ in residuals], [value for _, value in residuals]
    hover = [f"{run_text(run)}\nloss {value:+.2f} % above the law" for run, value in residuals]
    return Points(x, y, color, label, symbol, hover=hover)


def star(curve: IsoflopCurve, minimum: Minimum, color: Color) -> Points:
    """The minimum of a curve; with its interval, and filled, where it counts."""
    bounds = [minimum.n_interval] if minimum.n_interval and curve.interior else ()
    text = star_text(curve.flops, minimum) + why_not_used(curve)
    return Points([minimum.n], [minimum.loss], color, "", "star", curve.interior, 11, (), bounds, [text])


def star_text(flops: float, minimum: Minimum) -> str:
    """What hovering over a minimum tells."""
    return (
        f"minimum at {power(flops)} FLOPs\nN* {si(minimum.n)}{_bounds(minimum.n_interval)}\n"
        f"D* {si(minimum.d)}{_bounds(minimum.d_interval)}\nloss {minimum.loss:.4f}"
    )


def why_not_used(curve: IsoflopCurve) -> str:
    """A further line of that; empty for a minimum that counts."""
    return "" if curve.interior else f"\nnot used: {curve.note}"


def star_legend(curves: Sequence[IsoflopCurve]) -> list[Mark]:
    """Entries of the legend for both kinds of minima, as far as there are any."""
    found = [curve for curve in curves if curve.minimum is not None]
    kinds = [("isoFLOP minimum", True)] if any(curve.interior for curve in found) else []
    kinds += [("not interior, not used", False)] if any(not curve.interior for curve in found) else []
    return [Points([], [], "ink", label, "star", filled) for label, filled in kinds]


def run_text(run: Run) -> str:
    """What hovering over a run tells."""
    loss = "–" if run.loss is None else f"{run.loss:.4f}" + (f" ± {run.loss_sem:.4f}" if run.loss_sem else "")
    lines = [
        run.called,
        f"N {si(run.params)}, D {si(run.tokens)}, D/N {run.tokens / run.params:.3g}",
        f"{power(run.flops)} FLOPs",
        f"loss {loss}",
    ]
    if math.isfinite(run.learning_rate):
        lines.append(f"learning rate {run.learning_rate:.3g}, seed {run.seed}")
    return "\n".join(lines)


def cut(mark: Mark, limits: tuple[float, float]) -> Mark:
    """A curve without what lies outside the shown part, so that the other axis fits what is shown."""
    if isinstance(mark, Points):
        return mark
    keep = [i for i, x in enumerate(mark.x) if limits[0] <= x <= limits[1]]
    x = [mark.x[i] for i in keep]
    if isinstance(mark, Band):
        return replace(mark, x=x, low=[mark.low[i] for i in keep], high=[mark.high[i] for i in keep])
    return replace(mark, x=x, y=[mark.y[i] for i in keep])


def shade_of(data: ReportData) -> Callable[[float], float]:
    """Where a size stands between the smallest and the largest, on a logarithmic scale."""
    low, high = _edges([run.params for run in data.runs])
    return lambda params: math.log(params / low) / math.log(high / low) if high > low else 0.5


def shade_legend(data: ReportData) -> tuple[str, str, str] | None:
    """What the colours say, where there is more than one size."""
    low, high = _edges([run.params for run in data.runs])
    return ("parameters", si(low), si(high)) if high > low else None


def _edges(params: Sequence[float]) -> tuple[float, float]:
    return min(params), max(params)


def _bounds(bounds: Bounds | None) -> str:
    return "" if bounds is None else f" [{si(bounds[0])}, {si(bounds[1])}]"
