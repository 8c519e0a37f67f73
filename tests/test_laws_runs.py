"""The table that laws are fitted to: what it refuses, what it records."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling import laws
from scaling.errors import UserError
from scaling.laws.table.overflow import overflowed


def table(**changes):
    n = np.array([1e6, 2e6, 4e6, 1e6, 2e6, 4e6, 8e6, 8e6])
    d = np.array([1e8, 1e8, 1e8, 4e8, 4e8, 4e8, 1e8, 4e8])
    values = {"params": n, "tokens": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28}
    return pd.DataFrame(values | changes)


def changed(column, row, value):
    df = table()
    df[column] = df[column].astype(object)
    df.loc[row, column] = value
    return df


@pytest.mark.parametrize(
    ("column", "row", "value", "said"),
    [
        ("loss", 3, float("nan"), r"'loss' must be positive and finite; 1 of 8 rows are not: 3 \(nan\)"),
        ("loss", 2, None, r"2 \(nan\)"),
        ("tokens", 5, -1.0, r"'tokens' .* 5 \(-1\)"),
        ("params", 0, 0, r"'params' .* 0 \(0\)"),
        ("params", 1, "seven", r"'params', row 1: 'seven' is not a number; write 7e9 or 7B"),
        ("tokens", 4, float("inf"), r"4 \(inf\)"),
    ],
)
def test_a_value_no_run_can_have_is_named_with_its_row(column, row, value, said):
    with pytest.raises(UserError, match=said):
        laws.Runs(changed(column, row, value))


def test_the_same_row_twice_is_named():
    df = pd.concat([table(), table().iloc[[2]].set_axis(["again"])])
    with pytest.raises(UserError, match="rows 2 and again are the same run twice"):
        laws.Runs(df)


def test_two_seeds_of_one_shape_are_not_duplicates():
    df = pd.concat([table(), table().iloc[[2]].assign(loss=3.0)], ignore_index=True)
    assert len(laws.Runs(df)) == 9


def test_a_missing_column_says_which_there_are():
    with pytest.raises(UserError, match=r"no column N='N'; the table has params, tokens, loss"):
        laws.Runs(table(), N="N")


def test_integers_do_not_overflow():
    df = table(params=np.full(8, 70_000_000_000), tokens=np.arange(1, 9) * 1_400_000_000_000)
    np.testing.assert_allclose(laws.Runs(df).flops, 6 * 7e10 * 1.4e12 * np.arange(1, 9), rtol=1e-14)


@pytest.mark.parametrize(
    ("product", "off"),
    [
        (lambda n, d: 6 * n * d, 1.01),
        (lambda n, d: 6 * n.astype(np.uint64) * d.astype(np.uint64), 1.01),
        (lambda n, d: (6 * n * d).astype(float), 1.01),
        (lambda n, d: 6.0 * (n * d), 1.01),
        (lambda n, d: (6 * n * d).astype(np.int32), 1.01),
        # By another convention it is told only where no convention can be so far off.
        (lambda n, d: (7 * n.astype(object) * d.astype(object) % 2**64).astype(np.uint64), 12.0),
    ],
    ids=["int64", "uint64", "float", "late float", "int32", "other convention"],
)
def test_flops_that_wrapped_to_positive_values_are_named(product, off):
    """Of 40 runs from 1e17 to 6e23 FLOPs whose FLOPs were multiplied as whole numbers, those that overflowed."""
    n = np.geomspace(1e8, 7e10, 40).astype(np.int64)
    d = np.geomspace(2e8, 1.4e12, 40).astype(np.int64)
    df = pd.DataFrame({"params": n, "tokens": d, "loss": np.linspace(3, 2, 40), "C": product(n, d)})
    df = df[df.C > 0]  # the others are refused as negative
    bad = df.index[6.0 * df.params * df.tokens / df.C > off]
    assert len(bad) > 3
    with pytest.raises(UserError, match=rf"'C' overflowed whole numbers in {len(bad)} of {len(df)} rows: {bad[0]} "):
        laws.Runs(df, C="C")
    good = df.drop(bad)
    assert not len(good) or len(laws.Runs(good, C="C")) == len(good)


@given(
    n=st.integers(1_000, 10**12), d=st.integers(10_000, 10**14), factor=st.floats(1 / 11, 11),
    unit=st.sampled_from([1.0, 1e15, 1e18]),
)  # fmt: skip
def test_honest_flops_of_any_convention_and_unit_are_none_that_overflowed(n, d, factor, unit):
    flops = 6.0 * n * d * factor / unit
    n, d = (np.array([float(x)]) for x in (n, d))
    for dtype in (float, np.int64, np.uint64) + (np.int32,) * (unit == 1):
        if 1 <= flops <= (np.inf if dtype is float else np.iinfo(dtype).max):
            C = np.array([flops]).astype(dtype)
            assert not overflowed(C, C.astype(float), n, d).any()


@pytest.mark.parametrize(
    ("df", "said"),
    [
        (table().iloc[:5], "5 parameters and needs at least 6 runs; there are 5"),
        (table(tokens=np.full(8, 1e8)).assign(loss=np.arange(2.0, 2.8, 0.1)), "differ in D; all 8 have D = 1e.08"),
        (table(tokens=20 * table().params).assign(loss=np.arange(2.0, 2.8, 0.1)), "all runs have D/N = 20"),
    ],
)
def test_runs_that_cannot_carry_the_law_are_refused(df, said):
    with pytest.raises(UserError, match=said):
        laws.fit(laws.Runs(df), "chinchilla")


def test_seeds_add_no_settings():
    """Four settings leave one of Chinchilla's five parameters open, however many seeds each has."""
    df = pd.concat([table().iloc[[0, 1, 3, 4]]] * 3, ignore_index=True)
    df["loss"] *= 1 + 1e-3 * np.random.default_rng(0).standard_normal(12)
    said = "chinchilla has 5 free parameters without priors and .* of N and D; these 12 are at 4"
    with pytest.raises(UserError, match=said):
        laws.fit(df, "chinchilla", starts=4)
    assert laws.fit(df, "chinchilla", starts=4, fixed={"E": 1.7}).form.name == "chinchilla"
    assert laws.fit(df, "chinchilla", starts=4, priors={"E": laws.Prior(1.7, 0.1)}).form.name == "chinchilla"


def test_excluded_rows_stay_on_record():
    runs = laws.Runs(table()).exclude(table().params < 1.5e6, "too small")
    assert len(runs) == 6
    assert [(e.row, e.reason) for e in runs.exclusions] == [("0", "too small"), ("3", "too small")]
    with pytest.raises(UserError, match="6 truth values"):
        runs.exclude([0, 1], "")


def test_arrays_are_read_only_and_do_not_follow_the_table():
    df = table()
    runs = laws.Runs(df)
    before = runs.loss[0]
    df.loc[0, "loss"] = 9.0
    assert runs.loss[0] == before
    with pytest.raises(ValueError, match="read-only"):
        runs.loss[0] = 9.0


def test_hash_names_the_data_and_not_their_order():
    runs = laws.Runs(table())
    assert runs.hash == laws.Runs(table().sample(frac=1, random_state=1)).hash
    assert runs.hash != laws.Runs(changed("loss", 0, table().loss[0] * (1 + 1e-15))).hash


def test_flops_per_token_follows_the_runs():
    n = np.geomspace(1e4, 1e6, 9)
    per_token = 6 * n + 900 * np.sqrt(n)  # attention grows slower than the matrices
    d = np.geomspace(1e6, 3e6, 9)[::-1]
    df = table().iloc[[0] * 9].reset_index(drop=True)
    df = df.assign(params=n, tokens=d, loss=np.linspace(3, 2, 9), flops=per_token * d)
    relation = laws.Runs(df, C="flops").flops_per_token()
    np.testing.assert_allclose(relation(n), per_token, rtol=1.001 * relation.max_error)
    assert relation.max_error < 0.01
    far = relation(np.geomspace(1e6, 1e12, 50))
    assert (np.diff(far) > 0).all()


def records(**changes):
    df = table().rename(columns={"params": "params_total"})
    facts = {
        "context": 128,
        "vocab": 256,
        "corpus": "python_stdlib",
        "experts": 1,
        "status": "completed",
        "epochs": 0.5,
    }
    df = df.assign(
        run_id=[f"run{i}" for i in range(8)], flops=6 * df.params_total * df.tokens, reason="", loss_sem=0.01, **facts
    )
    return df.assign(**changes)


def test_records_become_runs_with_their_exclusions():
    df = records(
        status=["diverged", "failed", *["completed"] * 6],
        reason=["loss is NaN", "", *[""] * 6],
        epochs=[0.5, 0.5, 2.5, *[0.5] * 5],
        role=[*["fit"] * 7, "test"],
    )
    df.loc[[0, 1], "loss"] = np.nan
    runs = laws.from_results(df)
    assert list(runs.rows) == ["run3", "run4", "run5", "run6"]
    assert {e.row: e.reason for e in runs.exclusions} == {
        "run0": "diverged: loss is NaN",
        "run1": "failed",
        "run2": "repeated: 2.5 epochs of its data",
        "run7": "tests the forecast, which is made without it",
    }
    assert runs.exclusions[-1].values == {
        "N": df.params_total[7], "D": df.tokens[7], "C": df.flops[7], "loss": df.loss[7],
    }  # fmt: skip
    assert all(out.values is None for out in runs.exclusions[:-1])
    assert laws.Runs.from_dict(json.loads(json.dumps(runs.to_dict()))).exclusions == runs.exclusions
    assert runs.conventions["N"] == "params_total"
    assert runs.conventions["corpus"] == "python_stdlib"
    np.testing.assert_array_equal(runs.C, df.flops[3:7])


@pytest.mark.parametrize("times", [1.0, 0.9])
def test_a_test_run_that_the_law_misses_is_told_with_every_answer(times):
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e8, 6), np.geomspace(1e8, 1e10, 5)))
    loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(0.002 * np.random.default_rng(0).standard_normal(30))
    facts = {"context": 128, "vocab": 256, "corpus": "python_stdlib", "experts": 1, "status": "completed"}
    table = pd.DataFrame({"params_total": n, "tokens": d, "loss": loss, "flops": 6 * n * d, "epochs": 0.5, **facts})
    table = table.assign(run_id=[f"run{i}" for i in range(30)], role=[*["fit"] * 29, "test"])
    table.loc[29, "loss"] *= times
    fit = laws.fit(laws.from_results(table), starts=8)
    told = [fit.summary(), (fit.bootstrap(200), fit.summary())[1]]
    told += ["; ".join(laws.predict_table(fit, C)["warnings"]) for C in (1e18, 1e21)]
    assert [("% too high for the test run run29" in text) for text in told] == [times < 1] * 4
    assert [("assumes that the law's form is right" in text) for text in told] == [False, False, False, True]


@pytest.mark.parametrize("name", ["context", "vocab", "corpus", "experts"])
def test_records_that_do_not_compare_are_refused(name):
    values = records()[name].tolist()
    values[5] = "other" if name == "corpus" else 7
    with pytest.raises(UserError, match=rf"mix {name}: .*run5"):
        laws.from_results(records(**{name: values}))


def test_records_without_one_usable_run_say_why():
    with pytest.raises(UserError, match="none of the 8 runs can be fitted; the first, run0: failed"):
        laws.from_results(records(status="failed"))


def test_csv_is_read_to_the_last_digit(tmp_path):
    path = tmp_path / "runs.csv"
    table().rename(columns={"loss": "nll"}).to_csv(path, index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(laws.read_csv(path, loss="nll").loss, table().loss)
    with pytest.raises(UserError, match="no file"):
        laws.read_csv(tmp_path / "none.csv")


def four_records() -> pd.DataFrame:
    """Four runs as the framework keeps them."""
    return pd.DataFrame(
        {
            "run_id": [f"r{i}" for i in range(4)],
            "params_total": [1e4, 2e4, 4e4, 8e4],
            "tokens": [1e6, 3e6, 9e6, 27e6],
            "flops": [6e10, 36e10, 216e10, 1296e10],
            "loss": [2.0, 1.9, 1.8, 1.7],
        }
    )


def test_branches_of_one_trunk_are_told_as_what_they_share() -> None:
    assert "branches" not in laws.from_results(four_records()).conventions
    told = laws.from_results(four_records().assign(branch_trunk=["t", "t", None, None])).conventions["branches"]
    assert told.startswith("2 of 4 runs begin at one of 1 trunks")


def test_runs_of_several_schedules_are_no_one_law() -> None:
    with pytest.raises(UserError, match=r"the runs mix schedule: cosine \(r0\), wsd \(r2\)"):
        laws.from_results(four_records().assign(schedule=["cosine", "cosine", "wsd", "wsd"]))
    with pytest.raises(UserError, match=r"the runs mix schedule.final: 0 \(r2\), 0\.1 \(r0\)"):
        laws.from_results(four_records().assign(**{"schedule.final": [0.1, 0.1, 0.0, 0.0]}))


@pytest.mark.parametrize(
    "name, values",
    [
        ("qk_norm", [False, True]),
        ("activation", ["gelu", "relu"]),
        ("b2", [0.9, 0.99]),
        ("mup_width", [32.0, 64.0]),
        ("optimizer", ["adamw", "lion"]),
    ],
)
def test_runs_of_several_architectures_or_recipes_are_no_one_law(name, values) -> None:
    given = four_records().assign(**{name: np.repeat(values, 2)})
    with pytest.raises(UserError, match=rf"the runs mix {name}: {values[0]} \(r0\), {values[1]} \(r2\)"):
        laws.from_results(given)
    assert laws.from_results(given.assign(**{name: values[0]})).conventions[name] == str(values[0])


def test_what_is_unset_is_no_value_and_can_be_asked_for() -> None:
    rows = four_records().assign(**{"optimizer.clip_norm": [1.0, None, 1.0, None], "recipe_from": "record"})
    with pytest.raises(UserError, match=r"mix optimizer\.clip_norm: 1 \(r0\), null \(r1\).*clip_norm == 1\""):
        laws.from_results(rows)
    assert laws.from_results(rows, where=["optimizer.clip_norm.isna()"]).rows == ("r1", "r3")
    alike = rows.assign(**{"optimizer.clip_norm": None})
    assert laws.from_results(alike).conventions["optimizer.clip_norm"] == "null"  # which is not the default
    unknown = rows.drop(columns="recipe_from")
    assert len(laws.from_results(unknown)) == 4


def test_an_axis_of_a_design_is_no_part_of_a_law_and_a_condition_chooses_one_value() -> None:
    sizes = four_records().assign(**{"model.params": [1e4, 2e4, 4e4, 8e4], "optimizer.learning_rate": [1, 2, 3, 4]})
    assert len(laws.from_results(sizes)) == 4
    mixed = sizes.assign(**{"run.batch_size": [4, 4, 8, 8]})
    said = r"the runs mix run.batch_size: 4 \(r0\), 8 \(r2\).*--where \"run.batch_size == 4\""
    with pytest.raises(UserError, match=said):
        laws.from_results(mixed)
    chosen = laws.from_results(mixed, where=["run.batch_size == 8", "`run.batch_size` > 1"])
    assert chosen.rows == ("r2", "r3")
    assert {e.row: e.reason for e in chosen.exclusions} == dict.fromkeys(["r0", "r1"], "not run.batch_size == 8")
    with pytest.raises(UserError, match=r"cannot read the condition .*; did you mean run\.batch_size"):
        laws.from_results(mixed, where=["run.batch == 8"])
    with pytest.raises(UserError, match=r"none of the 4 runs can be fitted; the first, r0: not run.batch_size == 9"):
        laws.from_results(mixed, where=["run.batch_size == 9"])


@pytest.mark.parametrize("table", [np.ones((3, 3)), [1e8, 2e8], 5, None])
def test_what_is_no_table_is_told(table):
    for ask in (laws.Runs, laws.fit):
        with pytest.raises(UserError, match="expected a table or a mapping of columns, got"):
            ask(table)


def test_a_second_column_of_the_same_count_is_told_where_its_values_differ() -> None:
    table = {"params": [1e7, 2e7], "N": [9e6, 1.8e7], "tokens": [1e9, 2e9], "D": [1e9, 2e9], "loss": [3.0, 2.8]}
    assert laws.Runs(table).notes == ("N='params' was used, although N could be meant, too",)
    assert laws.Runs(table, N="N").notes == ()
