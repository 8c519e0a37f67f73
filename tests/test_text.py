"""Cells in columns: what status, plans, fits and stores print."""

from scaling.text import align, table

ROWS = [("run", "N", "why"), ("L1-d16", "7.06k", ""), ("×", "12", "stopped")]


def test_numbers_are_flush_right_and_no_line_ends_in_blanks() -> None:
    assert align(ROWS) == ["run         N      why", "L1-d16  7.06k", "×          12  stopped"]
    assert align(ROWS, left=3) == ["run     N      why", "L1-d16  7.06k", "×       12     stopped"]


def test_headings_stand_over_a_rule_as_wide_as_the_table() -> None:
    heading, *rows = ROWS
    assert table(heading, rows, left=[0, 2]).splitlines() == [
        " run          N   why",
        " ────────────────────────",
        " L1-d16   7.06k",
        " ×           12   stopped",
    ]
    assert table(heading, []).splitlines() == [" run   N   why", " ─────────────"]
