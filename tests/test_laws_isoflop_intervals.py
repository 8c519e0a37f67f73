"""What intervals of isoFLOP exponents hold: scatter between budgets, grids no parabola follows, other choices."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scaling import laws
from scaling.errors import UserError
from scaling.laws.isoflop.power_law import straight_slopes
from scaling.laws.isoflop.scatter import scatter_of

CASE = Path(__file__).parents[1] / "../shared/cases/noisefree_asymmetric.csv"
MARIN = Path(__file__).parents[1] / "../shared/published/marin_isoflops.csv"


def ladder(alpha, beta, budgets, sizes, factor, noise=0.0, shift=0.0, seed=0, aside=0.0):
    """Runs of L = 1.69 + 406.4/N^α + 410.7/D^β over three decades, sizes within `factor` of the best, and N* of each.

    shift: sd in log N by which the whole curve of a budget is moved, as untuned rates do. aside: of the sizes of a
    budget from its minimum.
    """
    rng = np.random.default_rng([seed, 5])
    C = np.geomspace(1e18, 1e21, budgets)[:, None]
    best = (alpha * 406.4 / (beta * 410.7) * (C / 6) ** beta) ** (1 / (alpha + beta))
    middle = best * np.exp(aside * np.clip(rng.standard_normal((budgets, 1)), -2, 2)) if aside else best
    N = middle * np.geomspace(1 / factor, factor, sizes)
    seen = N * np.exp(-shift * rng.standard_normal((budgets, 1)))
    loss = 1.69 + 406.4 * seen**-alpha + 410.7 * (C / 6 / seen) ** -beta
    loss = loss * np.exp(noise * rng.standard_normal(N.shape))
    table = {"params": N, "tokens": C / 6 / N, "loss": loss, "C": np.broadcast_to(C, N.shape)}
    return laws.Runs({name: values.ravel() for name, values in table.items()}, C="C"), best[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("budgets", "sizes", "noise", "shift"),
    [(6, 9, 0.003, 0.0), (6, 9, 0.001, 0.2), (4, 7, 0.003, 0.0), (4, 7, 0.001, 0.2)],
)
def test_intervals_of_the_exponent_hold_whether_or_not_minima_are_shifted(budgets, sizes, noise, shift):
    truth, inside = 0.28 / 0.62, []
    for seed in range(120):
        runs, _ = ladder(0.34, 0.28, budgets, sizes, 3.0, noise, shift, seed)
        low, high = laws.isoflop(runs, n=400).N_law.exponent_interval
        inside.append(low <= truth <= high)
    assert 0.83 <= np.mean(inside) < 1.0, np.mean(inside)  # four budgets leave two degrees of freedom: wide tails


def test_shifted_minima_are_seen_told_and_widen_the_exponents():
    plain, moved = (laws.isoflop(ladder(0.34, 0.28, 6, 9, 3.0, 0.001, s, seed=2)[0], n=800) for s in (0, 0.2))
    assert plain.between.sd < 0.02 and 0.1 < moved.between.sd < 0.4
    assert moved.between.freedom == 4 and moved.between.chi2 > 100 > plain.between.chi2
    widths = [np.ptp(found.N_law.exponent_interval) for found in (plain, moved)]
    assert widths[1] > 8 * widths[0], widths
    assert f"minima scatter by {moved.between.sd:.1%} about the line" in moved.summary()
    assert moved.to_dict()["between"]["chi2"] == moved.between.chi2


def test_scatter_without_noise_within_budgets_is_students_t():
    rng, x = np.random.default_rng(3), np.array([0.0, 1.0, 2.0, 3.5, 4.0])
    y = 1 + 0.5 * x + 0.1 * rng.standard_normal(5)
    found = scatter_of(y, straight_slopes(np.exp(x)), np.zeros(5), 40000, rng)
    line = stats.linregress(x, y)
    assert found.sd == pytest.approx(np.sqrt(np.sum((y - line.intercept - line.slope * x) ** 2) / 3), rel=1e-3)
    slopes = ((y + found.shifts(5, rng)) * (x - x.mean())).sum(1) / ((x - x.mean()) ** 2).sum()
    ends = line.slope + line.stderr * stats.t.ppf([0.05, 0.95], 3)
    np.testing.assert_allclose(np.quantile(slopes, [0.05, 0.95]), ends, atol=0.003)
    assert scatter_of(y, straight_slopes(np.exp(x)), np.full(5, 100.0), 100, rng).sd == 0
    assert scatter_of(y[:2], straight_slopes(np.exp(x[:2])), np.zeros(2), 100, rng).freedom == 0


def test_two_budgets_say_that_their_scatter_cannot_be_seen():
    found = laws.isoflop(ladder(0.34, 0.28, 2, 7, 3.0, 0.002)[0], n=200)
    assert "two minima do not show the scatter between budgets" in found.summary()


@pytest.mark.parametrize("alpha", [0.465, 0.155])
@pytest.mark.parametrize("sizes", [9, 15])
def test_on_wide_grids_without_noise_the_table_warns_and_its_intervals_hold_the_truth(alpha, sizes):
    beta = 0.62 - alpha
    runs, best = ladder(alpha, beta, 5, sizes, 10.0)
    found, parabolas = laws.isoflop(runs, n=400), laws.isoflop(runs, n=400, method="parabola")
    off = np.abs(np.log([budget.N_opt for budget in parabolas.budgets] / best))
    assert (off > 0.12).all() and not any(low < n < high for n, (low, high) in zip(
        best, [budget.N_interval for budget in parabolas.budgets], strict=True))  # fmt: skip
    assert "parabolas do not fit the curves" in parabolas.notes[0] and parabolas.notes[0] in parabolas.summary()
    assert found.skew[0] == pytest.approx(beta - alpha, abs=0.04) and "parabola skewed by" in found.summary()
    for budget, n in zip(found.budgets, best, strict=True):
        low, high = budget.N_interval  # .7 to 1.2 % wide; ends are quantiles of 400 draws, which scatter by a tenth
        assert low / 1.001 <= n <= high * 1.001 and budget.N_opt == pytest.approx(n, rel=0.01)
    low, high = found.N_law.exponent_interval
    assert low <= beta / 0.62 <= high


@pytest.mark.skipif(not CASE.exists(), reason="../shared/cases is not here")
def test_the_noise_free_asymmetric_case_has_its_truth_in_the_intervals():
    runs = laws.read_csv(CASE, C="flops")
    found = laws.isoflop(runs)
    best = 0.465 * 406.4 / (0.155 * 410.7) * (np.array([b.C for b in found.budgets]) / 6) ** 0.155
    for budget, n in zip(found.budgets, best ** (1 / 0.62), strict=True):
        assert budget.N_interval[0] <= n <= budget.N_interval[1]


def flattening(seed):
    """Curves whose flanks flatten out, more on the side of large sizes, which no skew follows; and N* of each."""
    rng = np.random.default_rng([seed, 6])
    C, x = np.repeat(np.geomspace(1e18, 1e21, 6), 15), np.tile(np.linspace(-2.3, 2.3, 15), 6)
    best = 1e8 * (C / 1e18) ** 0.5
    rise = 0.06 * x**2 * (1 - 0.09 * x**2) * (1 + 0.1 * x) + 0.003 * rng.standard_normal(len(x))
    table = {"params": best * np.exp(x), "tokens": C / 6 / best / np.exp(x), "loss": 3 * (C / 1e18) ** -0.05, "C": C}
    return laws.Runs(table | {"loss": table["loss"] * np.exp(rise)}, C="C"), np.unique(best)


def test_with_noise_a_narrower_window_is_taken_where_it_will_do():
    runs, best = flattening(1)
    found, all_of_them = laws.isoflop(runs, n=400), laws.isoflop(runs, n=400, method="parabola")
    assert found.method == "skewed" and "from the minima were left out" in found.notes[0]
    assert all(len(budget.N) < 15 for budget in found.budgets)
    off = [np.log([b.N_opt for b in f.budgets] / best) for f in (found, all_of_them)]
    assert np.sqrt(np.mean(off[0] ** 2)) < 0.7 * np.sqrt(np.mean(off[1] ** 2))
    inside = [b.N_interval[0] <= n <= b.N_interval[1] for b, n in zip(found.budgets, best, strict=True)]
    assert sum(inside) >= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "beta", "budgets", "sizes", "factor", "noise", "aside"),
    [(0.34, 0.28, 6, 15, 10.0, 0.003, 0.0), (0.5, 0.25, 6, 15, 10.0, 0.003, 0.0),
     (0.465, 0.155, 5, 9, 10.0, 0.003, 0.0), (0.34, 0.28, 5, 7, 2.5, 0.003, 0.0),
     (0.34, 0.28, 6, 7, 10.0, 0.003, 0.5), (0.465, 0.155, 4, 6, 8.0, 0.002, 0.7)],
)  # fmt: skip
def test_intervals_of_minima_hold_on_grids_wide_and_narrow_and_beside_the_minima(
    alpha, beta, budgets, sizes, factor, noise, aside
):
    """Taken for parabolas, 38 to 76 % of the wide ones held, 56 % of the last: experiments/isoflop_coverage."""
    inside = []
    for seed in range(100, 140):
        runs, best = ladder(alpha, beta, budgets, sizes, factor, noise, seed=seed, aside=aside)
        found = laws.isoflop(runs, n=300)
        inside += [b.N_interval[0] <= n <= b.N_interval[1] for b, n in zip(found.budgets, best, strict=True)]
    assert 0.83 <= np.mean(inside) <= 0.99, np.mean(inside)


def test_narrow_grids_keep_all_sizes_without_a_word():
    for seed in range(10):
        found = laws.isoflop(ladder(0.34, 0.28, 5, 7, 2.5, 0.003, seed=seed)[0], n=200)
        assert found.method == "skewed" and found.notes == () and {len(b.N) for b in found.budgets} == {7}


def test_ols_is_the_parabola_in_log_tokens_and_the_line_that_publications_fit():
    runs, _ = ladder(0.4, 0.3, 5, 9, 4.0, 0.004, 0.1, seed=4)
    found = laws.isoflop(runs, weights="ols", n=20000)
    C = np.unique(runs.flops)
    log_D = []
    for budget in C:
        rows = runs.flops == budget
        a, b, _ = np.polyfit(np.log10(runs.D[rows]), runs.loss[rows], 2)
        log_D.append(-b / (2 * a))
    line = stats.linregress(np.log10(C), log_D)
    assert found.D_law.exponent == pytest.approx(line.slope, abs=1e-6)
    assert found.N_law.exponent == pytest.approx(1 - line.slope, abs=1e-6)
    ends = line.slope + line.stderr * stats.t.ppf([0.05, 0.95], 3)
    np.testing.assert_allclose(found.D_law.exponent_interval, ends, atol=0.05 * np.ptp(ends))
    assert "unweighted" in found.summary() and found.to_dict()["weights"] == "ols"


@pytest.mark.skipif(not MARIN.exists(), reason="../shared/published is not here")
def test_ols_of_a_published_table_with_flops_of_its_own_is_the_line_through_its_parabolas():
    table = pd.read_csv(MARIN).query("outlier == 0 and experiment.str.contains('dclm')").drop_duplicates()
    runs = laws.Runs(table, C="flops")
    found = laws.isoflop(runs, weights="ols", n=200)
    log_D = []
    for budget in found.budgets:
        rows = np.isclose(runs.flops, budget.C, rtol=0.05)
        a, b, _ = np.polyfit(np.log10(runs.D[rows]), runs.loss[rows], 2)
        log_D.append(-b / (2 * a))
    slope = np.polyfit(np.log10([budget.C for budget in found.budgets]), log_D, 1)[0]
    assert found.D_law.exponent == pytest.approx(slope, abs=1e-5)


def test_other_curves_and_leaving_a_budget_out_are_told():
    runs, _ = ladder(0.34, 0.28, 6, 9, 3.0, 0.001, 0.2, seed=2)
    found = laws.isoflop(runs, n=400)
    others = {other.by: other.exponent for other in found.others}
    assert {"parabola, shared", "parabola, linear", "parabola, own", "akima"} < set(others)
    plain = laws.isoflop(runs, n=400, method="parabola").others
    assert "parabola, linear" not in {other.by for other in plain}
    own = laws.isoflop(runs, n=400, curvature="own").N_law.exponent
    assert others["parabola, own"] == pytest.approx(own, abs=0.01)
    left = []
    for c in np.unique(runs.flops):
        kept = runs.exclude(runs.flops == c, "left out")
        left.append(laws.isoflop(kept, n=400, curvature="linear").N_law.exponent)
    without = [a for by, a in others.items() if by.startswith("without C")]
    np.testing.assert_allclose(sorted(without), [min(left), max(left)], atol=0.01)
    assert "a by other methods: " in found.summary()


def test_choices_that_contradict_are_said():
    runs, _ = ladder(0.34, 0.28, 4, 7, 3.0, 0.001)
    for options in ({"method": "akima"}, {"curvature": "shared"}):
        with pytest.raises(UserError, match="weights='ols' is of parabolas"):
            laws.isoflop(runs, weights="ols", **options)
    with pytest.raises(UserError, match="'variance' or 'ols'; got 'reml'"):
        laws.isoflop(runs, weights="reml")
