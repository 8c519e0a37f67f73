"""Figures as pieces of a page: plotly's data and layout, and a legend in HTML."""

import html
import math
import textwrap
from collections.abc import Iterable
from typing import Any, Literal

from scaling.report.figures.spec import PALETTE, Axis, Band, Color, FigureSpec, Line, Panel, Points
from scaling.report.figures.static import colors_of, hexadecimal, legend_rows

STEPS = 50
"""colours that the sequential scale is cut into"""
PLOT_HEIGHT, BELOW = 340, 70
"""pixels of a panel in a notebook, and of what stands under it"""


def variables(dark: bool) -> str:
    """The palette as CSS variables."""
    named = {name: pair[dark] for name, pair in PALETTE.items()}
    named |= {f"s{i}": hexadecimal(i / STEPS, dark) for i in range(STEPS + 1)}
    return "".join(f"--{name}:{value};" for name, value in named.items())


def drawing(panel: Panel) -> dict[str, Any]:
    """A panel as plotly's data and layout on a page, whose legend stands outside."""
    data = [trace for mark in panel.marks for trace in traces(mark, panel)]
    return _short({"data": data, "layout": {**_layout(panel), "showlegend": False}})


def traces(mark: Line | Points | Band, panel: Panel) -> list[dict[str, Any]]:
    """What plotly draws for a mark; the last of it has the entry in plotly's own legend."""
    drawn = [trace | {"showlegend": False} for trace in _traces(mark, panel)]
    if mark.label:
        drawn[-1] |= {"name": html.escape(mark.label), "showlegend": True}
        if len(mark.x) == 0:
            drawn[-1] |= {"x": [None], "y": [None]}  # plotly gives no entry to a trace without points
    return drawn


def _traces(mark: Line | Points | Band, panel: Panel) -> Iterable[dict[str, Any]]:
    if isinstance(mark, Band):
        edge = {"type": "scatter", "mode": "lines", "x": list(mark.x), "line": {"width": 0}, "hoverinfo": "skip"}
        yield {**edge, "y": list(mark.low)}
        color = f"{name_of(mark.color)}/{round(255 * mark.opacity):02x}"
        yield {**edge, "y": list(mark.high), "fill": "tonexty", "fillcolor": color}
    elif isinstance(mark, Line):
        line = {"color": name_of(mark.color), "width": mark.width, "dash": "6px,4px" if mark.dash else "solid"}
        y = mark.y_title or panel.y.title
        text = f"{_lines(mark.hover)}<br>{panel.x.title} %{{x:.4g}}<br>{y} %{{y:.5g}}<extra></extra>"
        yield {
            "type": "scatter", "mode": "lines", "x": list(mark.x), "y": list(mark.y), "line": line,
            "opacity": mark.opacity, **({"hovertemplate": text} if mark.hover else {"hoverinfo": "skip"}),
        }  # fmt: skip
    else:
        yield _markers(mark, panel)


def _markers(points: Points, panel: Panel) -> dict[str, Any]:
    colors = [name_of(color) for color in colors_of(points)]
    # plotly draws the outlines of hollow symbols in their own colour
    symbol = points.symbol + ("" if points.filled else "-open")
    outline = {"width": int(points.opacity == 1), "color": "@paper"} if points.filled else {"width": 2}
    size = points.size * (1.7 if points.symbol == "star" else 1.25)
    trace: dict[str, Any] = {
        "type": "scatter", "mode": "markers", "x": list(points.x), "y": list(points.y), "cliponaxis": False,
        "marker": {"color": colors, "symbol": symbol, "size": size, "line": outline, "opacity": points.opacity},
    }  # fmt: skip
    bars: tuple[tuple[Literal["x", "y"], Any, Any], ...] = (
        ("y", points.y, points.y_interval),
        ("x", points.x, points.x_interval),
    )
    for name, places, intervals in bars:
        if intervals:
            bar = {"type": "data", "symmetric": False, "thickness": 1.8, "width": 0, "color": colors[0]}
            ends = [[panel.inside(name, end) for end in interval] for interval in intervals]
            bar["array"] = [high - at for at, (_, high) in zip(places, ends, strict=True)]
            bar["arrayminus"] = [at - low for at, (low, _) in zip(places, ends, strict=True)]
            trace[f"error_{name}"] = bar
    if points.hover:
        trace |= {"text": [_lines(text) for text in points.hover], "hovertemplate": "%{text}<extra></extra>"}
    else:
        trace["hoverinfo"] = "skip"
    return trace


def _layout(panel: Panel) -> dict[str, Any]:
    return {
        "xaxis": _axis(panel, panel.x, "x"),
        "yaxis": _axis(panel, panel.y, "y"),
        "font": {"size": 12.5, "color": "@ink"},
        "paper_bgcolor": "@paper",
        "plot_bgcolor": "@paper",
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "@paper", "bordercolor": "@muted", "font": {"color": "@ink"}},
        "margin": {"l": 8, "r": 14, "t": 10, "b": 8},
    }


def _axis(panel: Panel, axis: Axis, which: Any) -> dict[str, Any]:
    low, high = panel.limits(which)
    places, texts = zip(*panel.ticks(which), strict=True)
    return {
        "title": {"text": axis.title, "standoff": 8, "font": {"size": 12.5, "color": "@muted"}},
        "type": "log" if axis.log else "linear",
        "range": [math.log10(low), math.log10(high)] if axis.log else [low, high],
        "tickmode": "array",
        "exponentformat": "SI" if axis.scale == "si" else "power",
        "tickvals": list(places),
        "ticktext": list(texts),
        "gridcolor": "@grid",
        "linecolor": "@muted",
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": "@muted",
        "zeroline": False,
        "automargin": True,
    }


SHAPES = {
    "circle": "M11 2.6a4.4 4.4 0 1 0 .01 0Z",
    "diamond": "M11 1.6 16.4 7 11 12.4 5.6 7Z",
    "star": "M11 .8 12.7 4.9 17 5.2 13.7 8 14.8 12.3 11 10 7.2 12.3 8.3 8 5 5.2 9.3 4.9Z",
    "square": "M7 3H15V11H7Z",
}
"""of the symbols in a legend, as SVG paths in a box of 22 by 14"""


def legend(panel: Panel) -> list[dict[str, str]]:
    """Entries of a page's legend: label, and path and style of what stands beside it."""
    return [{"label": mark.label} | _swatch(mark) for mark in panel.marks if mark.label]


def _swatch(mark: Line | Points | Band) -> dict[str, str]:
    color = f"var(--{name_of(mark.color if isinstance(mark.color, str | float | int) else 0.5)[1:]})"
    if isinstance(mark, Band):
        return {"path": "M1 2H21V12H1Z", "style": f"fill:{color};opacity:.2"}
    if isinstance(mark, Line):
        dash = ";stroke-dasharray:5 3" if mark.dash else ""
        return {"path": "M1 7H21", "style": f"stroke:{color};stroke-width:2.4{dash}"}
    paint = f"fill:{color}" if mark.filled else f"fill:none;stroke:{color};stroke-width:2"
    return {"path": SHAPES[mark.symbol], "style": paint}


def name_of(color: Color) -> str:
    """A colour as the page's script knows it."""
    return f"@{color}" if isinstance(color, str) else f"@s{round(STEPS * min(max(color, 0.0), 1.0))}"


def _lines(text: str) -> str:
    return html.escape(text).replace("\n", "<br>").replace("%{", "%&#123;")


def _short(value: Any) -> Any:
    """Numbers with as many digits as can be seen; what JSON has no word for becomes null, which plotly leaves out."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    if isinstance(value, str | int | bool) or value is None:
        return value
    return float(f"{value:.7g}") if math.isfinite(value) else None


def plotly_figure(spec: FigureSpec) -> Any:
    """The figure as one of plotly's, on light paper, panels two side by side as in the PNG."""
    from plotly.graph_objects import Figure

    columns = min(len(spec.panels), 2)
    rows = -(-len(spec.panels) // 2)
    drawn: list[dict[str, Any]] = []
    caption = "<br>".join(textwrap.wrap(html.escape(spec.told), 95 * columns))
    layout: dict[str, Any] = {
        "title": {"text": f"<b>{html.escape(spec.title)}</b>", "x": 0.01, "font": {"size": 17}},
        "width": 520 * columns + 160, "hovermode": "closest", "annotations": [
            {"text": caption, "xref": "paper", "yref": "paper", "x": 0, "y": 0, "yshift": -62, "yanchor": "top",
             "xanchor": "left", "align": "left", "showarrow": False, "font": {"size": 10.5, "color": "@muted"}},
        ],
    }  # fmt: skip
    above = 24 + 21 * max(map(legend_rows, spec.panels)) + (20 if any(p.title for p in spec.panels) else 0)
    height = rows * (above + PLOT_HEIGHT) + (rows - 1) * BELOW
    for i, panel in enumerate(spec.panels):
        row, column = divmod(i, columns)
        top = 1 - (row * (above + PLOT_HEIGHT + BELOW) + above) / height
        y = (max(top - PLOT_HEIGHT / height, 0.0), top)
        x = (column / columns + (0.05 if column else 0.0), (column + 1) / columns - (0.07 if panel.colors else 0.02))
        drawn += _place(panel, str(i + 1) if i else "", x, y, layout)
    margin = {"l": 70, "r": 20, "t": 48, "b": 90 + 15 * caption.count("<br>")}
    layout |= {"margin": margin, "height": height + margin["t"] + margin["b"]}
    return Figure(_resolved({"data": drawn, "layout": layout}))


def _place(
    panel: Panel, mark: str, x: tuple[float, float], y: tuple[float, float], layout: dict[str, Any]
) -> list[dict[str, Any]]:
    """Traces of a panel on axes of its own, numbered `mark`, at shares `x` and `y` of the figure.

    Its axes and legend go into `layout`.
    """
    own = _layout(panel)
    axes = {f"xaxis{mark}": own.pop("xaxis"), f"yaxis{mark}": own.pop("yaxis")}
    axes[f"xaxis{mark}"] |= {"domain": x, "anchor": f"y{mark}"}
    axes[f"yaxis{mark}"] |= {"domain": y, "anchor": f"x{mark}"}
    legend = {"x": x[0], "y": y[1] + 0.005, "xanchor": "left", "yanchor": "bottom", "orientation": "h",
              "traceorder": "normal"}  # fmt: skip
    layout |= {**own, **axes, "showlegend": True, f"legend{mark}": legend}
    drawn = []
    for item in panel.marks:
        placed = {"xaxis": f"x{mark}", "yaxis": f"y{mark}", "legend": f"legend{mark}"}
        drawn += [trace | placed for trace in traces(item, panel)]
    if panel.title:
        layout["annotations"].append(
            {"text": f"<b>{html.escape(panel.title)}</b>", "xref": "paper", "yref": "paper", "x": x[0], "y": y[1],
             "yshift": 6 + 21 * legend_rows(panel), "xanchor": "left", "yanchor": "bottom", "showarrow": False,
             "font": {"size": 13}}
        )  # fmt: skip
    if panel.colors:
        drawn.append(_color_scale(panel, x, y, mark))
    return drawn


def _color_scale(panel: Panel, x: tuple[float, float], y: tuple[float, float], mark: str) -> dict[str, Any]:
    """An empty trace that carries the legend of the sequential scale."""
    assert panel.colors is not None
    name, low, high = panel.colors
    bar = {"x": x[1] + 0.005, "xanchor": "left", "y": sum(y) / 2, "len": y[1] - y[0], "thickness": 10, "title": name,
           "tickvals": [0, 1], "ticktext": [low, high], "outlinewidth": 0}  # fmt: skip
    steps = [[i / 10, f"@s{i * STEPS // 10}"] for i in range(11)]
    marker = {"color": [0], "cmin": 0, "cmax": 1, "colorscale": steps, "showscale": True, "colorbar": bar}
    return {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "xaxis": f"x{mark}", "yaxis": f"y{mark}",
            "showlegend": False, "hoverinfo": "skip", "marker": marker}  # fmt: skip


def _resolved(value: Any) -> Any:
    """Names of colours ("@law", "@law/29" with an opacity) as colours on light paper."""
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(item) for item in value]
    if not (isinstance(value, str) and value.startswith("@")):
        return value
    name, _, opacity = value[1:].partition("/")
    color = PALETTE[name][0] if name in PALETTE else hexadecimal(int(name[1:]) / STEPS)
    if not opacity:
        return color
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{int(opacity, 16) / 255:.3f})"
