"""Tables as aligned text."""

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


def range_of(ends: Sequence[float | None]) -> str:
    """The two ends of an interval; None is an open one."""
    return f"{number(ends[0])} … {number(ends[1])}"
