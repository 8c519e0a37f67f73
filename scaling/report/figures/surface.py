"""The figure of a response surface: the loss about the best learning rate of each point, and the best settings."""

import numpy as np

from scaling.laws import ResponseSurface
from scaling.laws.surface.basin import Basin
from scaling.laws.surface.search import SHAPES
from scaling.report.figures.spec import Axis, FigureSpec, Line, Mark, Panel, Points
from scaling.text import percent
from scaling.units import si

CURVE = 80
"""points of each curve"""
BEYOND = 1.5
"""factor by which a curve goes on beyond the rates that were tried"""
NAMED = {"lr": "learning rate", "B": "batch"}


def surface_figure(surface: ResponseSurface) -> FigureSpec:
    """Of each point the losses of its runs over its least by the surface, and its best settings against N."""
    panels = [_basins(surface)]
    panels += [_optima(surface, letter) for letter in surface.letters]
    caption = (
        f"Points: runs; lines: the surface at each point's best {'batch' if 'B' in surface.letters else 'level'}; "
        f"bars: {percent(surface.level)} intervals of the best settings. "
        f"{'; '.join(surface.notes)}"
    )
    return FigureSpec("Loss around the best learning rate", caption, panels)


def _shades(surface: ResponseSurface) -> list[float]:
    sizes = np.log([point.N for point in surface.points])
    return ((sizes - sizes.min()) / (np.ptp(sizes) or 1.0)).tolist()


def _basins(surface: ResponseSurface) -> Panel:
    """Rise above the least loss of each point, in per cent, against the learning rate."""
    marks: list[Mark] = []
    rows = {row: i for i, row in enumerate(surface.runs.rows)}
    rates, log_loss = surface.runs.column("lr"), np.log(surface.runs.loss)
    basin, most = Basin(surface.found.theta[:SHAPES]), 0.0
    for point, shade in zip(surface.points, _shades(surface), strict=True):
        size = np.log([point.N, point.D]) - surface.units
        at = [rows[row] for row in point.rows]
        best = np.log([point.best[letter].value for letter in surface.letters])

        def rise(settings: np.ndarray, best: np.ndarray = best, size: np.ndarray = size) -> np.ndarray:
            return 100 * np.expm1(basin.rise(settings - best, size))

        tried = np.log(np.stack([surface.runs.column(letter)[at] for letter in surface.letters], -1))
        level = np.mean(log_loss[at] - np.log1p(rise(tried) / 100), where=_near(surface, at))
        over = 100 * np.expm1(log_loss[at] - level)
        grid = np.geomspace(rates[at].min() / BEYOND, rates[at].max() * BEYOND, CURVE)
        settings = np.tile(best, (CURVE, 1))
        settings[:, 0] = np.log(grid)
        name = f"N {si(point.N)}, D {si(point.D)}"
        marks.append(Points(rates[at].tolist(), over.tolist(), shade, hover=[f"{name}\n{row}" for row in point.rows]))
        marks.append(Line(grid.tolist(), rise(settings).tolist(), shade, "", 1.6, hover=name))
        most = max(most, float(over.max()))
    N = [point.N for point in surface.points]
    colors = ("parameters", si(min(N)), si(max(N))) if max(N) > min(N) else None
    y = Axis("loss above the least (%)", "percent", limits=(-0.05 * most, 1.1 * most))
    return Panel("", Axis("learning rate", "plain", log=True), y, marks, colors)


def _near(surface: ResponseSurface, at: list[int]) -> np.ndarray:
    """Which of a point's runs say its level: those within twice the width of the basin that is fitted."""
    log_loss = np.log(surface.runs.loss[at])
    return np.asarray(log_loss - log_loss.min() <= 2 * surface.near)


def _optima(surface: ResponseSurface, letter: str) -> Panel:
    """The best setting of each point with its interval, against N."""
    N = [point.N for point in surface.points]
    best = [point.best[letter] for point in surface.points]
    bars = [(setting.low, setting.high) for setting in best]
    values = [setting.value for setting in best]
    texts = [f"D {si(point.D)}" for point in surface.points]
    marks: list[Mark] = [Points(N, values, _shades(surface), "best of a point", "star", y_interval=bars, hover=texts)]
    if letter in surface.laws:
        optima = [surface.optimum(point.N, point.D)[letter] for point in surface.points]
        ends = [(setting.low, setting.high) for setting in optima]
        shown = [setting.value for setting in optima]
        marks.append(Points(N, shown, "law", "by the power law", "circle", False, 5, y_interval=ends))
    limits = (min(values) / 4, max(values) * 4)  # an interval may be without an end
    axis = Axis(f"best {NAMED[letter]}", "plain", log=True, limits=limits)
    return Panel("", Axis("parameters N", "si", log=True), axis, marks)
