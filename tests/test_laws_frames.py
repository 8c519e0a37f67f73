"""Fits for people who work in DataFrames."""

import sys

import numpy as np
import pandas as pd
import pytest
from known_table import grid

from scaling import laws
from scaling.errors import UserError
from scaling.text import by_width


@pytest.fixture(scope="module")
def fit():
    found = laws.fit(
        grid().rename(columns={"params": "size", "loss": "nll"}), "chinchilla", N="size", loss="nll", starts=8
    )
    found.bootstrap(50)
    return found


def test_a_dataframe_is_fitted_as_the_runs_made_of_it(fit):
    df = grid().rename(columns={"params": "size", "loss": "nll"})
    same = laws.fit(laws.Runs(df, N="size", loss="nll"), starts=8)
    assert same.params == fit.params
    other = laws.fit(df, N="size", loss="nll", objective=laws.l2(), starts=8)
    assert other.loss == laws.l2()
    with pytest.raises(UserError, match="already have columns"):
        laws.fit(same.runs, N="size")


def test_predictions_of_a_dataframe_are_one(fit):
    new = pd.DataFrame({"size": ["7B", "70B"], "tokens": [1e12, 2e12]}, index=["a", "b"])
    found = fit.predict(new, level=0.5)
    by_hand = fit.predict(N=np.array([7e9, 7e10]), D=np.array([1e12, 2e12]), level=0.5)
    assert list(found.columns) == ["loss", "low", "high", "run_low", "run_high"] and list(found.index) == ["a", "b"]
    np.testing.assert_array_equal(found.loss, by_hand.loss)
    np.testing.assert_array_equal(found.high, by_hand.high)
    np.testing.assert_array_equal(fit.predict(new.rename(columns={"size": "N", "tokens": "D"})).loss, found.loss)
    with pytest.raises(UserError, match="reads N, which was 'size' in its runs; the table has tokens"):
        fit.predict(new[["tokens"]])


def test_parameters_intervals_and_draws_are_frames(fit):
    frame, ends, draws = fit.to_frame(0.8), fit.conf_int(0.8), fit.draws_frame()
    assert list(frame.index) == ["E", "A", "B", "alpha", "beta", "a", "b"] and list(ends.index) == list(frame.index)
    assert frame.value["alpha"] == fit.params["alpha"] and tuple(ends.loc["alpha"]) == fit.interval("alpha", 0.8)
    np.testing.assert_array_equal(draws[list(fit.form.params)], fit.draws.samples)
    np.testing.assert_allclose(draws["a"], draws["beta"] / (draws["alpha"] + draws["beta"]))
    assert frame.low["a"] == ends.low["a"] and not frame.fixed.any()
    bare = laws.fit(fit.runs, starts=4)
    assert list(bare.to_frame().columns) == ["value", "fixed"]
    with pytest.raises(UserError, match=r"call fit\.bootstrap"):
        bare.conf_int()


def test_draws_go_to_arviz_by_name(fit, monkeypatch):
    pytest.importorskip("arviz_base")
    tree = fit.to_arviz()
    np.testing.assert_array_equal(tree["posterior"]["alpha"].to_numpy()[0], fit.draws_frame()["alpha"])
    assert tree["posterior"].attrs["law"] == "chinchilla"
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(UserError, match="pip install arviz-base"):
        fit.to_arviz()


@pytest.mark.parametrize(
    ("value", "ends", "said"),
    [
        (477.826, (285.1, 744.2), ("480", "290 … 740")),
        (0.347312, (0.3171, 0.3732), ("0.347", "0.317 … 0.373")),
        (1.81721849, (1.8172, 1.8173), ("1.817218", "1.817200 … 1.817300")),
        (6.51123e9, (6.4e9, 6.6e9), ("6.51e+09", "6.40e+09 … 6.60e+09")),
        (2.0, (None, 3.0), ("2.0", "— … 3.0")),
        (6.06646e8, (2.217e8, None), ("6.1e+08", "2.2e+08 … —")),
        (1.9e6, (0.0, 3.0e6), ("1.9e+06", "0 … 3.0e+06")),
        (2.0, (None, None), ("2", "— … —")),
    ],
)
def test_digits_follow_the_width_of_the_interval(value, ends, said):
    assert by_width(value, ends) == said
