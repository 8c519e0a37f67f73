"""What is given beside losses, held against them: standard errors, priors, levels, FLOPs, budgets."""

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError
from scaling.laws.pooled import rows_of_group
from scaling.laws.solve.common_variance import CANDIDATES, common_variance
from scaling.laws.solve.given import given_notes
from scaling.text import percent

TRUTH = {"E": 1.69, "alpha": 0.34, "beta": 0.28, "a": 0.28 / 0.62}


def table(seed=0, noise=0.003, sizes=6, tokens=5):
    """Sizes and tokens in a grid, losses by Hoffmann's law."""
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 21])
    N = np.repeat(np.geomspace(2e7, 2e9, sizes), tokens)
    D = np.tile(np.geomspace(3e8, 6e10, tokens), sizes)
    loss = 1.69 + 406.4 / N**0.34 + 410.7 / D**0.28
    return {"params": N, "tokens": D, "loss": loss * np.exp(noise * rng.standard_normal(len(N)))}


def of_seeds(count, seed=0):
    """The mean of so many seeds, and the standard error that their own spread gives."""
    losses = np.stack([table([seed, k])["loss"] for k in range(count)])
    return {**table(), "loss": losses.mean(0), "sem": losses.std(0, ddof=1) / np.sqrt(count)}


def known_errors(seed=0, unequal=0.6):
    """Losses that scatter by standard errors which are known and differ."""
    clean, rng = table(noise=0.0), np.random.default_rng([seed, 22])
    sem = 0.003 * clean["loss"] * np.exp(unequal * rng.standard_normal(len(clean["loss"])))
    return {**clean, "loss": clean["loss"] + sem * rng.standard_normal(len(sem)), "sem": sem}


def weighed(df):
    return laws.fit(laws.Runs(df, sigma="sem", trusted=True), starts=4)


def shared_errors(seed=0, common=0.004):
    """Known standard errors, and a scatter that all rows have beside them."""
    df, rng = known_errors(seed), np.random.default_rng([seed, 23])
    return {**df, "loss": df["loss"] * np.exp(common * rng.standard_normal(len(df["loss"])))}


def misses(tables, weight=True):
    """Root mean square relative error of E."""
    fits = [laws.fit(laws.Runs(df, sigma="sem" if weight else None, trusted=True), starts=4) for df in tables]
    return float(np.sqrt(np.mean([(fit.params["E"] / TRUTH["E"] - 1) ** 2 for fit in fits])))


def test_standard_errors_that_residuals_do_not_bear_out_are_told_and_true_ones_are_not():
    told = [bool(given_notes(weighed(of_seeds(2, seed)))) for seed in range(8)]
    true = [bool(given_notes(weighed(known_errors(seed)))) for seed in range(8)]
    assert sum(told) >= 7 and not any(true)
    assert "so rows are weighted by both" in weighed(of_seeds(2)).summary()


def test_standard_errors_of_two_seeds_make_no_fit_worse_and_true_ones_make_it_better():
    """By 1/σ² alone the error of E was 1.9 times that without a sigma; true ones made it .8."""
    seeds = range(12)
    noisy, true = [of_seeds(2, seed) for seed in seeds], [known_errors(seed, 1.2) for seed in seeds]
    assert misses(noisy) < 1.2 * misses(noisy, weight=False)
    assert misses(true) < 0.9 * misses(true, weight=False)


def test_the_variance_that_rows_share_is_found():
    found = []
    for seed in range(16):
        fit = weighed(shared_errors(seed))
        unit = np.median(fit.runs.sigma / fit.runs.loss)
        found.append(fit.problem.common * unit**2)
        assert fit.problem.weights == pytest.approx(
            (unit**2 + found[-1]) / ((fit.runs.sigma / fit.runs.loss) ** 2 + found[-1]), rel=1e-9
        )
    assert np.median(found) == pytest.approx(0.004**2, rel=0.25)


def test_it_is_the_likeliest_by_contrasts_that_the_law_does_not_reach():
    """The restricted likelihood is that of any basis of the contrasts, here written out with its full covariance."""
    rng = np.random.default_rng(3)
    X, v = rng.standard_normal((20, 3)), np.exp(rng.standard_normal(20))
    y = X @ [1.0, -2.0, 0.5] + np.sqrt(v + 0.7) * rng.standard_normal(20)
    K = np.linalg.svd(X)[0][:, 3:]

    def cost(c):
        covariance = K.T @ np.diag(v + c) @ K
        scale = (K.T @ y) @ np.linalg.solve(covariance, K.T @ y) / 17
        return 0.5 * (17 * np.log(scale) + np.linalg.slogdet(covariance)[1])

    assert common_variance(v, y, X) == CANDIDATES[np.argmin([cost(c) for c in CANDIDATES])] > 0


@pytest.mark.parametrize("rows", [5, 7])
def test_few_rows_say_nothing_against_their_standard_errors(rows):
    X = np.vander(np.linspace(-1, 1, rows), 3)
    assert common_variance(np.geomspace(1, 100, rows), np.arange(rows) % 2.0, X) == 0.0


def test_a_scatter_far_from_the_standard_errors_is_told():
    df = known_errors()
    assert "times as much as sem says" in weighed({**df, "sem": df["sem"] / 3}).summary()
    assert "times as much" not in weighed(df).summary()


def test_every_use_of_a_fit_has_its_weights(tmp_path):
    fit = weighed(of_seeds(2))
    fit.save(tmp_path / "fit.json")
    assert fit.problem.common > 0
    assert laws.load(tmp_path / "fit.json").problem.weights == pytest.approx(fit.problem.weights, rel=1e-12)
    tables = [pd.DataFrame({**of_seeds(2, seed), "lab": lab}) for seed, lab in enumerate("ab")]
    tables[1]["sem"] *= 3
    both = laws.fit(laws.Runs(pd.concat(tables), sigma="sem", trusted=True), group="lab", starts=4)
    times = both["b"].problem.weights / both.problem.weights[rows_of_group(both, "b")]
    assert both.problem.common > 0 and np.ptp(times) == pytest.approx(0, abs=1e-9)
    fit.draw("laplace", 400)
    low, high = fit.interval("E")
    fit.bootstrap(400)
    assert (high - low) == pytest.approx(np.diff(fit.interval("E"))[0], rel=0.3)


def test_a_forecast_of_two_seeds_is_that_without_their_standard_errors():
    df = of_seeds(2, 4)
    with_, without = (laws.Forecaster(laws.Runs(df, sigma=name), "chinchilla") for name in ("sem", None))
    far = 1e10, 2e11, 1.2e22
    assert with_.forecast(*far).loss == pytest.approx(without.forecast(*far).loss, rel=3e-3)
    assert with_.laws[0].problem.common > 0 == without.laws[0].problem.common


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "rows"])
def test_intervals_by_standard_errors_of_two_seeds_cover(kind):
    """With weights of 1/σ² alone, 50 % held by fresh noise."""
    hits = {name: [] for name in TRUTH}
    for seed in range(60):
        fit = weighed(of_seeds(2, 200 + seed))
        fit.bootstrap(200, kind=kind)
        for name, value in TRUTH.items():
            low, high = fit.interval(name, 0.9)
            hits[name].append(low <= value <= high)
    found = {name: float(np.mean(inside)) for name, inside in hits.items()}
    assert all(share >= 0.83 for share in found.values()), found


def test_a_standard_error_next_to_nothing_is_refused():
    sem = np.full(30, 0.01)
    sem[3] = 1e-9
    with pytest.raises(UserError, match=r"over 1000 times below their median 0.01 in 1 of 30 rows: 3 \(1e-09\)"):
        laws.Runs({**table(), "sem": sem}, sigma="sem")
    assert len(laws.Runs({**table(), "sem": sem}, sigma="sem", trusted=True)) == 30


def test_priors_that_the_runs_contradict_are_told():
    runs = laws.Runs(table())
    off = laws.fit(runs, starts=4, priors={"alpha": laws.Prior(0.9, 0.01)}).summary()
    held = laws.fit(runs, starts=4, priors={"alpha": laws.Prior(-1.0, 1e-3)}).summary()  # at its prior, and no law
    assert "runs and priors disagree: alpha 0.8" in off and "runs and priors disagree: alpha -1" in held
    for prior in (laws.Prior(0.34, 0.05), laws.Prior(0.34, 1e-6), laws.Prior(0.4, 0.05)):
        assert "disagree" not in laws.fit(runs, starts=4, priors={"alpha": prior}).summary()


def test_a_forecast_tells_of_priors_that_the_runs_contradict():
    runs = laws.Runs(table())

    def doubt(**priors):
        return laws.Forecaster(runs, "chinchilla", priors=priors).forecast(1e10, 2e11, 1.2e22).doubt

    assert "the runs contradict the given priors" in doubt(alpha=laws.Prior(0.9, 0.01))
    assert "priors" not in doubt(alpha=laws.Prior(0.34, 0.01))


@pytest.mark.parametrize(
    "N, D, flops, said",
    [
        (0, 1e10, 1e20, "N must be positive and finite; got 0"),
        (1e9, np.nan, 1e20, "D must be positive and finite; got nan"),
        (1e9, 1e10, -1.0, "flops must be positive and finite; got -1.0"),
        (1e10, 2e11, 1e19, r"take 1.2e\+22 FLOPs by the runs' count, not 1e\+19"),
    ],
)
def test_a_forecast_of_no_run_is_refused(N, D, flops, said):
    with pytest.raises(UserError, match=said):
        laws.Forecaster(laws.Runs(table()), "chinchilla").forecast(N, D, flops)


def test_a_level_whose_ends_lie_beyond_all_draws_is_refused():
    fit = laws.fit(laws.Runs(table()), starts=4)
    fit.bootstrap(100)
    low, high = fit.interval("alpha", 0.99)  # one of the hundred lies outside
    assert (low, high) == (fit.draws_frame()["alpha"].min(), fit.draws_frame()["alpha"].max())
    for ask in (lambda: fit.interval("alpha", 0.995), lambda: fit.predict(N=1e9, D=1e10, level=0.995)):
        with pytest.raises(UserError, match=r"level 0\.995 needs 200 draws or more"):
            ask()


def test_a_budget_far_below_the_runs_is_told():
    fit = laws.fit(laws.Runs(table()), starts=4)
    smallest = float(fit.runs.flops.min())
    low, within = (laws.predict_table(fit, smallest * times)["warnings"] for times in (0.01, 1.0))
    assert low[0].startswith("the smallest run has 100 times these FLOPs") and not within


@pytest.mark.parametrize("level, said", [(0.9, "90%"), (0.9999, "99.99%"), (0.995, "99.5%"), (0.29, "29%")])
def test_levels_are_told_whole(level, said):
    assert percent(level) == said


def test_equal_losses_are_refused():
    with pytest.raises(UserError, match=r"all 30 losses are 2\.5, so no law can be fitted"):
        laws.fit(laws.Runs({**table(), "loss": np.full(30, 2.5)}))


@pytest.mark.parametrize(
    "name, unit, refused", [("flops", 8.64e19, True), ("compute_pfdays", 1.0, True), ("TFLOPs", 1e12, True),
                            ("PFLOP/s-days", 1.0, True), ("flops", 1.0, False), ("train_flops", 1.0, False)]
)  # fmt: skip
def test_flops_in_another_unit_are_refused_where_no_sizes_tell(name, unit, refused):
    df = table()
    alone = {name: 6 * df["params"] * df["tokens"] / unit, "loss": df["loss"]}
    if not refused:
        assert not laws.Runs(alone, N=None, D=None, C=name).notes
        return
    with pytest.raises(UserError, match="give plain FLOPs"):
        laws.Runs(alone, N=None, D=None, C=name)


def test_sizes_that_have_embeddings_in_some_rows_only_are_told():
    df = table()
    whole = df["params"] + 50257 * np.sqrt(df["params"] / 100)
    mixed = np.where(np.arange(30) % 2, whole, df["params"])
    flops = 6 * whole * df["tokens"]
    notes = laws.Runs({**df, "params": mixed, "flops": flops}, C="flops").notes
    assert any("C is 6·N·D in 15 of 30 rows and 1.1" in note for note in notes), notes
    assert not laws.Runs({**df, "params": whole, "flops": flops}, C="flops").notes


def test_a_gain_of_groups_that_share_everything_is_called_what_it_is():
    df = {**table(), "kind": np.repeat(["a", "b"], 15)}
    fit = laws.fit(laws.Runs(pd.DataFrame(df)), group="kind", shared=("E", "A", "B", "alpha", "beta"), starts=4)
    gain = fit.gain()["b"]
    assert gain.multiplier == pytest.approx(1) and "1 by that, whatever the runs say" in gain.note


def test_rows_that_miss_a_budget_by_little_are_told():
    C = np.repeat([1e18, 1e19, 1e20], 6)
    N = np.sqrt(C / 120) * np.tile(np.geomspace(0.3, 3, 6), 3)
    C[8] *= 1.12
    loss = 1.69 + 406.4 / N**0.34 + 410.7 / (C / 6 / N) ** 0.28
    loss *= np.exp(0.002 * np.random.default_rng(0).standard_normal(18))
    runs = laws.Runs({"params": N, "tokens": C / 6 / N, "loss": loss, "flops": C}, C="flops")
    (said,) = (note for note in laws.isoflop(runs).notes if "no budget" in note)
    assert "1 rows are in no budget, though their FLOPs are within 20% of one: 8 (1.12e+19)" in said
    assert (
        not laws.isoflop(runs, tolerance=0.15).notes and not laws.isoflop(runs, budget=np.repeat([1, 2, 3], 6)).notes
    )


def isoflop_table(seed, seeds=2):
    """Five budgets of seven sizes about the optimum of Hoffmann's law, each the mean of so many seeds."""
    rng, C = np.random.default_rng([seed, 24]), np.repeat(1e18 * 4.0 ** np.arange(5), 7)
    N = 0.2 * np.sqrt(C / 6) * np.tile(np.exp(np.linspace(-1.2, 1.2, 7)), 5)
    clean = 1.69 + 406.4 / N**0.34 + 410.7 / (C / 6 / N) ** 0.28
    losses = clean * np.exp(0.003 * rng.standard_normal((seeds, 35)))
    sem = losses.std(0, ddof=1) / np.sqrt(seeds)
    return {"params": N, "tokens": C / 6 / N, "flops": C, "loss": losses.mean(0), "sem": sem}


def test_parabolas_by_standard_errors_of_two_seeds_are_those_without():
    """By 1/σ² alone the exponents scattered by .024, not .006."""

    def exponents(sigma):
        tables = [laws.Runs(isoflop_table(seed), C="flops", sigma=sigma, trusted=True) for seed in range(10)]
        return np.array([laws.isoflop(runs, method="parabola").N_law.exponent for runs in tables])

    given, none = exponents("sem"), exponents(None)
    assert np.sqrt(np.mean((given - TRUTH["a"]) ** 2)) < 1.3 * np.sqrt(np.mean((none - TRUTH["a"]) ** 2))
