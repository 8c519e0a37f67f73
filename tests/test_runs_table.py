"""The table of a sweep's results, as a frame and as a parquet file."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_sweep import sweep_config, write_forecast, write_runs
from test_run_store import RESULT

from scaling import laws, load_runs
from scaling.errors import UserError
from scaling.result import write_result
from scaling.sweeps.run_store import table_of, write_table

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text("ab\x00é", max_size=3)


def written(home: Path) -> pd.DataFrame:
    return pd.read_parquet(write_table(home))


def test_the_parquet_of_a_sweep_is_the_table_of_its_records(tmp_path: Path) -> None:
    home = tmp_path / "synthetic"
    write_runs(sweep_config(), home, broken=3, lines=2)
    write_forecast(sweep_config(), home, lines=2)
    table = load_runs(home)
    assert len(table) == 17 and table["mfu"].tolist() == [None] * 17
    pd.testing.assert_frame_equal(written(home), table)


def test_nested_and_uneven_facts_are_flat_columns_of_one_type(tmp_path: Path) -> None:
    facts = [
        {"mesh": {"data": 2, "fsdp": 1}, "last_good": None, "window": 8, "tuned": True, "grid": [1, 2]},
        {"mesh": {"data": 1}, "last_good": {"step": 7, "loss": 2.5}, "window": "all", "grid": []},
        {"d_model": 8, "window": None, "tuned": False, "rate": 1},
        {"rate": 0.5, "huge": 2**80},
    ]
    for i, each in enumerate(facts):
        write_result(tmp_path / f"r{i}", replace(RESULT, run_id=f"r{i}", facts=each, mfu=None if i else 0.4))
    table = written(tmp_path)
    pd.testing.assert_frame_equal(table, load_runs(tmp_path))
    assert not {"facts", "mesh", "versions"} & set(table.columns)
    kept = table.astype(object).where(table.notna(), None)
    assert kept["mesh_data"].tolist() == [2, 1, None, None] and kept["last_good_step"].tolist() == [
        None,
        7,
        None,
        None,
    ]
    assert kept["window"].tolist() == ["8", "all", None, None] and kept["grid"].tolist() == [
        "[1, 2]",
        "[]",
        None,
        None,
    ]
    assert table["tuned"].tolist() == [True, None, False, None] and table["rate"].dtype == float
    assert kept["huge"].tolist() == [None, None, None, 2.0**80] and kept["mfu"].tolist() == [0.4, None, None, None]
    assert str(table["tokens"].dtype) == "int64"


@given(st.lists(st.dictionaries(st.sampled_from("abc"), SCALARS), min_size=1, max_size=4))
def test_any_rows_can_be_written_and_read_again(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    table = table_of(rows)
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    table.to_parquet(path)
    if len(table.columns):
        pd.testing.assert_frame_equal(pd.read_parquet(path), table)


def test_a_sweep_without_results_has_an_empty_table_with_the_columns(tmp_path: Path) -> None:
    (tmp_path / "planned").mkdir()
    table = written(tmp_path)
    assert len(table) == 0 and {"loss", "validity", "role"} <= set(table.columns)


def test_a_write_that_fails_leaves_the_last_table_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_result(tmp_path / "a", RESULT)
    before = write_table(tmp_path).read_bytes()
    write_result(tmp_path / "b", replace(RESULT, run_id="b"))

    def full(self: pd.DataFrame, path: str, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", full)
        with pytest.raises(OSError, match=r"runs\.parquet"):
            write_table(tmp_path)
    assert (tmp_path / "runs.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "runs.parquet"]
    assert len(written(tmp_path)) == 2


def test_a_broken_record_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"bad/result\.json"):
        write_table(tmp_path)
    assert not (tmp_path / "runs.parquet").exists()


def test_every_key_of_the_design_is_a_column(tmp_path: Path) -> None:
    axes = {"model.params": [20e3, 40e3], "tokens": [1e5, 2e5], "batch_size": [4, 8], "optimizer.b2": [0.9, 0.99]}
    base = sweep_config().run
    run = {key: base[key] for key in ("model", "data")}
    sweep = sweep_config(run=run, design={"kind": "grid", "axes": axes}, forecast=None)
    write_runs(sweep, tmp_path / "grid", lines=2)
    table = load_runs(tmp_path / "grid")
    assert len(table) == 16
    for column in ("model.params", "run.batch_size", "optimizer.b2"):
        assert sorted(table[column].unique()) == axes[column.removeprefix("run.")]
    assert (table["tokens"] % 128 == 0).all()  # what was trained on, in whole batches, and not what was asked for
    pd.testing.assert_frame_equal(written(tmp_path / "grid"), table)
    with pytest.raises(UserError, match=r"the runs mix run.batch_size: 4 .*--where \"run.batch_size == 4\""):
        laws.from_results(table)
    one = laws.from_results(table, where=["run.batch_size == 4", "optimizer.b2 == 0.9"])
    assert len(one) == 4 and len(one.exclusions) == 12
