"""Akima minima of isoFLOP curves against Porian et al. 2024 and against laws whose minima are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

from scaling import laws
from scaling.errors import UserError
from scaling.laws.isoflop.power_law import straight_law

PUBLISHED = Path(__file__).parents[1] / "../shared/published"
PORIAN = {
    "rw/base/long/kaplan/kaplan/train": 0.835,  # reproducing Kaplan et al.
    "rw/base/long/kaplan/standard/val": 0.706,  # + FLOPs of the head
    "rw/base/short/kaplan/standard/val": 0.602,  # + shorter warmup
    "rw/base/short/chinchilla/standard/val": 0.571,  # + cosine decay
    "rw/tuned/short/const/standard/val": 0.497,  # tuned instead, no decay
}
PORIAN_NOISE = 0.002
"""of every loss, in nats: what their released code draws (its interpolation in loss compares with log loss)"""


def porian(name):
    if not PUBLISHED.is_dir():
        pytest.skip("needs shared/published")
    return pd.read_csv(PUBLISHED / f"porian_refinedweb_{name}.csv")


def chinchilla(budgets, decades, sizes, alpha=0.34, beta=0.28, noise=0.0, seed=0, sigma=None):
    """Runs of L = 1.69 + 406.4/N^α + 410.7/D^β on log-spaced sizes around the best, and the best sizes."""
    rng = np.random.default_rng(seed)
    rows, best = [], []
    for C in budgets:
        best.append((alpha * 406.4 / (beta * 410.7) * (C / 6) ** beta) ** (1 / (alpha + beta)))
        for n in best[-1] * 10 ** (0.05 + np.linspace(-decades / 2, decades / 2, sizes)):
            D = C / (6 * n)
            loss = 1.69 + 406.4 * n**-alpha + 410.7 * D**-beta
            rows.append((n, D, loss * np.exp(noise * rng.standard_normal()), C))
    table = dict(zip(("params", "tokens", "loss", "C"), np.array(rows).T, strict=True))
    if sigma is None:
        return laws.Runs(table, C="C"), np.array(best)
    return laws.Runs(table | {"sigma": sigma * table["loss"]}, C="C", sigma="sigma"), np.array(best)


@pytest.mark.parametrize(("config", "a"), PORIAN.items())
def test_porians_exponents_come_out_of_their_isoflop_table(config, a):
    table = porian("isoflops").query("config == @config").reset_index(drop=True)
    table["sigma"] = PORIAN_NOISE
    given = laws.isoflop(laws.Runs(table, C="flops", sigma="sigma"), method="akima")
    assert given.N_law.exponent == pytest.approx(a, abs=0.003)
    guessed = laws.isoflop(laws.Runs(table, C="flops"), method="akima")
    assert guessed.N_law.exponent == pytest.approx(a, abs=0.01)
    # The minima that count are the budgets they found one at, and lie where theirs do.
    theirs = porian("optimal_n").query("config == @config").dropna(subset=["n_opt"])
    np.testing.assert_allclose([budget.C for budget in given.counted], theirs["flops"], rtol=1e-6)
    np.testing.assert_allclose([budget.N_opt for budget in given.counted], theirs["n_opt"], rtol=0.05)


@pytest.mark.parametrize(("config", "a"), PORIAN.items())
def test_the_power_law_through_porians_own_minima_has_their_exponent(config, a):
    table = porian("optimal_n").query("config == @config").dropna(subset=["n_opt"])
    y = np.broadcast_to(np.log(table["n_opt"].to_numpy()), (11, len(table)))  # and ten draws alike
    law = straight_law(table["flops"].to_numpy(), y, 1 / table["n_opt_logstd"].to_numpy() ** 2, 0.9)
    assert law.exponent == pytest.approx(a, abs=6e-4)  # three digits are published


@pytest.mark.parametrize(("alpha", "beta", "least"), [(0.5, 0.25, 0.22), (0.3, 0.6, -0.22), (0.34, 0.28, 0.04)])
def test_a_parabola_misleads_on_a_wide_grid_where_akima_and_the_law_do_not(alpha, beta, least):
    """No noise, 15 sizes over 2.5 decades: N* of a parabola is off by 4 to 30 %, the more the exponents differ."""
    runs, best = chinchilla((1e18, 1e19, 1e20, 1e21), 2.5, 15, alpha, beta)
    off = {
        method: np.array([b.N_opt for b in laws.isoflop(runs, method=method, curvature="own").budgets]) / best - 1
        for method in ("parabola", "akima")
    }
    assert (off["parabola"] * np.sign(least) > abs(least)).all(), off
    assert (np.abs(off["parabola"]) < 0.30).all(), off
    assert (np.abs(off["akima"]) < 0.02).all(), off
    fitted = laws.fit(runs, "chinchilla", loss=laws.huber(1e-3))
    for budget, size in zip(laws.isoflop(runs).budgets, best, strict=True):
        np.testing.assert_allclose(fitted.optimal(budget.C).N, size, rtol=0.02)


def test_one_curvature_for_all_budgets_moves_the_exponent_on_a_wide_grid():
    runs, _ = chinchilla((1e18, 1e19, 1e20, 1e21), 2.5, 15, 0.5, 0.25)
    off = {
        bend: laws.isoflop(runs, curvature=bend, method="parabola").N_law.exponent - 1 / 3
        for bend in ("shared", "linear", "own", None)
    }
    assert abs(off["shared"]) > 0.01
    assert abs(off["linear"]) < 0.002 and abs(off["own"]) < 0.002 and off[None] == off["linear"]
    assert abs(laws.isoflop(runs, method="akima").N_law.exponent - 1 / 3) < 0.002


@pytest.mark.parametrize(("config", "a"), PORIAN.items())
def test_parabolas_come_nearer_to_porians_exponents_by_a_line_of_curvatures(config, a):
    """Their grids are too wide for parabolas: with one curvature .835 becomes 1.375, with a line .768."""
    table = porian("isoflops").query("config == @config").drop_duplicates(["params", "tokens", "loss"])
    runs = laws.Runs(table.reset_index(drop=True), C="flops")
    found = laws.isoflop(runs, method="parabola")
    assert found.curvature == "linear" and found.N_law.exponent == pytest.approx(a, abs=0.07)


def test_the_minimum_of_the_spline_is_the_one_a_search_finds():
    runs, _ = chinchilla((1e18, 1e19), 1.5, 6, noise=0.002, seed=3)
    for budget in laws.isoflop(runs, method="akima").budgets:
        ends = np.log(budget.N[[0, -1]])
        grid = np.linspace(*ends, 2001)
        start = grid[np.clip(budget.curve(np.exp(grid)).argmin() + np.array([-1, 1]), 0, 2000)]
        found = minimize_scalar(
            lambda n, b=budget: float(b.curve(np.exp(n))),
            bounds=tuple(start),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert np.log(budget.N_opt) == pytest.approx(found.x, abs=1e-6)
        assert budget.loss_opt == pytest.approx(found.fun, rel=1e-12)
        np.testing.assert_allclose(budget.curve(budget.N), budget.loss, rtol=1e-12)
        assert np.isnan(budget.curve(budget.N[-1] * 1.1))


def one_budget(losses, sigma=None):
    n = 1e8 * 2.0 ** np.arange(len(losses))
    table = {"params": n, "tokens": 1e18 / (6 * n), "loss": np.array(losses)}
    if sigma is None:
        return laws.Runs(table)
    return laws.Runs(table | {"sigma": np.broadcast_to(sigma, n.shape)}, sigma="sigma")


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([3.2, 3.06, 3.0, 3.05, 3.2], "interior"),
        ([3.0, 3.05, 3.12, 3.2, 3.3], "below the smallest size"),
        ([3.3, 3.2, 3.12, 3.05, 3.0], "above the largest size"),
        ([3.0, 3.05, 3.07, 3.05, 3.0], "not convex"),
        ([3.3, 3.0, 3.1, 3.01, 3.3], "not convex"),  # two valleys, 7 standard errors apart
    ],
)
def test_a_spline_without_an_interior_minimum_of_a_convex_curve_does_not_count(losses, verdict):
    budget = laws.isoflop(one_budget(losses, 0.01), method="akima").budgets[0]
    assert budget.verdict == verdict
    assert bool(budget.advice) == (verdict != "interior")


def test_two_valleys_within_the_noise_are_one():
    losses = [3.3, 3.0, 3.1, 3.01, 3.3]
    assert laws.isoflop(one_budget(losses, 0.05), method="akima").budgets[0].counts


def test_sigma_sets_the_intervals_of_splines_and_the_weights_of_parabolas():
    def minimum(method, sigma):
        return laws.isoflop(one_budget([3.2, 3.06, 3.0, 3.05, 3.3], sigma), method=method).budgets[0]

    narrow, wide = (minimum("akima", sigma).N_interval for sigma in (0.002, 0.02))
    assert np.log(wide[1] / wide[0]) > 4 * np.log(narrow[1] / narrow[0])
    # A far point that is not to be trusted moves a parabola only while it is.
    trusted, doubted = (minimum("parabola", np.array([1, 1, 1, 1, last]) * 0.01) for last in (1, 100))
    four = laws.isoflop(one_budget([3.2, 3.06, 3.0, 3.05]), method="parabola").budgets[0].N_opt
    assert doubted.N_opt == pytest.approx(four, rel=1e-3)
    assert abs(np.log(trusted.N_opt / four)) > 0.02


def test_runs_of_one_size_are_averaged_by_their_weights():
    runs = one_budget([3.2, 3.06, 3.0, 3.05, 3.2], 0.01)
    columns = {key: np.append(values, values[2]) for key, values in runs.values.items()}
    columns["loss"][[2, 5]] = 3.0 * np.exp([-0.002, 0.001])
    columns["sigma"][[2, 5]] = columns["loss"][[2, 5]] * 0.01 * np.sqrt([2, 1])
    both = laws.Runs(columns, N="N", D="D", sigma="sigma")
    mean, single = (laws.isoflop(table, method="akima").budgets[0] for table in (both, runs))
    assert mean.N_opt == pytest.approx(single.N_opt, rel=1e-9)
    assert mean.loss_opt == pytest.approx(single.loss_opt, rel=1e-9)


def test_the_noise_is_found_where_parabolas_only_see_misfit():
    estimates = [
        laws.isoflop(chinchilla((1e18, 1e19, 1e20), 2.5, 12, 0.5, 0.25, 0.002, seed)[0], method=method).noise_sd
        for method in ("akima", "parabola")
        for seed in range(20)
    ]
    assert np.sqrt(np.mean(np.square(estimates[:20]))) == pytest.approx(0.002, rel=0.1)
    assert np.mean(estimates[20:]) > 0.006


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "beta", "decades", "sigma"), [(0.34, 0.28, 1.5, None), (0.5, 0.25, 2.5, 0.002)])
def test_intervals_of_the_exponent_cover(alpha, beta, decades, sigma):
    true, inside = beta / (alpha + beta), 0
    for seed in range(200):
        runs, _ = chinchilla(1e18 * 4.0 ** np.arange(6), decades, 9, alpha, beta, 0.002, seed, sigma)
        low, high = laws.isoflop(runs, method="akima", n=600).N_law.exponent_interval
        inside += low <= true <= high
    assert 0.86 <= inside / 200 <= 0.99, inside / 200  # of no scatter between budgets none is sure


def test_results_do_not_depend_on_the_order_of_the_rows():
    runs, _ = chinchilla((1e18, 1e19, 1e20), 1.5, 7, noise=0.002)
    order = np.random.default_rng(0).permutation(len(runs))
    mixed = laws.Runs({key: values[order] for key, values in runs.values.items()}, N="N", D="D", C="C")
    first, second = (laws.isoflop(table, method="akima").N_law for table in (runs, mixed))
    assert first.exponent == pytest.approx(second.exponent, rel=1e-12)
    assert first.exponent_interval == pytest.approx(second.exponent_interval, rel=1e-9)


def test_what_a_spline_cannot_do_is_said():
    three = one_budget([3.1, 3.0, 3.1])
    with pytest.raises(UserError, match="no budget has four sizes"):
        laws.isoflop(three, method="akima")
    with pytest.raises(UserError, match="'parabola' or 'akima'"):
        laws.isoflop(three, method="cubic")
    n = np.array([1e8, 1.001e8, 1.002e8, 2e8])
    with pytest.raises(UserError, match="only 2 sizes differ"):
        laws.isoflop(laws.Runs({"params": n, "tokens": 1e18 / (6 * n), "loss": [3.0, 3.1, 3.2, 3.3]}), method="akima")
