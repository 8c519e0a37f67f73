"""Tables as aligned text."""

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Rows of cells as lines: the first `left` columns to the left, the others to the right, two spaces between."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def number(value: float | None) -> str:
    """Four digits; None is a dash."""
    return "—" if value is None else f"{value:.4g}"


def range_of(ends: Sequence[float | None]) -> str:
    """The two ends of an interval; None is an open one."""
    return f"{number(ends[0])} … {number(ends[1])}"
