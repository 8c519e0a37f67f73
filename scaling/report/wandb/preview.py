"""A sweep's dashboard drawn from the records on the disk: the same panels, before anything is sent to wandb."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.metrics import read_metrics
from scaling.report.wandb.panels import Board, ramp, sections
from scaling.result import read_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS, PANEL_IN = 3, (4.6, 3.1)
DASHES = {"solid": "-", "dashed": "--", "points": ""}
"""of wandb's kinds of lines; one without is of points"""
GREY = "#888888"

Records = Mapping[str, list[Mapping[str, Any]]]


def draw(board: Board, home: Path, path: Path) -> Path:
    """Draw the dashboard of the runs below `home` into the PNG `path`, and return it."""
    drawing(board, home).savefig(path, dpi=120)
    return path


def drawing(board: Board, home: Path) -> "Figure":
    """Every panel of `sections(board)`, drawn from the runs below `home`.

    wandb samples long runs and lays panels out by itself; what is drawn, on which axes and in which colours is the
    same.
    """
    from matplotlib.figure import Figure

    history: dict[str, list[Mapping[str, Any]]] = {run: list(read_metrics(home / run)) for run in board.sizes}
    if board.law is not None:
        history[board.law.run_id] = list(board.law.history)
    results = {run: result for run in board.sizes if (result := read_result(home / run)) is not None}
    final = {run: {f"final/{key}": value for key, value in vars(r).items()} for run, r in results.items()}
    panels = [(title, panel) for title, (_, found) in sections(board).items() for panel in found]
    rows = -(-len(panels) // ACROSS)
    figure = Figure(figsize=(ACROSS * PANEL_IN[0], rows * PANEL_IN[1]), layout="constrained")
    grid = figure.subplots(rows, ACROSS, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, panel) in zip(grid.flat, panels, strict=False):
        kind = type(panel).__name__
        axes.set_title(f"{title}: {getattr(panel, 'title', None) or 'in words'}", fontsize=8)
        if kind == "LinePlot":
            _lines(axes, panel, history)
        elif kind == "ScatterPlot":
            _scatter(axes, panel, final, ramp(board.budgets))
        else:
            axes.set_axis_off()
            axes.text(0, 1, panel.markdown.strip("`\n"), fontsize=5, va="top", family="monospace", clip_on=True)
    return figure


def _lines(axes: "Axes", panel: Any, history: Records) -> None:
    """Each metric of each run that logged it, over the panel's axis."""
    colors, marks = panel.line_colors or {}, panel.line_marks or {}
    for run, records in history.items():
        for metric in panel.y:
            places = _known((record.get(panel.x), record.get(metric)) for record in records)
            if places:
                name, mark = f"{run}:{metric}", marks.get(f"{run}:{metric}", "solid")
                style, dot = DASHES[mark], "o" if mark == "points" else ""
                x, y = zip(*places, strict=True)
                axes.plot(x, y, style, marker=dot, markersize=3, linewidth=1, color=colors.get(name, GREY))
    _scale(axes, panel, panel.title_x, panel.title_y)


def _scatter(axes: "Axes", panel: Any, final: Mapping[str, Mapping[str, Any]], colors: Mapping[str, str]) -> None:
    """A point for each run that ended with both numbers, and the line along the least so far where there is one."""
    x, y = panel.x.name, panel.y.name
    places = {run: found[0] for run, facts in final.items() if (found := _known([(facts.get(x), facts.get(y))]))}
    for run, place in places.items():
        axes.plot(*place, "o", markersize=3, color=colors.get(run, GREY))
    if panel.running_ymin and places:
        least, steps = math.inf, []
        for at, value in sorted(places.values()):
            least = min(least, value)
            steps.append((at, least))
        axes.plot(*zip(*steps, strict=True), "-", linewidth=1, color=GREY)
    _scale(axes, panel, x, y)


def _scale(axes: "Axes", panel: Any, x: str, y: str) -> None:
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    axes.set_xlabel(x, fontsize=7)
    axes.set_ylabel(y, fontsize=7)
    axes.tick_params(labelsize=6, which="both")
    axes.xaxis.get_offset_text().set_fontsize(6)
    if not axes.lines:
        axes.set(xticks=(), yticks=())
        axes.text(0.5, 0.5, f"no run has {y}", fontsize=7, color=GREY, ha="center", transform=axes.transAxes)


def _known(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[float, float]]:
    """Those that have both numbers."""
    return [(float(x), float(y)) for x, y in pairs if x is not None and y is not None and math.isfinite(x + y)]
