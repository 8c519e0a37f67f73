"""Tables as aligned text."""

import math
from collections.abc import Collection, Sequence


def align(rows: Sequence[Sequence[str]], left: int | Collection[int] = 1, gap: str = "  ") -> list[str]:
    """Rows of cells as lines, `gap` between.

    left: which columns are set flush left, or how many of the first; the others are set flush right.
    """
    flush_left = range(left) if isinstance(left, int) else left
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        gap.join(
            cell.ljust(width) if i in flush_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int | Collection[int] = 1) -> str:
    """Rows under their headings and a rule. left: as in `align`."""
    heading, *lines = align([headings, *rows], left, gap="   ")
    rule = "─" * max(map(len, (heading, *lines)))
    return "\n".join(f" {line}" for line in (heading, rule, *lines))


def number(value: float | None) -> str:
    """Four digits; None is a dash."""
    return "—" if value is None else f"{value:.4g}"


def by_width(value: float | None, ends: Sequence[float | None]) -> tuple[str, str]:
    """A value and its interval, with as many digits as two of the interval's width take."""
    low, high = ends
    if value is None or low is None or high is None or not 0 < high - low < math.inf or not math.isfinite(value):
        return ("—" if value is None else f"{value:.6g}"), range_of(ends)
    step = math.floor(math.log10(high - low)) - 1
    return _rounded(value, step), f"{_rounded(low, step)} … {_rounded(high, step)}"


def _rounded(value: float, step: int) -> str:
    """To a multiple of 10^step, but to no fewer than two digits and no more than nine."""
    size = math.floor(math.log10(abs(value))) if value else 0
    digits = min(max(size - step + 1, 2), 9)
    if 1e-4 <= abs(value) < 1e6:
        return f"{round(value, digits - 1 - size):.{max(digits - 1 - size, 0)}f}"
    return f"{value:.{digits - 1}e}"


def range_of(ends: Sequence[float | None]) -> str:
    """The two ends of an interval; None is an open one."""
    return f"{number(ends[0])} … {number(ends[1])}"
