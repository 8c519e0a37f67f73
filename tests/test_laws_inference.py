"""The inference-aware optimum against a brute-force grid, a closed form and limits; chip-hours by hand."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from scaling import accounting, laws
from scaling.errors import UserError

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28


@pytest.fixture(scope="module")
def fit():
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(1e9, 1e11, 6)))
    noise = np.exp(2e-3 * np.random.default_rng(0).standard_normal(len(n)))
    loss = (E + A / n**ALPHA + B / d**BETA) * noise
    return laws.fit(laws.Runs(pd.DataFrame({"params": n, "tokens": d, "loss": loss})), loss=laws.l2(), starts=16)


def tokens(fit, N, loss):
    """D at which N parameters reach the loss, in closed form."""
    p = fit.params
    return (p["B"] / (loss - p["E"] - p["A"] / N ** p["alpha"])) ** (1 / p["beta"])


@pytest.mark.parametrize("inference_tokens", [1e9, 1e12, 3e14])
@pytest.mark.parametrize("loss", [2.1, 2.5])
def test_inference_optimum_is_the_least_of_a_brute_force_grid(fit, inference_tokens, loss):
    found = laws.inference_optimum(fit, loss, inference_tokens)
    p = fit.params
    least = (p["A"] / (loss - p["E"])) ** (1 / p["alpha"])
    N = least * np.geomspace(1 + 1e-4, 1e4, 400_001)
    D = tokens(fit, N, loss)
    cost = 6 * N * D + 2 * N * inference_tokens
    assert found.flops == pytest.approx(cost.min(), rel=1e-8)
    assert found.flops <= cost.min() * (1 + 1e-12)
    assert pytest.approx(N[cost.argmin()], rel=1e-4) == found.N
    assert fit.predict(N=found.N, D=found.D).loss == pytest.approx(loss, rel=1e-12)
    assert found.training_flops == pytest.approx(6 * found.N * found.D)
    assert found.inference_flops == pytest.approx(2 * found.N * inference_tokens)


def test_without_inference_it_is_the_compute_optimum(fit):
    found = laws.inference_optimum(fit, 2.3, 0.0)
    best = fit.optimal(found.flops)
    assert pytest.approx(best.N, rel=1e-6) == found.N
    assert best.loss == pytest.approx(2.3, rel=1e-9)
    p = fit.params  # Hoffmann et al. 2022, eq. 4: αA/N^α = βB/D^β, both from what the loss leaves above E
    above = (2.3 - p["E"]) * p["beta"] / (p["alpha"] + p["beta"])
    assert pytest.approx((p["A"] / above) ** (1 / p["alpha"]), rel=1e-6) == found.N


def test_more_use_means_smaller_models_trained_longer(fit):
    found = [laws.inference_optimum(fit, 2.2, use) for use in (0.0, 1e11, 1e12, 1e13, 1e14)]
    assert all(a.N > b.N and a.D < b.D and a.flops < b.flops for a, b in pairwise(found))


def test_other_counts_of_flops_per_token_move_the_optimum_as_the_grid_says(fit):
    def per_token(N):
        return 6 * N + 3e4 * np.sqrt(N)

    found = laws.inference_optimum(fit, 2.3, 1e12, flops_per_token=per_token)
    N = found.N * np.geomspace(0.5, 2.0, 100_001)
    cost = per_token(N) * (tokens(fit, N, 2.3) + 1e12 / 3)
    assert pytest.approx(N[np.nanargmin(cost)], rel=1e-4) == found.N


def test_intervals_are_those_of_each_draws_own_optimum(fit):
    fit.bootstrap(60, seed=0)
    found = laws.inference_optimum(fit, 2.2, 1e12, level=0.9)
    N = []
    for sample in fit.draws.samples:
        p = dict(zip(fit.form.params, sample, strict=True))
        least = (p["A"] / (2.2 - p["E"])) ** (1 / p["alpha"])
        grid = least * np.geomspace(1 + 1e-3, 1e4, 100_001)
        D = (p["B"] / (2.2 - p["E"] - p["A"] / grid ** p["alpha"])) ** (1 / p["beta"])
        N.append(grid[(6 * grid * D + 2 * grid * 1e12).argmin()])
    low, high = np.quantile(N, 0.05, method="lower"), np.quantile(N, 0.95, method="higher")
    np.testing.assert_allclose(found.N_interval, (low, high), rtol=3e-4)
    assert found.reachable == 1.0
    assert found.flops_interval[0] < found.flops < found.flops_interval[1]


def test_draws_that_cannot_reach_the_loss_count_as_infinite(fit):
    fit.bootstrap(200, seed=0)
    floors = fit.draws.samples[:, fit.form.params.index("E")]
    loss = max(float(np.quantile(floors, 0.9)), fit.params["E"] * 1.0005)
    found = laws.inference_optimum(fit, loss, 1e12)
    assert found.reachable == pytest.approx(np.mean(floors < loss), abs=0.02)
    assert found.reachable < 1
    assert found.N_interval[1] == np.inf


def test_a_loss_below_the_floor_is_refused_with_the_floor(fit):
    with pytest.raises(UserError, match=rf"E = {fit.params['E']:.6g}"):
        laws.inference_optimum(fit, fit.params["E"] * 0.999, 1e12)


@pytest.mark.parametrize(("loss", "use"), [(float("nan"), 1e12), (-1.0, 1e12), (2.2, -1.0), (2.2, float("inf"))])
def test_bad_numbers_are_refused(fit, loss, use):
    with pytest.raises(UserError, match="inference_optimum"):
        laws.inference_optimum(fit, loss, use)


def test_laws_of_one_column_have_no_inference_optimum(fit):
    with pytest.raises(UserError, match="no optimal N and D"):
        laws.inference_optimum(laws.fit(fit.runs, "power_law_N", starts=4), 2.2, 1e12)


def test_chip_hours_are_flops_over_what_a_chip_does():
    assert laws.chip_hours(989.4e12 * 0.4 * 3600) == pytest.approx(1.0)
    assert laws.chip_hours(1e20, "v5e", 0.5) == pytest.approx(1e20 / (197e12 * 0.5 * 3600))
    assert laws.chip_hours(1e20, "h100", 0.5, "fp32") == pytest.approx(1e20 / (494.7e12 * 0.5 * 3600))
    np.testing.assert_allclose(laws.chip_hours([1e20, 2e20]), laws.chip_hours(1e20) * np.array([1, 2]))


def test_a_chip_of_two_jax_devices_counts_as_one():
    assert accounting.topology("v3:1").devices == 2
    assert laws.chip_hours(1e20, "v3", 0.4) == pytest.approx(1e20 / (123e12 * 0.4 * 3600))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "h1000"}, "unknown device 'h1000'; allowed: .*h100"),
        ({"device": "cpu"}, "no bf16 peak"),
        ({"device": "v100"}, "no bf16 peak"),
        ({"dtype": "int4"}, "no dtype 'int4'"),
        ({"mfu": 40}, "share of the peak"),
        ({"mfu": 0.0}, "share of the peak"),
        ({"flops": -1.0}, "flops must be"),
    ],
)
def test_what_has_no_cost_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        laws.chip_hours(**{"flops": 1e20, **options})
