"""Figures as PNG files, by matplotlib."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.report.canvas import PALETTE, SEQUENTIAL, Band, Color, Figure, Line, Panel, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
WIDTH = {1: 7.2, 2: 10.4}  # inches, by panels side by side
HEIGHT = 4.7
CAPTION = {1: 118, 2: 172}  # characters in a line
SYMBOLS = {"circle": "o", "diamond": "D", "star": "*", "x": "X", "square": "s"}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": PALETTE["muted"][0],
    "axes.labelcolor": PALETTE["ink"][0],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": PALETTE["muted"][0],
    "ytick.color": PALETTE["muted"][0],
    "xtick.labelcolor": PALETTE["ink"][0],
    "ytick.labelcolor": PALETTE["ink"][0],
    "axes.grid": True,
    "grid.color": PALETTE["grid"][0],
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": PALETTE["paper"][0],
}


def save(figures: Iterable[Figure], folder: str | Path) -> list[Path]:
    """Each figure as `folder/NAME.png`; the paths, in order."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for figure in figures:
        columns = len(figure.panels)
        with matplotlib.rc_context(matplotlib.rcParamsDefault), matplotlib.rc_context(STYLE):
            canvas = Canvas(figsize=(WIDTH[columns], HEIGHT), layout="constrained")
            FigureCanvasAgg(canvas)
            for axes, panel in zip(canvas.subplots(1, columns, squeeze=False)[0], figure.panels, strict=True):
                _draw(axes, panel)
            canvas.suptitle(figure.title, x=0.01, ha="left", weight="bold", size=13, color=PALETTE["ink"][0])
            caption = textwrap.fill(figure.caption, CAPTION[columns])
            canvas.supxlabel(caption, x=0.01, ha="left", size=7.5, color=PALETTE["muted"][0])
            paths.append(folder / f"{figure.name}.png")
            canvas.savefig(paths[-1], dpi=DPI)
    return paths


def _draw(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import NullFormatter

    for order, mark in enumerate(panel.marks):
        if isinstance(mark, Line):
            _line(axes, mark, order)
        elif isinstance(mark, Band):
            color = hexadecimal(mark.color)
            axes.fill_between(mark.x, mark.low, mark.high, color=color, alpha=0.16, lw=0, label=mark.label or None)
        else:
            _points(axes, mark, order)
    for which, axis in (("x", panel.x), ("y", panel.y)):
        getattr(axes, f"set_{which}label")(axis.title)
        if axis.log:
            getattr(axes, f"set_{which}scale")("log")
        getattr(axes, f"set_{which}lim")(*panel.limits(which))  # type: ignore[arg-type]
        places, texts = zip(*panel.ticks(which), strict=True)  # type: ignore[arg-type]
        getattr(axes, f"set_{which}ticks")(places, texts)
        getattr(axes, f"{which}axis").set_minor_formatter(NullFormatter())
        if axis.ticks:
            axes.tick_params(axis=which, which="minor", length=0)  # type: ignore[arg-type]
    if panel.title:
        axes.set_title(panel.title, pad=8)
    _legend(axes, panel)


def _line(axes: "Axes", line: Line, order: int) -> None:
    axes.plot(
        line.x, line.y, color=hexadecimal(line.color), lw=line.width, ls=(0, (4, 2.5)) if line.dash else "-",
        alpha=line.opacity, label=line.label or None, zorder=2 + order / 100, solid_capstyle="round",
    )  # fmt: skip


def _points(axes: "Axes", points: Points, order: int) -> None:
    colors = colors_of(points)
    edge = [hexadecimal(color) for color in colors]
    face = edge if points.filled else [PALETTE["paper"][0]] * len(edge)
    for x, interval, color in zip(points.x, points.y_interval, edge, strict=False):
        axes.plot([x, x], interval, color=color, lw=1.6, zorder=3 + order / 100)
    for y, interval, color in zip(points.y, points.x_interval, edge, strict=False):
        axes.plot(interval, [y, y], color=color, lw=1.6, zorder=3 + order / 100)
    size = points.size * (1.5 if points.symbol == "star" else 1.0)
    axes.scatter(
        points.x, points.y, s=size**2, c=face, edgecolors=edge if not points.filled else PALETTE["paper"][0],
        linewidths=1.4 if not points.filled else 0.6, marker=SYMBOLS[points.symbol], label=points.label or None,
        zorder=4 + order / 100,
    )  # fmt: skip


def _legend(axes: "Axes", panel: Panel) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = 1 if max(map(len, labels)) > 44 else min(len(labels), 2 if max(map(len, labels)) > 24 else 3)
        axes.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2,
            handlelength=1.6, columnspacing=1.4, labelspacing=0.35,
        )  # fmt: skip
        axes.set_title(panel.title, pad=10 + 15.5 * -(-len(labels) // columns))
    if panel.colors:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LinearSegmentedColormap

        name, low, high = panel.colors
        steps = [hexadecimal(i / 20) for i in range(21)]
        scale = ScalarMappable(cmap=LinearSegmentedColormap.from_list("sizes", steps))
        bar = axes.figure.colorbar(scale, ax=axes, aspect=30, pad=0.02, ticks=[0, 1])
        bar.ax.set_yticklabels([low, high])
        bar.set_label(name, labelpad=-12)
        bar.outline.set_visible(False)


def colors_of(points: Points) -> list[Color]:
    """The colour of each point."""
    if isinstance(points.color, str | float | int):
        return [points.color] * len(points.x)
    return list(points.color)


def hexadecimal(color: Color, dark: bool = False) -> str:
    """#rrggbb of a colour on light paper, or on dark."""
    if isinstance(color, str):
        return PALETTE[color][dark]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    low, high = SEQUENTIAL[dark]
    return to_hex(colormaps["viridis"](low + (high - low) * min(max(color, 0.0), 1.0)))
