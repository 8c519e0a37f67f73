"""Rows that are checkpoints of training runs."""

import numpy as np
import pandas as pd
import pytest
from known_table import grid

from scaling import laws
from scaling.errors import UserError
from scaling.laws.table.words import command_line


def unnamed(shuffled=False, runs=1):
    """Rows at every 10,000 steps of `runs` runs of each of five sizes, and nothing that says so."""
    n, _, step = (a.ravel() for a in np.meshgrid(np.geomspace(2e7, 1e9, 5), range(runs), range(2, 10), indexing="ij"))
    d = step * 1e4 * 524288.0
    rng = np.random.default_rng(0)
    loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(0.003 * rng.standard_normal(len(n)))
    df = pd.DataFrame({"params": n, "tokens": d, "loss": loss})
    return df.sample(frac=1, random_state=1).reset_index(drop=True) if shuffled else df


@pytest.mark.parametrize(("shuffled", "runs", "found"), [(False, 1, 5), (False, 3, 15), (True, 1, 5), (True, 3, 5)])
def test_checkpoints_that_nothing_names_are_recognised_by_even_steps_of_tokens(shuffled, runs, found):
    """Shuffled, the runs of one size cannot be told apart and are one."""
    table = laws.Runs(unnamed(shuffled, runs))
    assert len(np.unique(table.run)) == found
    assert f"look like checkpoints of {found} runs (tokens rise in even steps" in table.notes[0]
    for run in np.unique(table.run):
        assert len(np.unique(table.N[table.run == run])) == 1
    assert laws.fit(table, starts=8).bootstrap(20).kind == ("runs" if found == 15 else "noise")
    assert laws.Runs(unnamed().assign(id=np.arange(40)), run="id").notes == ()
    assert laws.Runs(unnamed(), trusted=True).run is None


def test_tokens_that_double_are_a_design_and_no_checkpoints():
    assert laws.Runs(grid()).run is None
    doubled = unnamed().assign(tokens=lambda df: 1e9 * 2.0 ** (df.tokens / 5.24288e9))
    assert laws.Runs(doubled).run is None


@pytest.mark.parametrize("runs", [3, 15])
def test_runs_too_few_to_draw_from_are_told(runs):
    n = np.repeat(np.geomspace(1e8, 1e10, runs), 6)
    d = np.tile(np.geomspace(1e9, 3e11, 6), runs)
    table = pd.DataFrame({"params": n, "tokens": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28, "name": n})
    table["loss"] *= np.exp(0.003 * np.random.default_rng(0).standard_normal(len(n)))
    fit = laws.fit(table, run="name", starts=8)
    assert any(f"{runs} runs are too few" in note for note in fit.bootstrap(20).notes) == (runs == 3)
    assert fit.bootstrap(20, kind="noise").notes == ()  # asked for


def checkpoints():
    df = grid()
    return df.assign(run_name=[f"run-{n:.3g}" for n in df.params], step=(df.tokens / 1e6).astype(int))


def test_checkpoints_are_recognised_said_and_resampled_as_runs():
    runs = laws.Runs(checkpoints())
    assert len(np.unique(runs.run)) == 8 and runs.conventions["run"] == "run_name"
    assert "the 48 rows are checkpoints of 8 runs, told apart by run='run_name': " in runs.notes[0]
    assert laws.fit(runs, starts=8).bootstrap(20).kind == "runs"
    with command_line({"params": "N", "run": "run"}):
        assert "--run run_name" in laws.Runs(checkpoints()).notes[0]
    assert laws.Runs(checkpoints(), run="run_name").notes == ()


@pytest.mark.parametrize(
    "names",
    [
        {"model": [f"m{n:.3g}" for n in grid().params]},  # sizes, each trained anew
        {"run_name": np.arange(48)},
        {"run_name": np.arange(48) % 4},  # of many sizes: no training run
    ],
)
def test_other_columns_are_no_runs(names):
    assert laws.Runs(grid().assign(**names)).run is None


@pytest.mark.parametrize("run", ["run_name", None])
def test_the_last_checkpoint_of_each_run_is_a_run(run):
    df = checkpoints().sample(frac=1, random_state=0).reset_index(drop=True)
    last = df[df.tokens == df.tokens.max()]
    assert len(last) == 8
    runs = laws.Runs(df, run=run, checkpoints="last")
    assert runs.rows == tuple(map(str, last.index)) and runs.hash == laws.Runs(last).hash
    assert runs.run is None and "run" not in runs.conventions
    assert runs.notes == ("8 of 48 rows are used, the last of each run (told apart by run='run_name')",)
    assert {out.reason for out in runs.exclusions} == {"not the last checkpoint of its run"}
    missing = df.assign(loss=df.loss.where(df.tokens < df.tokens.max()))
    before = laws.Runs(missing, run=run, missing="drop", checkpoints="last")
    assert len(before) == 8 and before.D.max() < df.tokens.max()
    reasons = [out.reason for out in before.exclusions]
    assert len(reasons) == 40 and reasons.count("loss is missing") == 8


def test_the_last_checkpoints_of_runs_that_nothing_names():
    runs = laws.Runs(unnamed(), checkpoints="last")
    assert len(runs) == 5 and "tokens that rise in even steps" in runs.notes[0]
    with (
        command_line({"run": "run"}),
        pytest.raises(UserError, match=r"--checkpoints last needs .* identifies the run"),
    ):
        laws.Runs(grid(), checkpoints="last")
    with pytest.raises(UserError, match="'all', 'last'; got 'first'"):
        laws.Runs(grid(), checkpoints="first")


def test_checkpoints_are_told_how_their_last_alone_are_taken(tmp_path):
    checkpoints().to_csv(tmp_path / "runs.csv", index=False)
    with command_line({"params": "N", "run": "run"}):
        (note,) = laws.read_csv(tmp_path / "runs.csv").notes
        assert note.endswith("--checkpoints last uses only the last row of each run")
        assert len(laws.read_csv(tmp_path / "runs.csv", checkpoints="last")) == 8
