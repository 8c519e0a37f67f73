"""Scores on benchmarks: laws of the loss, capabilities of published models."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError

PUBLISHED = Path(__file__).parents[1] / "../shared/published"
needs_data = pytest.mark.skipif(not PUBLISHED.exists(), reason="../shared/published is not here")
RAW = {"objective": laws.l2(), "residual": "raw"}


def scored(rng, runs=60, noise=0.004):
    loss = np.linspace(1.5, 4.0, runs)
    error = 0.2 + 0.55 / (1 + np.exp(-3.0 * (loss - 2.6)))
    easy = 0.7 - 1.5 * np.exp(-0.9 * loss)
    return pd.DataFrame({"loss": loss, "hard": error, "easy": easy}) + np.stack(
        [np.zeros(runs), *(noise * rng.standard_normal((2, runs)))], 1
    )


def test_the_sigmoid_of_a_loss_comes_out_and_is_the_accuracys_upside_down():
    table = scored(np.random.default_rng(0))
    fit = laws.fit(table, "error_of_loss", N=None, D=None, loss="hard", L="loss", **RAW)
    assert fit.params == pytest.approx({"low": 0.2, "high": 0.75, "mid": 2.6, "k": 3.0}, rel=0.05)
    upside_down = table.assign(right=1 - table["hard"])
    right = laws.fit(upside_down, "accuracy_of_nll", N=None, D=None, loss="right", NLL="loss", **RAW)
    at = np.array([1.6, 2.5, 3.9])
    np.testing.assert_allclose(fit.predict(L=at).loss, 1 - right.predict(NLL=at).loss, atol=1e-6)


def test_each_benchmark_has_its_law_and_rows_without_a_score_are_left_out():
    table = scored(np.random.default_rng(0))
    table.loc[:9, "easy"] = np.nan
    found = laws.benchmarks(table, ["hard", "easy"], law="error_of_loss", fixed={"hard": {"high": 0.75}}, n=100)
    assert found["hard"].params["high"] == 0.75 and len(found["easy"].runs) == 50
    with pytest.raises(UserError, match="none of hard"):
        laws.benchmarks(table, ["hard"], fixed={"arc": {"high": 0.75}})
    with pytest.raises(UserError, match="hard has 5 scores"):
        laws.benchmarks(table[:5], ["hard"])
    with pytest.raises(UserError, match="must read one column"):
        laws.benchmarks(table, ["hard"], law="chinchilla")


def test_a_single_runs_interval_has_the_scatter_of_both_steps():
    rng = np.random.default_rng(1)
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    true = 1.7 + 400 / N**0.34 + 400 / D**0.28
    loss = true * np.exp(0.01 * rng.standard_normal(36))
    table = pd.DataFrame({"params": N, "tokens": D, "loss": loss, "err": 0.85 - 2.2 * np.exp(-0.7 * loss)})
    table["err"] += 0.002 * rng.standard_normal(36)
    first = laws.fit(table, "chinchilla", loss="loss", objective=laws.l2())
    first.bootstrap(1000)
    found = laws.benchmarks(table, ["err"])
    told = found.predict(first, N=1e8, D=1e10).loc["err"]
    level = 1.7 + 400 / 1e8**0.34 + 400 / 1e10**0.28
    slope = 2.2 * 0.7 * np.exp(-0.7 * level)
    sd = np.hypot(slope * 0.01 * level, 0.002)
    assert told.run_high - told.run_low == pytest.approx(2 * 1.645 * sd, rel=0.25)
    assert told.high - told.low < 0.7 * (told.run_high - told.run_low)


@needs_data
@pytest.mark.parametrize(("name", "most"), [("gadre_redpajama", 0.012), ("gadre_c4", 0.026)])
def test_errors_of_gadres_better_runs_are_forecast_from_the_others(name, most):
    table = pd.read_csv(PUBLISHED / f"{name}.csv")
    judged = laws.benchmarks(table, ["err_avg17", "err_avg46"], n=50).backtest(0.7)
    by = judged.groupby("benchmark")
    assert by["error"].apply(lambda e: e.abs().mean()).max() < most
    assert (by["inside"].mean() >= 0.8).all()


@needs_data
def test_from_small_runs_to_the_error_of_gadres_largest_model():
    table = pd.read_csv(PUBLISHED / "gadre_redpajama.csv")
    small = table[table.flops < 1e21]
    first = laws.fit(small, "chinchilla", N="params", D="tokens", loss="loss", objective=laws.l2())
    first.bootstrap(500)
    large = table.loc[table.flops.idxmax()]
    assert large.flops / small.flops.max() > 4
    told = laws.benchmarks(small, ["err_avg46"]).predict(first, N=large.params, D=large.tokens).loc["err_avg46"]
    assert abs(told.score - large.err_avg46) < 0.03 and told.run_low <= large.err_avg46 <= told.run_high


def models(rng, missing=0.0, noise=0.02):
    """Three families whose ability rises alike with log C, from starts of their own; six tasks are logistic in it."""
    rows = []
    for family, start in (("a", -0.4), ("b", 0.0), ("c", 0.5)):
        for C in np.geomspace(1e20, 1e24, 9):
            ability = start + 0.8 * (np.log10(C) - 22)
            tasks = 1 / (1 + np.exp(-(np.linspace(-0.8, 0.8, 6) + np.linspace(0.5, 1.2, 6) * ability)))
            tasks = np.clip(tasks + noise * rng.standard_normal(6), 0, 1)
            rows.append([family, C, *np.where(rng.random(6) < missing, np.nan, tasks)])
    return pd.DataFrame(rows, columns=["family", "flops", *(f"t{i}" for i in range(6))])


TASKS = [f"t{i}" for i in range(6)]


@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_one_capability_is_found_and_families_differ_in_their_starts(missing):
    found = laws.capabilities(models(np.random.default_rng(0), missing), TASKS)
    assert found.explained[0] > 0.9
    lines = found.family_laws()
    assert list(lines.index) == ["a", "b", "c"]
    assert lines["slope"].max() / lines["slope"].min() < 1.15  # alike, as they were made
    at = lines["intercept"] + 22 * lines["slope"]
    assert (at["c"] - at["b"]) / (at["b"] - at["a"]) == pytest.approx(0.5 / 0.4, rel=0.3)


def test_missing_scores_are_put_near_what_they_would_be():
    whole, holes = (models(np.random.default_rng(0), missing, noise=0.01) for missing in (0.0, 0.0))
    holes.loc[::5, "t3"] = np.nan
    found = laws.capabilities(holes, TASKS, components=1)
    np.testing.assert_allclose(found.scores[::5, 3], whole["t3"][::5], atol=0.12)
    kept = holes["t3"].notna()
    np.testing.assert_allclose(found.scores[kept, 3], whole["t3"][kept])


def test_a_score_of_a_larger_model_is_forecast_with_an_interval():
    held = []
    for seed in range(20):
        table = models(np.random.default_rng(seed))
        before, after = table[table.flops < 1e23], table[table.flops > 5e23]
        found = laws.capabilities(before, TASKS, components=1)
        for _, row in after.iterrows():
            told = found.predict(row.family, row.flops, "t2")
            held.append(told["low"] <= row.t2 <= told["high"])
            assert told["score"] == pytest.approx(row.t2, abs=0.15)
    assert 0.75 <= np.mean(held) <= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"t1": 50.0}, "'t1' must hold shares"), ({"t1": 0.5}, "'t1' does not vary"), ({"flops": -1.0}, "above 0")],
)
def test_a_table_that_holds_no_scores_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        laws.capabilities(models(np.random.default_rng(0)).assign(**change), TASKS)
