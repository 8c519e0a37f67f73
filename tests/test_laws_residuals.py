"""What residuals say of rows that are not of one law."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from known_table import grid

from scaling import laws
from scaling.laws.solve.mixed import mixed_notes, splits
from scaling.laws.table.words import command_line

PUBLISHED = Path(__file__).parents[1] / "../shared/published"


def test_rows_far_off_the_law_are_named():
    df = grid()
    df.loc[[5, 30], "loss"] = 11.0
    (note,) = mixed_notes(laws.fit(df, starts=8))
    assert "2 of 48 rows are far from the law" in note and "5 (11, predicted" in note and "30 (11" in note
    assert mixed_notes(laws.fit(grid(), starts=8)) == []


@pytest.mark.skipif(not PUBLISHED.exists(), reason="needs the published tables")
def test_the_runs_that_readers_of_the_chinchilla_table_left_out_are_named():
    table = pd.read_csv(PUBLISHED / "epoch_chinchilla.csv")
    (note,) = mixed_notes(laws.fit(table, starts=16))
    assert "2 of 245 rows are far from the law" in note and "1 (4.665, " in note and "0 (5.006, " in note
    assert mixed_notes(laws.fit(table[table.used_in_fit == 1], starts=16)) == []


def test_a_score_that_rises_is_told():
    df = grid()
    told = mixed_notes(laws.fit(df.assign(loss=1 - 0.2 * df.loss), starts=8))
    assert any("the losses rise with FLOPs" in note for note in told)


def mixed():
    """Two data sets, of which one's losses are .4 higher, and a name of the size, which splits nothing."""
    first, second = grid(), grid(seed=1)
    df = pd.concat([first, second.assign(loss=second.loss + 0.4)], ignore_index=True)
    df["dataset"] = np.repeat(["c4 clean", "code"], 48)
    return df.assign(size_label=[f"{n:.1e}" for n in df.params], seed=np.arange(96) % 3)


def test_a_column_that_splits_the_residuals_is_named_with_a_condition_to_copy(tmp_path):
    fit = laws.fit(mixed(), starts=8)
    found = splits(fit, fit.residuals)
    assert [split.column for split in found] == ["dataset"] and found[0].share > 0.5
    said = "\n".join(mixed_notes(fit))
    assert "residual sd" in said and "residuals differ by dataset" in said
    assert "df.query(\"dataset == 'c4 clean'\")" in said and "dataset" in fit.summary()
    with command_line({"params": "N"}):
        assert "--where \"dataset == 'c4 clean'\"" in "\n".join(mixed_notes(fit))
    fit.save(tmp_path / "fit.json")
    assert mixed_notes(laws.load(tmp_path / "fit.json")) == mixed_notes(fit)


@pytest.mark.parametrize("name", ["data/set", "data set", "data-set", "data.set", "2nd", "dataset"])
def test_the_condition_that_is_told_is_read(tmp_path, name):
    """In a terminal, and in Python, whatever signs the column's name has."""
    df = mixed().rename(columns={"dataset": name})
    (split,) = splits(fit := laws.fit(df, starts=8), fit.residuals)
    (query,) = re.findall(r"df\.query\((.*)\)$", str(split))
    assert len(df.query(eval(query))) == 48
    with command_line({"params": "N"}):
        (where,) = re.findall(r"--where (.*)$", str(split))
    df.to_csv(tmp_path / "runs.csv", index=False)
    assert len(laws.read_csv(tmp_path / "runs.csv", shlex.split(where))) == 48


def test_what_was_measured_beside_the_loss_splits_nothing():
    """Losses differ by accuracies, which go with them: no experiment is chosen by one."""
    df = mixed()
    residual = df.loss - grid().loss[df.index % 48].to_numpy()
    accuracy = (residual * 80).round() / 100 + (
        np.arange(96) % 33
    ) * 1e-9  # values that return, more than a choice has
    df = pd.concat([df.assign(accuracy=accuracy)] * 3, ignore_index=True)
    df["loss"] *= 1 + 1e-9 * np.arange(len(df))
    told = splits(fit := laws.fit(df, duplicates="keep", starts=4), fit.residuals)
    assert [split.column for split in told] == ["dataset"]


def test_one_data_set_is_fitted_without_a_word():
    df = mixed()
    for name, rows in df.groupby("dataset"):
        fit = laws.fit(rows.reset_index(drop=True), starts=8)
        assert mixed_notes(fit) == [], name


def test_replicates_that_agree_where_the_law_does_not_are_told():
    df = pd.concat([grid(0.0), grid(0.0)], ignore_index=True)
    df["loss"] *= np.exp(0.02 * np.sin(5 * np.log(df.params)) + 0.001 * np.random.default_rng(0).standard_normal(96))
    assert "between runs of the same N and D" in mixed_notes(laws.fit(df, starts=8))[0]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="../shared/published is not here")
@pytest.mark.parametrize(
    ("file", "condition"),
    [
        ("epoch_chinchilla", "used_in_fit == 1"),
        ("gadre_c4", "params > 0"),
        ("gadre_redpajama", "params > 0"),
        ("misfitting_isoflops", "outlier == 0"),
        ("marin_isoflops", "outlier == 0 and experiment.str.contains('dclm')"),
    ],
)
def test_published_tables_of_one_experiment_raise_no_alarm(file, condition):
    table = pd.read_csv(PUBLISHED / f"{file}.csv").query(condition).reset_index(drop=True)
    fit = laws.fit(table, C="flops", duplicates="drop", starts=16)
    assert [*fit.runs.notes, *mixed_notes(fit)] == []


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="../shared/published is not here")
def test_a_published_table_in_another_unit_is_told_and_nothing_else():
    table = pd.read_csv(PUBLISHED / "farseer.csv").query("split == 'train'").reset_index(drop=True)
    fit = laws.fit(table, C="flops", duplicates="drop", starts=16)
    (note,) = [*fit.runs.notes, *mixed_notes(fit)]
    assert "are 0.21 times those of text at these sizes: are they in bits or nats per byte" in note


def test_few_rows_a_parameter_are_drawn_as_noise_and_many_as_rows():
    few = grid().iloc[::4].reset_index(drop=True)
    fits = {name: laws.fit(df, starts=8) for name, df in {"noise": few, "rows": mixed()}.items()}
    for kind, fit in fits.items():
        assert fit.bootstrap(20).kind == kind
    assert "20 draws, refits of fresh noise about the law" in fits["noise"].summary()
