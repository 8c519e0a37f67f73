"""Backtests, comparisons, influence and sensitivity against closed forms, SciPy and refits by hand."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from scaling import laws
from scaling.errors import UserError
from scaling.laws.forms.starts import spanned
from scaling.laws.solve.likelihood import _log_z, likelihood, log_density
from scaling.laws.validate.backtest import default_cuts

CHINCHILLA = Path(__file__).parents[1] / "../shared/published/epoch_chinchilla.csv"
needs_data = pytest.mark.skipif(not CHINCHILLA.exists(), reason="../shared/published is not here")


def table(noise=0.003, seed=0, E=1.7, A=400.0, B=410.0, alpha=0.34, beta=0.28, draw=None):
    """Eight sizes at each of seven budgets."""
    C = np.repeat(np.geomspace(1e17, 1e20, 7), 8)
    N = np.tile(np.geomspace(0.25, 4.0, 8), 7) * 1e7 * (C / 1e17) ** 0.5
    D = C / (6 * N)
    rng = np.random.default_rng(seed)
    error = rng.standard_normal(len(C)) if draw is None else draw(rng, len(C))
    loss = (E + A / N**alpha + B / D**beta) * np.exp(noise * error)
    return pd.DataFrame({"params": N, "tokens": D, "loss": loss})


def joint() -> laws.Form:
    """Kaplan et al. 2020, eq. 1.5: L = [(Nc/N)^(αN/αD) + Dc/D]^αD, which has no E."""
    names = ("Nc", "Dc", "alpha_N", "alpha_D")

    def value(p, x, xp):
        n = p["alpha_N"] / p["alpha_D"] * (p["Nc"] - x["N"])
        return xp.exp(p["alpha_D"] * xp.logaddexp(n, p["Dc"] - x["D"]))

    levels = tuple(laws.Parameter(f"{c}c", "level", (laws.Power(c),)) for c in "ND")
    reals = tuple(laws.Parameter(name) for name in names[2:])
    spans = {"Nc": (-5.0, 30.0), "Dc": (-5.0, 30.0), "alpha_N": (0.03, 0.5), "alpha_D": (0.03, 0.5)}
    return laws.Form(
        "kaplan_joint", "[(Nc/N)^(αN/αD) + Dc/D]^αD", "", ("N", "D"), levels + reals, value, spanned(names, spans)
    )


LOSSES = [laws.l2(), laws.l1(), laws.huber(0.01), laws.huber(3.0), laws.quantile(0.2)]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("tau", [1e-4, 0.3])
def test_the_density_of_every_objective_integrates_to_one(loss, tau):
    edges = np.concatenate([-np.geomspace(1e3, 1e-6, 60), [0.0], np.geomspace(1e-6, 1e3, 60)])
    parts = pairwise(edges)
    total = sum(integrate.quad(lambda r: np.exp(-loss([r]) / tau), a, b)[0] for a, b in parts)
    assert np.log(total) == pytest.approx(float(_log_z(np.array(tau), loss)), abs=1e-6)


def test_the_likelihoods_are_those_of_scipy():
    r = 0.01 * np.random.default_rng(0).standard_t(4, 200)
    one = np.ones(200)
    gauss = stats.norm.logpdf(r, 0, np.sqrt(np.mean(r**2))).sum()
    assert log_density(r, one, laws.l2()) == pytest.approx(gauss, abs=1e-8)
    assert log_density(r, one, laws.huber(10.0)) == pytest.approx(gauss, abs=1e-6)
    laplace = stats.laplace.logpdf(r, 0, np.mean(np.abs(r))).sum()
    assert log_density(r, one, laws.l1()) == pytest.approx(laplace, abs=1e-8)
    assert log_density(r, one, laws.huber(1e-9)) == pytest.approx(laplace, abs=1e-3)
    _, _, scale = stats.t.fit(r, f0=4, floc=0)
    assert log_density(r, one, laws.student_t(4)) == pytest.approx(stats.t.logpdf(r, 4, 0, scale).sum(), abs=1e-4)


def test_weights_are_the_precisions_of_the_rows():
    r, sigma = np.random.default_rng(1).standard_normal(50), np.geomspace(0.5, 2.0, 50)
    scale = np.sqrt(np.mean((r / sigma) ** 2))
    assert log_density(r, sigma**-2, laws.l2()) == pytest.approx(stats.norm.logpdf(r, 0, scale * sigma).sum())


def test_log_and_raw_residuals_give_likelihoods_of_the_same_losses():
    # At small noise a Gaussian of log L is one of L, so their densities of the losses themselves must agree.
    runs = laws.Runs(table(noise=1e-5, E=3.0, A=1.0, B=1.0))
    log, raw = (likelihood(laws.fit(runs, loss=laws.l2(), residual=kind, starts=16)).value for kind in ("log", "raw"))
    assert log == pytest.approx(raw, rel=1e-3)


@needs_data
def test_aic_orders_the_laws_of_the_chinchilla_data_as_published():
    df = pd.read_csv(CHINCHILLA)
    runs = laws.Runs(df[df.used_in_fit == 1])
    found = laws.compare(runs, [joint(), "chinchilla_equal", "chinchilla"], test=False)
    assert found.order == ("chinchilla", "chinchilla_equal", "kaplan_joint")
    gaps = [row["delta_aic"] for row in found.table]
    # n·Δ log(Σr²) + 2Δk, the textbook form for Gaussian noise
    sums = [entry.fit.objective for entry in found.entries]
    np.testing.assert_allclose(gaps[1], 240 * np.log(sums[1] / sums[0]) - 2, rtol=1e-6)
    assert gaps[1] > 5
    assert gaps[2] > 100
    assert any("Student's t" in note for note in found.notes)  # where the first two cannot be told apart


def test_compare_prefers_the_law_that_made_the_data_in_fit_and_forecast():
    runs = laws.Runs(table())
    found = laws.compare(runs, ["chinchilla_no_offset", "chinchilla"], starts=16, n=100)
    assert found.order[0] == "chinchilla"
    rows = {row["form"]: row for row in found.table}
    assert rows["chinchilla"]["backtest"]["rmse"] < 0.5 * rows["chinchilla_no_offset"]["backtest"]["rmse"]
    assert rows["chinchilla"]["backtest"]["coverage"] > rows["chinchilla_no_offset"]["backtest"]["coverage"] + 0.2
    assert rows["chinchilla_no_offset"]["backtest"]["bias"] < 0  # a law without a floor promises too much
    assert sum(found.weights.values()) == pytest.approx(1.0)
    assert "chinchilla_no_offset" in found.summary()


def test_a_backtest_predicts_what_a_fit_to_the_earlier_runs_predicts():
    df = table()
    runs = laws.Runs(df)
    found = laws.backtest(runs, cuts=[1.1e19], starts=16, n=50)
    early = runs.exclude(runs.flops > 1.1e19, "later")
    fit = laws.fit(early, starts=16)
    assert found.cuts[0].fitted == len(early) == 40
    assert len(found.points) == 16
    for point in found.points:
        row = df.loc[int(point["row"])]
        assert point["predicted"] == pytest.approx(fit.predict(N=row.params, D=row.tokens).loss, rel=1e-5)
        assert point["actual"] == row.loss
        assert point["error"] == pytest.approx(np.log(point["predicted"] / row.loss))
        assert point["ahead"] == pytest.approx(6 * row.params * row.tokens / 1.1e19)
    errors = np.array([point["error"] for point in found.points])
    assert found.score.bias == pytest.approx(errors.mean())
    assert found.score.rmse == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert [row["predicted"] for row in found.by_distance] == [8, 8]  # at 2.9 and 9.1 times the cut
    assert found.to_dict()["table"][0]["coverage"] == found.score.coverage


@pytest.mark.parametrize(
    ("loss", "kind", "draw"),
    [(laws.l2(), "noise", None), (laws.huber(1e-3), "rows", lambda rng, n: rng.standard_t(3, n) / np.sqrt(3))],
    ids=["gauss", "t3"],
)
def test_backtest_intervals_cover_single_runs(loss, kind, draw):
    inside = []
    for seed in range(40):
        runs = laws.Runs(table(seed=seed, draw=draw))
        found = laws.backtest(runs, cuts=[3.3e18, 1.1e19], loss=loss, starts=4, n=200, kind=kind, seed=seed)
        inside += [point["low"] <= point["actual"] <= point["high"] for point in found.points]
    assert 0.84 <= np.mean(inside) <= 0.96


def test_default_cuts_fall_between_budgets():
    df = table()
    df["params"] *= np.random.default_rng(0).uniform(0.995, 1.005, len(df))  # whole batches
    runs = laws.Runs(df)
    cuts = default_cuts(runs.flops, 5)
    budgets = np.geomspace(1e17, 1e20, 7)
    assert 3 <= len(cuts) <= 5
    for cut in cuts:
        above = runs.flops > cut
        assert len(np.unique(np.abs(np.log(runs.flops[above][:, None] / budgets)).argmin(1))) * 8 == above.sum()
    assert default_cuts(np.full(20, 1e18), 5) == []


def test_rows_of_one_run_on_both_sides_of_a_cut_are_told():
    df = table()
    df["run"] = [f"run{i % 8}" for i in range(len(df))]
    found = laws.backtest(laws.Runs(df, run="run"), cuts=[1.1e19], starts=8, n=20)
    assert "8 runs have rows on both sides" in found.notes[0]


@pytest.mark.parametrize("cuts", [[1e16], [1e20], [float("nan")], []])
def test_a_cut_with_nothing_on_a_side_is_refused(cuts):
    with pytest.raises(UserError, match="cut"):
        laws.backtest(laws.Runs(table()), cuts=cuts)


def test_a_cut_that_leaves_too_little_to_fit_is_named():
    with pytest.raises(UserError, match=r"flops ≤ 1\.01e\+17"):
        laws.backtest(laws.Runs(table()).exclude(np.arange(56) % 8 > 3, "few"), cuts=[1.01e17])


@pytest.mark.parametrize("labelled", [False, True])
def test_influence_is_what_refits_without_each_run_give(labelled):
    df = table()
    df["run"] = [f"r{i // 4}" for i in range(len(df))]
    runs = laws.Runs(df, run="run" if labelled else None)
    fit = laws.fit(runs, loss=laws.l2(), starts=16)
    found = laws.influence(fit, C=1e21)
    assert len(found.table) == (14 if labelled else 56)
    for row in [*found.table[:2], found.table[-1]]:
        gone = (df.run == row["run"]) if labelled else (df.index.astype(str) == row["run"])
        other = laws.fit(runs.exclude(np.asarray(gone), "out"), loss=laws.l2(), starts=16)
        for name, value in other.params.items():
            assert row[name] == pytest.approx(value, rel=1e-4)
        assert row["L*"] == pytest.approx(other.optimal(1e21).loss, rel=1e-6)
        assert row["rows"] == (4 if labelled else 1)
    shifts = [abs(row["shift"]) for row in found.table]
    assert shifts == sorted(shifts, reverse=True)


def test_a_spoilt_run_has_the_most_influence():
    df = table()
    df.loc[50, "loss"] *= 1.05
    assert laws.influence(laws.fit(laws.Runs(df), loss=laws.l2(), starts=16)).table[0]["run"] == "50"


def test_influence_refuses_runs_that_carry_the_fit_alone():
    df = table()
    df["run"] = ["many" if i < 53 else "few" for i in range(len(df))]
    with pytest.raises(UserError, match="without many"):
        laws.influence(laws.fit(laws.Runs(df, run="run"), starts=8))


def test_sensitivity_refits_by_every_objective():
    df = table()
    df.loc[[3, 17, 44], "loss"] *= 1.03
    runs = laws.Runs(df)
    fit = laws.fit(runs, starts=16)
    found = laws.sensitivity(fit, C=1e21)
    assert [row["loss"] for row in found.table if row["residual"] == "log"] == ["l1", *["huber"] * 4, "l2"]
    assert [row["delta"] for row in found.table if row["own"]] == [1e-3]
    for row, loss in ((found.table[0], laws.l1()), (found.table[3], laws.huber(1e-2)), (found.table[5], laws.l2())):
        other = laws.fit(runs, loss=loss, starts=32)
        assert row["objective"] == pytest.approx(other.objective, rel=1e-6)
        assert row["L*"] == pytest.approx(other.optimal(1e21).loss, rel=1e-5)
    assert found.spread("a") > 0
    assert "L*" in found.summary()


def test_the_summary_warns_where_delta_moves_the_exponent_beyond_its_interval():
    df = table(noise=2e-4)
    clean = laws.fit(laws.Runs(df), starts=16)
    clean.bootstrap(200)
    assert "Huber's δ" not in clean.summary()
    df.loc[df.params > 1e8, "loss"] *= np.where(np.arange((df.params > 1e8).sum()) % 3, 1.0, 1.08)
    spoilt = laws.fit(laws.Runs(df), starts=16)
    spoilt.bootstrap(200, kind="rows")
    low, high = spoilt.interval("a", 0.9)
    moved = laws.sensitivity(spoilt, residuals=("log",)).spread("a")
    assert ("Huber's δ" in spoilt.summary()) == (moved > high - low)
    assert "Huber's δ" in spoilt.summary()


KNOWN = {"fixed": {"E": 1.65}, "priors": {"alpha": laws.Prior(0.30, 0.01)}}


@pytest.mark.parametrize("loss", [laws.l2(), laws.huber(1e-3)], ids=str)
def test_a_backtest_with_fixed_parameters_and_priors_is_that_of_such_fits(loss):
    runs = laws.Runs(table(noise=0.02))
    found = laws.backtest(runs, cuts=[1.1e18, 1.1e19], loss=loss, starts=16, n=20, **KNOWN)
    for cut in found.cuts:
        early = laws.fit(runs.exclude(runs.flops > cut.cut, "later"), loss=loss, starts=16, **KNOWN)
        assert cut.params == pytest.approx(early.params, rel=1e-4) and cut.params["E"] == 1.65
        free = laws.fit(early.runs, loss=loss, starts=16, fixed=KNOWN["fixed"])
        assert abs(free.params["alpha"] - early.params["alpha"]) > 0.003  # the prior is felt
    with pytest.raises(UserError, match="fixed: chinchilla has no F"):
        laws.backtest(runs, fixed={"F": 1.0})


@pytest.mark.parametrize("kind", ["noise", "rows"])
def test_a_backtests_intervals_are_those_of_such_a_fits_draws_and_a_runs_scatter(kind):
    """Of runs a million times further on, where E is nearly all of the loss, so that its prior is what is known."""
    df = table(noise=0.01)
    near = df[6 * df.params * df.tokens < 1.1e18]
    far = near.iloc[:4].assign(params=near.params * 1e3, tokens=near.tokens * 1e3, loss=[1.79, 1.8, 1.81, 1.82])
    runs = laws.Runs(pd.concat([near, far], ignore_index=True))
    options = {"loss": laws.l2(), "starts": 16, "fixed": {"beta": 0.28}, "priors": {"E": laws.Prior(1.7, 0.1)}}
    found = laws.backtest(runs, cuts=[2e18], n=1500, kind=kind, **options)
    fit = laws.fit(laws.Runs(near), **options)
    samples = fit.bootstrap(1500, kind=kind, seed=1).samples
    point = found.points[0]
    at = runs.rows.index(point["row"])
    run = np.random.default_rng(2).normal(0, fit.residual_sd, len(samples))
    low, high = np.quantile(np.log(fit.form.loss(samples, [runs.N[at], runs.D[at]])) + run, [0.05, 0.95])
    assert np.log(point["high"] / point["low"]) == pytest.approx(high - low, rel=0.1)
    assert high - low > 2 * np.ptp(np.quantile(run, [0.05, 0.95]))


def test_what_is_known_before_goes_to_the_laws_that_have_it():
    runs = laws.Runs(table(noise=0.02))
    found = laws.compare(runs, ["chinchilla", "chinchilla_no_offset"], starts=16, n=20, cuts=[1.1e19], **KNOWN)
    for entry in found.entries:
        fixed = KNOWN["fixed"] if entry.fit.form.name == "chinchilla" else {}
        by_hand = laws.fit(runs, entry.fit.form, loss=laws.l2(), starts=16, fixed=fixed, priors=KNOWN["priors"])
        assert entry.fit.params == pytest.approx(by_hand.params, rel=1e-6) and entry.fit.fixed == fixed
        assert entry.likelihood.parameters == 5  # four of the law and the scale
        early = runs.exclude(runs.flops > 1.1e19, "later")
        fit = laws.fit(early, entry.fit.form, loss=laws.l2(), starts=16, fixed=fixed, priors=KNOWN["priors"])
        assert entry.backtest.cuts[0].params == pytest.approx(fit.params, rel=1e-4)
    with pytest.raises(UserError, match=r"^compare: priors: none of the laws has gamma: chinchilla has E, A"):
        laws.compare(runs, ["chinchilla", "chinchilla_no_offset"], priors={"gamma": laws.Prior(1.0, 1.0)})
