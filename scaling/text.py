"""Tables as text: cells in columns."""

from collections.abc import Collection, Sequence


def align(rows: Sequence[Sequence[str]], right: Collection[int] | None = None, gap: str = "  ") -> list[str]:
    """Rows of cells as lines; columns `right` are set flush right, all but the first where None."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    flush_right = range(1, len(widths)) if right is None else right
    return [
        gap.join(
            cell.rjust(width) if i in flush_right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Rows under their headings and a rule; columns `right` are set flush right."""
    heading, *lines = align([headings, *rows], right, gap="   ")
    rule = "─" * max(map(len, (heading, *lines)))
    return "\n".join(f" {line}" for line in (heading, rule, *lines))
