"""Tables as aligned text, and the numbers in them."""

import math
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence


def align(rows: Sequence[Sequence[str]], left: int | Collection[int] = 1, gap: str = "  ") -> list[str]:
    """Rows of cells as lines, `gap` between.

    left: the columns to align left, or the number of first columns; the others are aligned right.
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


def percent(share: float) -> str:
    """A level as text: 90%, and 99.99%, which is not rounded to 100%."""
    return f"{100 * share:.6g}%"


def columns() -> int:
    """Characters per line: the terminal's, or COLUMNS; 80 where output goes elsewhere."""
    return shutil.get_terminal_size().columns


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int | Collection[int] = 1) -> str:
    """Rows under their headings and a rule. left: as in `align`.

    A table wider than `columns()` continues below each row with the remaining columns, unless these are empty there;
    no cell is cut.
    """
    flush_left = range(left) if isinstance(left, int) else left
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    room, gap = columns(), "   "
    if sum(widths) + len(gap) * (len(widths) - 1) >= room:
        gap = "  "
    bands = _bands(widths, len(gap), room)
    blocks = []
    for start, band in zip((" ", *["   "] * len(bands)), bands, strict=False):
        picked = [[row[i] for i in band] for row in (headings, *rows)]
        lines = align(picked, {k for k, i in enumerate(band) if i in flush_left}, gap)
        blocks.append([start + line for line in lines])
    heading, *body = zip(*blocks, strict=True)
    rule = " " + "─" * (max(len(line) for lines in (heading, *body) for line in lines) - 1)
    return "\n".join(line for lines in (heading, (rule,), *body) for line in lines if line.strip())


def _bands(widths: Sequence[int], gap: int, room: int) -> list[range]:
    """Ranges of columns that fit side by side within `room` characters."""
    bands: list[range] = []
    start = used = 0
    for i, width in enumerate(widths):
        indent = 3 if bands else 1
        if i > start and indent + used + gap + width > room:
            bands.append(range(start, i))
            start, used = i, 0
        used += width + (gap if i > start else 0)
    return [*bands, range(start, len(widths))]


def wrapped(text: str, start: str = "") -> str:
    """Words wrapped to lines of at most `columns()` characters, none of them cut. start: text before the first line;
    the others are indented by its width."""
    return textwrap.fill(
        text, columns(), initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def folded(text: str) -> str:
    """The text with sentences wrapped to `columns()` characters on a terminal; elsewhere each stays one line, which
    is easier to search. Rows of tables, recognised by two spaces between cells, are unchanged."""
    if not sys.stdout.isatty():
        return text
    width = columns()
    return "\n".join(
        line if len(line) <= width or "  " in line.strip() else "\n".join(_fold(line, width))
        for line in text.split("\n")
    )


def _fold(line: str, width: int) -> list[str]:
    """A wrapped line; continuations are indented by two more spaces, to set them apart from new lines."""
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line, width, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def number(value: float | None) -> str:
    """Four digits; None is a dash."""
    return "—" if value is None else f"{value:.4g}"


def by_width(value: float | None, ends: Sequence[float | None]) -> tuple[str, str]:
    """A value and its interval, rounded to two digits of the interval's width; an open end is a dash.

    The width of an interval open on one side is twice the distance of the other end from the value.
    """
    known = [end for end in ends if end is not None]
    wide = 0.0
    if value is not None and known and math.isfinite(value):
        wide = known[1] - known[0] if len(known) == 2 else 2 * abs(value - known[0])
    if value is None or not 0 < wide < math.inf:
        return ("—" if value is None else f"{value:.6g}"), range_of(ends)
    step = math.floor(math.log10(wide)) - 1
    low, high = ("—" if end is None else _rounded(end, step) for end in ends)
    return _rounded(value, step), f"{low} … {high}"


def _rounded(value: float, step: int) -> str:
    """To a multiple of 10^step, but to no fewer than two digits and no more than nine."""
    if not value:
        return "0"
    size = math.floor(math.log10(abs(value)))
    digits = min(max(size - step + 1, 2), 9)
    if 1e-4 <= abs(value) < 1e6:
        return f"{round(value, digits - 1 - size):.{max(digits - 1 - size, 0)}f}"
    return f"{value:.{digits - 1}e}"


def range_of(ends: Sequence[float | None]) -> str:
    """The two ends of an interval; None is an open one."""
    return f"{number(ends[0])} … {number(ends[1])}"
