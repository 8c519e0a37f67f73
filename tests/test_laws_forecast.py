"""Forecasts: their intervals hold on simulated ladders, and what is frozen stays as it was."""

import hashlib
import json
import os
import stat
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
import pytest

from scaling import laws
from scaling.errors import UserError

BUDGETS, TEST = (1e11, 3.5e11, 1.2e12), 4.8e12


def truth(n, d, bend=0.0):
    """A law of the size seen on bytes: 1.94 at 1e11 FLOPs, falling towards 0.9; `bend` is what it lacks."""
    return (0.9 + 17.2 * n**-0.35 + 59.4 * d**-0.35) * np.exp(bend * np.log(6 * n * d / 1e11) ** 2)


def ladder(seed, noise=0.005, bend=0.0):
    rng = np.random.default_rng(seed)
    n = np.concatenate(
        [22e3 * (C / 1e11) ** 0.5 * np.exp(0.2 * rng.standard_normal()) * 1.6 ** np.arange(-2, 3) for C in BUDGETS]
    )
    C = np.repeat(BUDGETS, 5)
    d = C / (6 * n)
    loss = truth(n, d, bend) * np.exp(noise * rng.standard_normal(15))
    return laws.Runs({"params": n, "tokens": d, "loss": loss, "flops": C}, C="flops")


@pytest.fixture(scope="module")
def forecaster():
    return laws.Forecaster(ladder(0))


@pytest.fixture(scope="module")
def forecast(forecaster):
    return forecaster.forecast(*forecaster.size(TEST), TEST, date=datetime(2026, 1, 2, tzinfo=UTC))


def test_the_size_to_test_spends_the_budget_near_the_optimum(forecaster):
    N, D = forecaster.size(TEST)
    assert pytest.approx(TEST, rel=1e-6) == 6 * N * D
    best = min(truth(n, TEST / (6 * n)) for n in np.geomspace(1e4, 1e7, 500))
    assert truth(N, D) < best * 1.002


def test_the_interval_adds_law_run_and_discrepancy(forecast):
    assert forecast.loss == pytest.approx(truth(forecast.N, forecast.D), rel=0.02)
    assert forecast.low < forecast.loss < forecast.high
    assert set(forecast.spread) == {"law", "run", "discrepancy"}
    total = np.sqrt(sum(sd**2 for sd in forecast.spread.values()))
    assert all(sd > 0 for sd in forecast.spread.values())
    assert np.log(forecast.high / forecast.low) == pytest.approx(
        2 * 1.812 * forecast.recipe["learned"]["scale"] * total, rel=0.01
    )  # t(10) at 95 %
    assert 0.5 < forecast.recipe["learned"]["scale"] < 1


def test_the_forecast_says_what_made_it(forecast, tmp_path):
    assert forecast.laws == {"interaction": 1.0} and forecast.law == "interaction"
    assert set(forecast.counted) == set(ladder(0).rows) and max(forecast.counted.values()) == 1.0
    assert set(forecast.recipe) >= {"why", "discrepancy", "learned", "record"}
    assert forecast.recipe["discrepancy"]["interaction"]["kappa"] > 0
    assert any("of 15 runs" in note for note in forecast.notes)
    assert laws.read_forecast(laws.freeze(forecast, tmp_path / "f.json") and tmp_path / "f.json") == forecast


@pytest.mark.slow
@pytest.mark.parametrize("bend", [0.0, 0.002])
def test_nine_of_ten_runs_fall_inside_the_90_percent_interval(bend):
    inside, errors = [], []
    for seed in range(20):
        forecaster = laws.Forecaster(ladder(seed, bend=bend))
        made = forecaster.forecast(*forecaster.size(TEST), TEST)
        law = truth(made.N, made.D, bend)
        run = law * np.exp(0.005 * np.random.default_rng([seed, 9]).standard_normal())
        inside.append(made.low <= run <= made.high)
        errors.append(made.loss / law - 1)
    assert np.mean(inside) >= 0.75  # two standard errors below 90 %
    assert abs(np.mean(errors)) < (0.005 if bend == 0 else 0.02)
    assert np.sqrt(np.mean(np.square(errors))) < 0.02


def test_a_frozen_forecast_is_read_only_and_stays(forecast, forecaster, tmp_path):
    path = tmp_path / "forecast.json"
    laws.freeze(forecast, path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o444
    assert laws.read_forecast(path) == forecast
    again = forecaster.forecast(forecast.N, forecast.D, TEST, date=datetime(2027, 1, 1, tzinfo=UTC))
    assert laws.freeze(again, path).date == forecast.date  # the same forecast keeps its first date
    other = forecaster.forecast(forecast.N * 1.1, forecast.D / 1.1, TEST)
    with pytest.raises(UserError, match="holds another forecast, frozen 2026-01-02"):
        laws.freeze(other, path)


def test_a_forecast_frozen_before_recipes_were_kept_is_still_read(forecast, tmp_path):
    path = tmp_path / "forecast.json"
    values = asdict(forecast)
    for name in ("laws", "counted", "recipe", "hash"):
        del values[name]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(values | {"hash": digest}))
    assert laws.read_forecast(path).recipe == {}
    path.write_text(json.dumps(values | {"hash": digest, "loss": 1.0}))
    with pytest.raises(UserError, match="edited after it was frozen"):
        laws.read_forecast(path)


def test_an_edited_forecast_is_refused(forecast, tmp_path):
    path = tmp_path / "forecast.json"
    values = json.loads(laws.freeze(forecast, path) and path.read_text())
    path.chmod(0o644)
    path.write_text(json.dumps(values | {"high": values["high"] + 0.1}))
    with pytest.raises(UserError, match="edited after it was frozen"):
        laws.read_forecast(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="not a forecast"):
        laws.read_forecast(path)
    with pytest.raises(UserError, match="no forecast"):
        laws.read_forecast(tmp_path / "none.json")


def test_the_outcome_says_error_and_whether_inside(forecast):
    result = laws.outcome(forecast, {"near": forecast.loss / 1.01, "far": forecast.high * 1.1})
    assert result.errors["near"] == pytest.approx(0.01)
    assert result.inside == {"near": True, "far": False}
    assert result.mean_error == pytest.approx((0.01 + result.errors["far"]) / 2)
    with pytest.raises(UserError, match="no test run has finished"):
        laws.outcome(forecast, {})


def test_the_same_runs_give_the_same_forecast_in_any_order(forecast):
    runs = ladder(0)
    order = np.random.default_rng(3).permutation(15)
    shuffled = laws.Runs({key: values[order] for key, values in runs.values.items()}, N="N", D="D", C="C")
    again = laws.Forecaster(shuffled).forecast(forecast.N, forecast.D, TEST)
    assert (again.loss, again.low, again.high) == pytest.approx(
        (forecast.loss, forecast.low, forecast.high), rel=1e-9
    )
    assert again.data_hash == forecast.data_hash
