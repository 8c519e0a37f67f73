"""IsoFLOP minima against parabolas and laws whose minima are known."""

import numpy as np
import pytest

from scaling import laws
from scaling.errors import UserError

BUDGETS = (1e18, 4e18, 1.6e19)


def parabolas(
    budgets=BUDGETS, sizes=5, shift=0.0, bend=0.05, a=0.5, gamma=0.06, E=0.0, noise=0.0, seed=0, jitter=0.0
):
    """Runs whose log L is a parabola in log N at each budget, N* = 1e8 · (C/1e18)^a, L* = E + 3 · (C/1e18)^−γ."""
    rng = np.random.default_rng(seed)
    rows = []
    for budget in budgets:
        best = 1e8 * (budget / 1e18) ** a
        for step in np.arange(sizes) - (sizes - 1) / 2 + shift:
            n, C = best * 1.7**step, budget * (1 + jitter * rng.uniform(-1, 1))
            lowest = E + 3.0 * (C / 1e18) ** -gamma
            rows.append(
                (n, C / (6 * n), lowest * np.exp(bend * np.log(n / best) ** 2 + noise * rng.standard_normal()), C)
            )
    n, d, loss, flops = np.array(rows).T
    return laws.Runs({"params": n, "tokens": d, "loss": loss, "flops": flops}, C="flops")


@pytest.mark.parametrize("curvature", ["shared", "own"])
def test_exact_parabolas_give_exact_minima_and_exponents(curvature):
    found = laws.isoflop(parabolas(a=0.46, shift=0.4), curvature=curvature)
    assert [budget.verdict for budget in found.budgets] == ["interior"] * 3
    for budget in found.budgets:
        assert budget.N_opt == pytest.approx(1e8 * (budget.C / 1e18) ** 0.46, rel=1e-6)
        assert budget.D_opt == pytest.approx(budget.C / (6 * budget.N_opt), rel=1e-6)
        assert budget.loss_opt == pytest.approx(3 * (budget.C / 1e18) ** -0.06, rel=1e-9)
    assert found.N_law.exponent == pytest.approx(0.46, abs=1e-6)
    assert found.D_law.exponent == pytest.approx(0.54, abs=1e-6)
    assert found.loss_law.exponent == pytest.approx(-0.06, abs=1e-6)
    assert found.N_law(6.4e19) == pytest.approx(1e8 * 64**0.46, rel=1e-5)
    assert found.noise_sd < 1e-9


@pytest.mark.parametrize(
    ("shift", "bend", "verdict"),
    [
        (3.0, 0.05, "below the smallest size"),
        (-3.0, 0.05, "above the largest size"),
        (0.5, -0.05, "not convex"),
    ],
)
def test_a_minimum_that_is_not_interior_and_convex_does_not_count(shift, bend, verdict):
    found = laws.isoflop(parabolas(shift=shift, bend=bend, noise=1e-4))
    assert [budget.verdict for budget in found.budgets] == [verdict] * 3
    assert found.counted == ()
    assert found.N_law is None and found.loss_law is None
    sizes, advice = found.budgets[0].N, found.budgets[0].advice
    if verdict == "below the smallest size":
        np.testing.assert_allclose(advice, (sizes[0] / 1.7**2, sizes[0] / 1.7))
    elif verdict == "above the largest size":
        np.testing.assert_allclose(advice, (sizes[-1] * 1.7, sizes[-1] * 1.7**2))
    else:
        assert len(advice) == 4
    assert "does not count" in found.summary()


def test_one_bad_budget_is_left_out_of_the_laws():
    good, bad = parabolas(noise=1e-5), parabolas(budgets=(6.4e19,), shift=3.0)
    columns = {key: np.concatenate([good.values[key], bad.values[key]]) for key in ("N", "D", "loss", "C")}
    found = laws.isoflop(laws.Runs(columns, N="N", D="D", C="C"))
    assert [budget.counts for budget in found.budgets] == [True, True, True, False]
    assert found.N_law.exponent == pytest.approx(0.5, abs=1e-3)


def test_four_budgets_show_an_offset_and_three_do_not():
    budgets = tuple(1e18 * 8.0**k for k in range(5))
    found = laws.isoflop(parabolas(budgets, E=1.5, gamma=0.15, noise=1e-6))
    assert found.loss_law.offset == pytest.approx(1.5, rel=1e-3)
    assert found.loss_law.exponent == pytest.approx(-0.15, rel=1e-3)
    assert found.loss_law(1e24) == pytest.approx(1.5 + 3 * 1e6**-0.15, rel=1e-3)
    assert laws.isoflop(parabolas(budgets[:3], E=1.5, gamma=0.15)).loss_law.offset == 0.0


def test_intervals_of_the_exponent_and_minima_cover():
    inside, simulations = np.zeros(3), 200
    for seed in range(simulations):
        found = laws.isoflop(parabolas(noise=0.005, seed=seed), draws=800)
        low, high = found.N_law.exponent_interval
        middle = found.budgets[1]
        inside += [
            low <= 0.5 <= high,
            middle.N_interval[0] <= 2e8 <= middle.N_interval[1],
            middle.loss_interval[0] <= 3 * 4**-0.06 <= middle.loss_interval[1],
        ]
    assert (inside / simulations > 0.85).all(), inside
    assert (inside / simulations < 0.95).all(), inside


def test_rows_that_differ_a_little_in_flops_are_one_budget():
    runs = parabolas(jitter=0.01)
    assert [len(budget.rows) for budget in laws.isoflop(runs).budgets] == [5, 5, 5]
    labels = np.repeat(["small", "middle", "large"], 5)
    assert [len(b.rows) for b in laws.isoflop(parabolas(jitter=0.3), budget=labels).budgets] == [5, 5, 5]


def test_tokens_at_the_minimum_follow_the_runs_own_flops():
    runs = parabolas()
    halved = laws.Runs({"N": runs.N, "D": runs.D / 2, "loss": runs.loss, "C": runs.C}, N="N", D="D", C="C")
    assert laws.isoflop(halved).budgets[0].D_opt == pytest.approx(0.5 * laws.isoflop(runs).budgets[0].D_opt)


def test_too_little_to_analyse_is_said():
    with pytest.raises(UserError, match="none of the 3 budgets has three sizes"):
        laws.isoflop(parabolas(sizes=2))
    with pytest.raises(UserError, match="add a size"):
        laws.isoflop(parabolas(sizes=3), curvature="own")
