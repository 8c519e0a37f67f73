"""Cells in columns: what status, plans, fits and stores print."""

import pytest

from scaling.text import align, table, wrapped

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


def test_a_table_that_is_too_wide_goes_on_below_each_row_and_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    headings = ["run", "N", "a long heading", "reason", "loss"]
    rows = [["L12-d768-1.16M-430a256d", f"{i}", "x" * 18, "killed by SIGKILL", f"{i}.5"] for i in range(3)]
    for width in (40, 60, 80, 200):
        monkeypatch.setenv("COLUMNS", f"{width}")
        lines = table(headings, rows).splitlines()
        assert max(map(len, lines)) <= width
        for row in (headings, *rows):
            assert all(any(cell in line for line in lines) for cell in row)
        bands = (len(lines) - 1) // 4
        assert len(lines) == 4 * bands + 1 and (bands == 1) == (width >= 80)
        # cells of a column end under one another, in every band
        assert len({line.rindex("SIGKILL") for line in lines if "SIGKILL" in line}) == 1


def test_what_goes_on_below_a_row_is_no_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    lines = table(["run", "state", "reason"], [["a" * 12, "completed", ""], ["b", "failed", "killed by SIGKILL"]])
    assert [line.split()[0] for line in lines.splitlines()] == ["run", "reason", "─" * 23, "a" * 12, "b", "killed"]


def test_words_are_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    path = "/a/path/that-is/longer-than/a-line/of-the/terminal"
    assert wrapped(f"look at {path} now", "- ").splitlines() == ["- look at", f"  {path}", "  now"]
