"""Approach 1 on training curves of a known law, and the approaches side by side."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError

ALPHA, BETA = 0.34, 0.28
A = BETA / (ALPHA + BETA)


def best_size(C):
    return (ALPHA * 406.4 / (BETA * 410.7) * (C / 6) ** BETA) ** (1 / (ALPHA + BETA))


def training_curves(sizes, noise=0.0, seed=0, rows=60):
    """Curves of a Chinchilla law at a constant rate, N from 1e7 to 1e10, each to 200 tokens per parameter.

    noise: of each run as a whole, which its rows share.
    """
    rng = np.random.default_rng(seed)
    N = np.repeat(np.logspace(7, 10, sizes), rows)
    D = N * np.tile(np.geomspace(0.5, 200, rows), sizes)
    loss = (1.69 + 406.4 * N**-ALPHA + 410.7 * D**-BETA) * np.exp(np.repeat(noise * rng.standard_normal(sizes), rows))
    run = np.repeat([f"run{i}" for i in range(sizes)], rows)
    return laws.Runs({"params": N, "tokens": D, "loss": loss, "run": run}, run="run")


def grid(budgets=(1e18, 4e18, 1.6e19, 6.4e19), sizes=7, noise=0.001, seed=0):
    rng = np.random.default_rng(seed)
    C = np.repeat(budgets, sizes)
    N = best_size(C) * np.tile(1.5 ** (np.arange(sizes) - (sizes - 1) / 2), len(budgets))
    loss = (1.69 + 406.4 * N**-ALPHA + 410.7 * (C / 6 / N) ** -BETA) * np.exp(noise * rng.standard_normal(len(C)))
    return laws.Runs({"params": N, "tokens": C / (6 * N), "loss": loss, "C": C}, C="C")


@pytest.mark.parametrize(("sizes", "tolerance"), [(30, 0.003), (16, 0.01)])
def test_the_envelope_of_training_curves_recovers_the_exponents(sizes, tolerance):
    found = laws.envelope(training_curves(sizes), n=200)
    assert found.N_law.exponent == pytest.approx(A, abs=tolerance)
    assert found.D_law.exponent == pytest.approx(1 - A, abs=tolerance)
    assert found.loss_law.exponent == pytest.approx(-ALPHA * BETA / (ALPHA + BETA), abs=0.002)
    assert found.loss_law.offset == pytest.approx(1.69, abs=0.01)
    assert found.N_law(1e20) == pytest.approx(best_size(1e20), rel=0.05)
    low, high = found.N_law.exponent_interval
    assert low < A < high
    np.testing.assert_allclose(6 * found.N * found.D, found.C, rtol=0.01)
    assert "lower envelope" in found.summary()


def test_the_envelope_is_the_least_loss_of_all_curves():
    runs = training_curves(16, noise=0.002)
    found = laws.envelope(runs, n=10)
    for i in range(0, len(found.C), 97):
        losses = [
            np.exp(np.interp(np.log(found.C[i]), np.log(runs.flops[rows]), np.log(runs.loss[rows]), right=np.inf))
            for rows in (np.flatnonzero(runs.run == name) for name in np.unique(runs.run))
            if runs.flops[rows[0]] <= found.C[i]
        ]
        assert found.loss[i] == pytest.approx(min(losses), rel=1e-12)


def test_a_point_without_a_smaller_and_a_larger_run_does_not_count():
    runs = training_curves(16)
    found = laws.envelope(runs, n=10)
    assert found.left_out > 0
    assert found.N.min() > runs.N.min() and found.N.max() < runs.N.max()


def test_the_intervals_of_the_envelope_are_not_too_narrow():
    inside = 0
    for seed in range(60):
        low, high = laws.envelope(training_curves(16, 0.003, seed, rows=25), n=200).N_law.exponent_interval
        inside += low <= A <= high
    assert inside >= 0.86 * 60, inside


def test_single_runs_of_the_same_budgets_have_an_envelope_too():
    found = laws.envelope(grid(noise=0.0), n=50)
    assert found.N_law.exponent == pytest.approx(A, abs=0.001)
    with pytest.raises(UserError, match="training curves"):
        laws.envelope(laws.Runs({"params": [1e8, 2e8], "tokens": [1e9, 1e10], "loss": [3.0, 2.5]}))


def test_curves_are_cut_at_budgets():
    cut = laws.cut_curves(training_curves(16), [1e19, 1e20])
    np.testing.assert_allclose(np.unique(cut.flops), [1e19, 1e20])
    np.testing.assert_allclose(cut.loss, 1.69 + 406.4 * cut.N**-ALPHA + 410.7 * cut.D**-BETA, rtol=1e-3)
    assert cut.rows[0].startswith("run") and "@1e+" in cut.rows[0]
    with pytest.raises(UserError, match="run column"):
        laws.cut_curves(grid(), [1e19])
    with pytest.raises(UserError, match="spans"):
        laws.cut_curves(training_curves(4), [1e30])


@pytest.mark.parametrize("make", [grid, lambda: training_curves(16, 0.0005)])
def test_the_approaches_agree_where_all_can_be_done(make):
    runs = make()
    found = laws.approaches(runs)
    assert [row.name for row in found.rows] == ["1 envelope", "2 parabola", "2 akima", "3 parametric"]
    largest = runs.flops.max()
    np.testing.assert_allclose(found.C, (largest, 10 * largest))
    for row in found.rows:
        assert row.reason == "" and row.bias
        # Of training curves, whose sizes are one grid over 8 decades, one curvature makes .486 instead of .452.
        assert row.exponent == pytest.approx(A, abs=0.02), row
        assert row.exponent_interval[0] <= row.exponent <= row.exponent_interval[1]
        for best in row.optima:
            assert best.N_interval[0] <= best.N <= best.N_interval[1]
            np.testing.assert_allclose(best.D, best.C / (6 * best.N), rtol=0.05)
        if row.name == "3 parametric":
            np.testing.assert_allclose(row.optima[1].N, best_size(10 * largest), rtol=0.2)
    assert found["2 a"].name == "2 akima"
    assert "curvature linear in log C" in found["2 p"].note and "curvature" not in found["2 a"].note
    with pytest.raises(UserError, match="not one approach '2'"):
        found["2"]
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["approaches"][3]["optima"][0]["N"] == found["3"].optima[0].N
    text = found.summary()
    assert all(f"{row.name} has a known bias: " in text for row in found.rows)


def test_approach_2_is_the_isoflop_analysis_by_parabolas():
    for runs in (grid(), grid(budgets=(1e18, 3e18, 1e19), sizes=5)):
        found, by_name = laws.approaches(runs)["2 p"], laws.isoflop(runs, method="parabola")
        assert found.exponent == by_name.N_law.exponent
        assert found.exponent_interval == by_name.N_law.exponent_interval


def test_the_optima_are_at_the_budgets_asked_for():
    runs = grid(noise=0.0)
    found = laws.approaches(runs, C=[3e20])
    assert found.C == (3e20,) and "N* at 3e+20" in found.summary()
    for row in found.rows:
        assert [best.C for best in row.optima] == [3e20]
        np.testing.assert_allclose(row.optima[0].N, best_size(3e20), rtol=0.1)
    for C in ([], [-1e20]):
        with pytest.raises(UserError, match="C must be training FLOPs above 0"):
            laws.approaches(runs, C=C)


def test_an_approach_that_cannot_be_done_gives_its_reason():
    N = np.geomspace(1e7, 1e9, 8)
    loss = 1.69 + 406.4 * N**-ALPHA + 410.7 * (20 * N) ** -BETA
    found = laws.approaches(laws.Runs({"params": N, "tokens": 20 * N, "loss": loss}))
    for name, reason in (("1", "training curves"), ("2 p", "three sizes"), ("2 a", "three sizes"), ("3", "D/N = 20")):
        assert reason in found[name].reason and found[name].exponent is None
        assert found[name].reason in found.summary()
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_the_approaches_on_hoffmanns_runs():
    path = Path(__file__).parents[1] / "../shared/published/epoch_chinchilla.csv"
    if not path.exists():
        pytest.skip("needs shared/published")
    table = pd.read_csv(path).query("used_in_fit == 1")
    found = laws.approaches(laws.Runs(table, C="flops"))
    # Besiroglu et al. 2024: β/(α+β) = .3671724/(.3473105 + .3671724); Hoffmann et al. 2022: .50 and .49.
    assert found["3"].exponent == pytest.approx(0.51390, abs=2e-4)
    assert all(0.48 < row.exponent < 0.56 for row in found.rows)
    assert "not a design of budgets" in found["2 a"].note
