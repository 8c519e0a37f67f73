"""What Hypothesis draws is the same each time."""

import importlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def drawn() -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []

    @settings(max_examples=200)
    @given(st.integers(), st.text())
    def note(number: int, word: str) -> None:
        found.append((number, word))

    note()
    return found


def test_examples_do_not_depend_on_what_was_imported_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = drawn()
    (tmp_path / "odd_module.py").write_text(f"ODD = {[*range(7001, 7100), *map(str, range(7001, 7100))]}")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("odd_module")
    assert drawn() == before
