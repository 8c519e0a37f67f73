"""What is given beside losses, held against them: standard errors, priors, levels, FLOPs, budgets."""

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError
from scaling.laws.solve.given import are_unequal, given_notes, rows_left
from scaling.text import percent

TRUTH = {"E": 1.69, "alpha": 0.34, "beta": 0.28, "a": 0.28 / 0.62}


def table(seed=0, noise=0.003, sizes=6, tokens=5):
    """Sizes and tokens in a grid, losses by Hoffmann's law."""
    rng = np.random.default_rng([seed, 21])
    N = np.repeat(np.geomspace(2e7, 2e9, sizes), tokens)
    D = np.tile(np.geomspace(3e8, 6e10, tokens), sizes)
    loss = 1.69 + 406.4 / N**0.34 + 410.7 / D**0.28
    return {"params": N, "tokens": D, "loss": loss * np.exp(noise * rng.standard_normal(len(N)))}


def of_seeds(count, seed=0):
    """The mean of so many seeds, and the standard error that their own spread gives."""
    losses = np.stack([table([seed, k])["loss"] for k in range(count)])
    return {**table(), "loss": losses.mean(0), "sem": losses.std(0, ddof=1) / np.sqrt(count)}


def known_errors(seed=0):
    """Losses that scatter by standard errors which are known and differ."""
    clean, rng = table(noise=0.0), np.random.default_rng([seed, 22])
    sem = 0.003 * clean["loss"] * np.exp(0.6 * rng.standard_normal(len(clean["loss"])))
    return {**clean, "loss": clean["loss"] + sem * rng.standard_normal(len(sem)), "sem": sem}


def weighed(df):
    return laws.fit(laws.Runs(df, sigma="sem"), starts=4)


def test_standard_errors_that_residuals_do_not_bear_out_are_told_and_true_ones_are_not():
    told = [bool(given_notes(weighed(of_seeds(2, seed)))) for seed in range(8)]
    true = [bool(given_notes(weighed(known_errors(seed)))) for seed in range(8)]
    assert sum(told) >= 7 and not any(true)
    assert "leave sigma out" in weighed(of_seeds(2)).summary()


def test_the_rows_that_weights_leave_are_those_of_equal_weight():
    df = table()
    df["sem"] = df["loss"] * np.where(np.arange(30) % 5 == 0, 1e-3, 0.5)  # 24 rows of next to no weight
    fit = weighed(df)
    assert rows_left(fit.problem.weights) == pytest.approx(6, abs=0.01) and are_unequal(fit.problem.weights)
    assert not are_unequal(np.ones(30))


def test_refits_of_unequal_weights_draw_rows():
    assert weighed(of_seeds(2)).bootstrap(20).kind == "rows"
    assert weighed({**table(), "sem": 0.003 * table()["loss"]}).bootstrap(20).kind == "noise"


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_by_standard_errors_of_a_few_seeds_cover(seeds):
    """By fresh noise, which takes them at their word, 50 and 72 % held."""
    hits = {name: [] for name in TRUTH}
    for seed in range(60):
        fit = weighed(of_seeds(seeds, 100 + seed))
        fit.bootstrap(200)
        for name, value in TRUTH.items():
            low, high = fit.interval(name, 0.9)
            hits[name].append(low <= value <= high)
    found = {name: float(np.mean(inside)) for name, inside in hits.items()}
    assert all(share >= 0.85 for share in found.values()), found


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
