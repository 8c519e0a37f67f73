"""Tables of runs tell apart those that differ in a seed or in the axis of a grid."""

from pathlib import Path
from typing import Any

from synthetic_sweep import sweep_config, write_runs

from scaling.config import SweepConfig
from scaling.sweeps import describe_sweep, format_status, format_sweep, make_runs, status
from scaling.sweeps.run_store.labels import label_cell, varied

AXES = {"model.params": [20e3, 40e3], "tokens": [1e5], "model.qk_norm": [False, True]}


def grid(axes: dict[str, Any] = AXES, **changes: Any) -> SweepConfig:
    return sweep_config(design={"kind": "grid", "axes": axes}, forecast=None, **changes)


def rows_of(text: str, config: SweepConfig) -> tuple[list[str], list[tuple[str, ...]]]:
    """The headings, and the cells of each run but its id and, as there is nothing in it, the last."""
    lines = text.splitlines()
    ids = {run.id for run in make_runs(config)}
    cells = [line.split() for line in lines]
    return lines[0].split(), [tuple(row[1:]) for row in cells if row and row[0] in ids]


def test_a_dry_run_shows_what_is_varied(tmp_path: Path) -> None:
    config = grid(seeds=[3, 4])
    headings, rows = rows_of(format_sweep(describe_sweep(config, tmp_path)), config)
    assert headings[1:4] == ["model.qk_norm", "seed", "N"]  # N and D have columns of their own
    assert [row[:2] for row in rows[:4]] == [("false", "3"), ("false", "4"), ("true", "3"), ("true", "4")]
    assert len(set(rows)) == len(rows) == 8
    same = grid(AXES | {"model.qk_norm": [False]})
    assert rows_of(format_sweep(describe_sweep(same, tmp_path)), same)[0][1] == "N"


def test_a_rate_that_is_varied_is_shown_once_in_a_dry_run(tmp_path: Path) -> None:
    rates = grid(
        {"model.params": [20e3], "optimizer.learning_rate": [0.01, 0.02], "tokens": [1e5]}, learning_rate=None
    )
    assert "optimizer.learning_rate" not in format_sweep(describe_sweep(rates, tmp_path))
    write_runs(rates, tmp_path / "synthetic", lines=2)
    headings, rows = rows_of(format_status(status(tmp_path / "synthetic")), rates)
    assert headings[4] == "optimizer.learning_rate" and [row[3] for row in rows] == ["0.01", "0.02"]


def test_status_shows_what_is_varied(tmp_path: Path) -> None:
    config = grid(seeds=[3, 4])
    write_runs(config, tmp_path / "synthetic", lines=2)
    found = status(tmp_path / "synthetic")
    headings, rows = rows_of(format_status(found), config)
    assert headings[4:7] == ["model.qk_norm", "seed", "N"]
    assert [row[3:5] for row in rows[:4]] == [("false", "3"), ("false", "4"), ("true", "3"), ("true", "4")]
    assert [row["label"]["seed"] for row in found["runs"]] == [3, 4] * 4
    (tmp_path / "synthetic" / "plan.json").unlink()  # the seed is on record
    assert {row["label"]["seed"] for row in status(tmp_path / "synthetic")["runs"]} == {3, 4}


def test_values_are_written_as_a_configuration_has_them() -> None:
    labels = [{"a": 1, "b": {"x": 1}, "budget": 1.0}, {"a": 1, "b": {"x": 2}, "budget": 2.0}, {"a": 1}]
    assert varied(labels) == ["b"] and label_cell(labels[0], "b") == '{"x": 1}'
    assert [label_cell({"k": value}, "k") for value in (2.5e-4, "relu2", None, True)] == [
        "0.00025", "relu2", "null", "true",
    ]  # fmt: skip
    assert label_cell({}, "k") == ""
