"""A figure as a plain value: panels of marks with their axes, drawn by `static` (PNG) and `interactive` (plotly)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scaling.units import Scale, write_number

Color = str | float
"""a name of PALETTE, or a place on the sequential scale from 0 (small) to 1 (large)"""
Symbol = Literal["circle", "diamond", "star", "square"]

PALETTE: dict[str, tuple[str, str]] = {  # on light paper, on dark paper
    "ink": ("#1c2127", "#e7eaee"),
    "muted": ("#6b7480", "#98a2ae"),
    "grid": ("#e5e8ec", "#2c323a"),
    "paper": ("#ffffff", "#191d22"),
    "law": ("#0072b2", "#56b4e9"),  # Okabe & Ito 2008: told apart with any colour vision
    "forecast": ("#d55e00", "#e69f00"),
    "actual": ("#00795a", "#2cc49a"),
    "bad": ("#b0457b", "#e59cc4"),
}
SEQUENTIAL = ((0.0, 0.76), (0.32, 1.0))
"""the part of viridis that stands out on light and on dark paper"""


@dataclass(frozen=True)
class Line:
    """A curve."""

    x: Sequence[float]
    y: Sequence[float]
    color: Color = "law"
    label: str = ""
    """entry in the legend; empty for none"""
    width: float = 2.0
    """points of 1/72 inch, or pixels on a page"""
    dash: bool = False
    opacity: float = 1.0
    hover: str = ""
    """what the page shows above the coordinates; empty: the curve takes no part in hovering"""
    front: bool = False
    """drawn over the points, which otherwise cover it"""
    y_title: str = ""
    """what hovering calls its y, where that is not what the axis says"""


@dataclass(frozen=True)
class Points:
    """Markers, with a bar for an interval of y or of x where one is given."""

    x: Sequence[float]
    y: Sequence[float]
    color: Color | Sequence[Color] = "law"
    label: str = ""
    symbol: Symbol = "circle"
    filled: bool = True
    size: float = 7.0
    y_interval: Sequence[tuple[float, float]] = ()
    """(low, high) of each point"""
    x_interval: Sequence[tuple[float, float]] = ()
    hover: Sequence[str] = ()
    """one text for each point; lines are separated by newlines"""
    opacity: float = 1.0
    """below 1 where points are so many that they hide each other"""


@dataclass(frozen=True)
class Band:
    """The area between two curves."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: Color = "law"
    label: str = ""
    opacity: float = 0.16


Mark = Line | Points | Band


@dataclass(frozen=True)
class Axis:
    """A title with its unit, and how numbers are placed and written."""

    title: str
    scale: Scale = "plain"
    log: bool = False
    limits: tuple[float, float] | None = None
    """shown part; unset: what the marks need"""
    ticks: Sequence[tuple[float, str]] = ()
    """places and their texts; unset: chosen for the shown part"""


@dataclass(frozen=True)
class Panel:
    """One pair of axes and what is drawn on them, in order."""

    title: str
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    colors: tuple[str, str, str] | None = None
    """what the sequential scale means: its name, its low end, its high end"""

    def limits(self, which: Literal["x", "y"]) -> tuple[float, float]:
        """Ends of an axis: those asked for, or around all marks with a margin."""
        axis = self.x if which == "x" else self.y
        if axis.limits is not None:
            return axis.limits
        values = [
            v for mark in self.marks for v in _extent(mark, which) if math.isfinite(v) and (v > 0 or not axis.log)
        ]
        if not values:
            return (1.0, 10.0) if axis.log else (0.0, 1.0)
        low, high = min(values), max(values)
        if axis.log:
            margin = max((high / low) ** 0.05, 1.02)
            return low / margin, high * margin
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        return low - margin, high + margin

    def inside(self, which: Literal["x", "y"], value: float) -> float:
        """`value`, or the end of the axis that it lies beyond: intervals may be without an end."""
        low, high = self.limits(which)
        return min(max(value, low), high)

    def ticks(self, which: Literal["x", "y"]) -> list[tuple[float, str]]:
        """Places and texts of an axis' ticks."""
        axis = self.x if which == "x" else self.y
        if axis.ticks:
            return list(axis.ticks)
        low, high = self.limits(which)
        values = log_ticks(low, high) if axis.log else linear_ticks(low, high)
        return [(value, write_number(value, axis.scale)) for value in values]


@dataclass(frozen=True)
class FigureSpec:
    """Panels, two side by side, under one title, with the conventions of what they show."""

    title: str
    caption: str
    panels: Sequence[Panel] = field(default_factory=tuple)
    conventions: str = ""
    """which N, FLOPs and loss it shows; a page of several figures says it once"""

    @property
    def told(self) -> str:
        """The caption of a figure that stands alone."""
        return f"{self.caption} {self.conventions}".strip()


def _extent(mark: Mark, which: Literal["x", "y"]) -> Iterable[float]:
    if which == "x":
        yield from mark.x
        if isinstance(mark, Points):
            yield from (v for pair in mark.x_interval for v in pair)
    elif isinstance(mark, Band):
        yield from mark.low
        yield from mark.high
    else:
        yield from mark.y
        if isinstance(mark, Points):
            yield from (v for pair in mark.y_interval for v in pair)


def log_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between `low` and `high` for a logarithmic axis, about `wanted` of them."""
    best: list[float] = []
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for step in range(10, 0, -1):  # every tenth decade, … every decade
        ticks = [10.0**k for k in decades if k % step == 0 and low <= 10.0**k <= high]
        best = _nearer(best, ticks, wanted)
    for digits in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), range(1, 10)):
        ticks = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        best = _nearer(best, ticks, wanted)
    return _nearer(best, linear_ticks(low, high, wanted), wanted) if high < 6 * low else best


def linear_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between `low` and `high`, evenly spaced, about `wanted` of them."""
    best: list[float] = []
    rough = (high - low) / wanted
    for exponent in (math.floor(math.log10(rough)), math.floor(math.log10(rough)) + 1):
        for digit in (1, 2, 2.5, 5):
            step = digit * 10.0**exponent
            count = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
            best = _nearer(best, [round(i * step, 12 - exponent) for i in count], wanted)
    return best


def _nearer(a: list[float], b: list[float], wanted: int) -> list[float]:
    return b if abs(len(b) - wanted) < abs(len(a) - wanted) else a
