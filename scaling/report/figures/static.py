"""Figures as PNG files, by matplotlib."""

import io
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.files import path_of
from scaling.report.figures.spec import PALETTE, SEQUENTIAL, Band, Color, FigureSpec, Line, Mark, Panel, Points
from scaling.result import naming

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
"""of PNG files"""
SCREEN_DPI = 100
"""of what a notebook shows and keeps"""
DASH = (0, (4, 2.5))
WIDTH = {1: 7.2, 2: 10.4}  # inches, by panels side by side
HEIGHT = 4.7
CAPTION = {1: 118, 2: 172}  # characters in a line
LABEL = 64  # characters of a legend's entry
SYMBOLS = {"circle": "o", "diamond": "D", "star": "*", "square": "s"}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a dollar in a name is a dollar
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


def save(specs: Mapping[str, FigureSpec], folder: str | Path) -> list[Path]:
    """Each figure as `folder/NAME.png`; the paths, in order."""
    folder = path_of(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, spec in specs.items():
        paths.append(folder / f"{name}.png")
        with naming(paths[-1]):
            matplotlib_figure(spec).savefig(paths[-1], dpi=DPI)
    return paths


def matplotlib_figure(spec: FigureSpec) -> "Figure":
    """The figure as one of matplotlib's, which a notebook shows with or without `%matplotlib inline`."""
    import matplotlib

    columns = min(len(spec.panels), 2)
    rows = -(-len(spec.panels) // 2)
    with matplotlib.rc_context(matplotlib.rcParamsDefault), matplotlib.rc_context(STYLE):
        drawn = _figure_class()(figsize=(WIDTH[columns], HEIGHT * rows), dpi=SCREEN_DPI, layout="constrained")
        places = drawn.subplots(rows, columns, squeeze=False).ravel()
        for axes in places[len(spec.panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(places, spec.panels, strict=False):
            _draw(axes, panel, max(map(legend_rows, spec.panels)))
        drawn.suptitle(spec.title, x=0.01, ha="left", weight="bold", size=13, color=PALETTE["ink"][0])
        caption = textwrap.fill(spec.told, CAPTION[columns])
        drawn.supxlabel(caption, x=0.01, ha="left", size=7.5, color=PALETTE["muted"][0])
        drawn.draw_without_rendering()  # ticks take their style when they are first drawn
    return drawn


@cache
def _figure_class() -> "type[Figure]":
    """matplotlib's figure, knowing how to show itself where no backend has taught the notebook to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Drawing(Figure):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png")
            return picture.getvalue()

    return Drawing


def _draw(axes: "Axes", panel: Panel, rows: int) -> None:
    from matplotlib.ticker import NullFormatter

    for order, mark in enumerate(panel.marks):
        if isinstance(mark, Line):
            _line(axes, mark, order)
        elif isinstance(mark, Band):
            color = hexadecimal(mark.color)
            axes.fill_between(mark.x, mark.low, mark.high, color=color, alpha=mark.opacity, lw=0)
        else:
            _points(axes, panel, mark, order)
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
    _legend(axes, panel, rows)
    if panel.colors:
        _colorbar(axes, panel)


def _line(axes: "Axes", line: Line, order: int) -> None:
    axes.plot(
        line.x, line.y, color=hexadecimal(line.color), lw=line.width, ls=DASH if line.dash else "-",
        alpha=line.opacity, zorder=(6 if line.front else 2) + order / 100, solid_capstyle="round",
    )  # fmt: skip


def _points(axes: "Axes", panel: Panel, points: Points, order: int) -> None:
    colors = colors_of(points)
    edge = [hexadecimal(color) for color in colors]
    face = edge if points.filled else [PALETTE["paper"][0]] * len(edge)
    for x, ends, color in zip(points.x, points.y_interval, edge, strict=False):
        axes.plot([x, x], [panel.inside("y", end) for end in ends], color=color, lw=1.6, zorder=3 + order / 100)
    for y, ends, color in zip(points.y, points.x_interval, edge, strict=False):
        axes.plot([panel.inside("x", end) for end in ends], [y, y], color=color, lw=1.6, zorder=3 + order / 100)
    size = points.size * (1.5 if points.symbol == "star" else 1.0)
    axes.scatter(
        points.x, points.y, s=size**2, c=face, edgecolors=edge if not points.filled else PALETTE["paper"][0],
        linewidths=1.4 if not points.filled else 0.6 * (points.opacity == 1), marker=SYMBOLS[points.symbol],
        alpha=points.opacity, zorder=4 + order / 100,
    )  # fmt: skip


def _legend(axes: "Axes", panel: Panel, rows: int) -> None:
    """Entries above the axes, where they hide nothing; `rows` lines are kept free for them."""
    entries = [mark for mark in panel.marks if mark.label]
    axes.set_title(panel.title, pad=10 + 15.5 * rows)
    if entries:
        axes.legend(
            [_handle(mark) for mark in entries], [_shown(mark.label) for mark in entries], loc="lower left",
            bbox_to_anchor=(-0.015, 1.0), ncols=_columns(panel), borderaxespad=0.2, handlelength=1.6,
            columnspacing=1.4, labelspacing=0.35,
        )  # fmt: skip


def _shown(label: str) -> str:
    """As much of a label as leaves room for the axes."""
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"


def _columns(panel: Panel) -> int:
    """Entries side by side in the legend."""
    longest = max((len(mark.label) for mark in panel.marks), default=0)
    count = sum(bool(mark.label) for mark in panel.marks)
    return max(1, min(count, 3 if longest <= 24 else 2 if longest <= 40 else 1))


def legend_rows(panel: Panel) -> int:
    """Lines that the legend of a panel takes."""
    return -(-sum(bool(mark.label) for mark in panel.marks) // _columns(panel))


def _handle(mark: Mark) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    color = hexadecimal(mark.color if isinstance(mark.color, str | float | int) else 0.5)
    if isinstance(mark, Band):
        return Patch(color=color, alpha=mark.opacity, lw=0)
    if isinstance(mark, Line):
        return Line2D([], [], color=color, lw=min(mark.width, 2.0), ls=DASH if mark.dash else "-")
    face = color if mark.filled else PALETTE["paper"][0]
    size = 10 if mark.symbol == "star" else 6.5
    return Line2D([], [], ls="", marker=SYMBOLS[mark.symbol], mfc=face, mec=color, ms=size, mew=1.2)


def _colorbar(axes: "Axes", panel: Panel) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap

    assert panel.colors is not None
    name, low, high = panel.colors
    scale = ScalarMappable(cmap=LinearSegmentedColormap.from_list("sizes", [hexadecimal(i / 20) for i in range(21)]))
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
