"""Laws of whole curves: what they read of a schedule, that they are found again, and how they are reached."""

import itertools

import numpy as np
import pytest
from scipy import stats

from scaling import laws
from scaling.errors import UserError
from scaling.laws.curves.discrepancy import learned, schedules
from scaling.laws.curves.fit import _table
from scaling.laws.curves.trace import trace_of
from scaling.laws.intervals.bootstrap import _wild_losses

PEAK, WARMUP = 3e-3, 100
ANNEALING = {"L0": 2.0, "A": 0.9, "alpha": 0.5, "C": 0.15, "T": 250.0}
MULTI_POWER = {"L0": 2.0, "A": 0.9, "alpha": 0.5, "B": 60.0, "C": 2.0, "beta": 0.5, "gamma": 0.7}


def schedule(kind, steps=3000):
    k = np.arange(1, steps - WARMUP + 1) / (steps - WARMUP)
    shapes = {
        "constant": np.ones_like(k),
        "cosine": 0.1 + 0.45 * (1 + np.cos(np.pi * k)),
        "wsd": 1 - 0.9 * np.sqrt(np.maximum(k - 0.8, 0) / 0.2),
        "step": np.where(k < 0.5, 1.0, 0.3),
        "up_again": np.where(k < 0.4, 1.0, np.where(k < 0.6, 0.2, 0.7)),
    }
    return PEAK * np.concatenate([np.arange(1, WARMUP + 1) / WARMUP, shapes[kind]])


def by_loops(rates, step, law, params, N=1.0):
    """The loss after `step` updates, written down from the papers' sums."""
    rates, p = [float(rate) for rate in rates], params
    if law == "multi_power":
        reduction, eta_0 = 0.0, PEAK
        for k in range(WARMUP, step):
            area = sum(rates[k:step]) * (rates[k] / eta_0) ** -p["gamma"]
            reduction += p["B"] * (rates[k - 1] - rates[k]) * (1 - (1 + p["C"] * area) ** -p["beta"])
        S1, size = sum(rates[:step]), 0.0
    else:
        rates[:WARMUP] = [PEAK] * WARMUP
        momentum, S2, decay = 0.0, 0.0, np.exp(-1 / p["T"])
        for i in range(1, step):
            momentum = decay * momentum + rates[i - 1] - rates[i]
            S2 += momentum
        S1, reduction = sum(rates[:step]), p["C"] * S2 * N ** p.get("gamma_N", 0.0)
        size = p["B_N"] * N ** -p["beta_N"] if "B_N" in p else 0.0
    return p["L0"] + p["A"] * S1 ** -p["alpha"] + size - reduction


def curve(kind, law, params, steps=3000, noise=0.0, N=None, seed=0, points=24):
    rates, rng = schedule(kind, steps), np.random.default_rng(seed)
    at = np.unique(np.round(np.linspace(2 * WARMUP, steps, points)).astype(int))
    loss = np.array([by_loops(rates, step, law, params, N or 1.0) for step in at])
    return laws.LossCurve(
        f"{kind}-{steps}-{N}-{seed}", rates, at, loss * np.exp(noise * rng.standard_normal(len(at))), N
    )


@pytest.fixture(scope="module")
def fits():
    """Fitted without noise to a constant, a cosine and a two-stage run."""
    found = {}
    for law, params in (("annealing", ANNEALING), ("multi_power", MULTI_POWER)):
        curves = [curve(kind, law, params) for kind in ("constant", "cosine", "step")]
        found[law] = laws.fit_curves(curves, law, loss=laws.l2(), starts=8, priors={})
    return found


@pytest.mark.parametrize("law", ["annealing", "multi_power"])
def test_parameters_are_found_again(fits, law):
    truth = ANNEALING if law == "annealing" else MULTI_POWER
    assert {name: fits[law].params[name] for name in truth} == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("kind", ["wsd", "up_again", "cosine"])
@pytest.mark.parametrize("law", ["annealing", "multi_power"])
def test_other_schedules_are_foretold(fits, law, kind):
    rates, at = schedule(kind, 4500), np.array([400, 2700, 3800, 4400, 4500])
    told = fits[law].predict(rates, at)
    truth = [by_loops(rates, step, law, ANNEALING if law == "annealing" else MULTI_POWER) for step in at]
    assert told.loss == pytest.approx(truth, rel=3e-4)
    assert told.low is None and list(told.steps) == list(at)


def test_the_law_of_several_sizes_is_found_again():
    truth = ANNEALING | {"B_N": 30.0, "beta_N": 0.3, "gamma_N": 0.05, "C": 0.06}
    pairs = itertools.product(("constant", "cosine", "step"), (1e5, 1e6, 1e7))
    curves = [curve(kind, "annealing_N", truth, 1500, N=N, points=10) for kind, N in pairs]
    fit = laws.fit_curves(curves, "annealing_N", loss=laws.l2(), starts=16)
    rates = schedule("wsd", 2000)
    told = fit.predict(rates, [1900, 2000], N=1e8)
    assert told.loss == pytest.approx([by_loops(rates, s, "annealing_N", truth, 1e8) for s in (1900, 2000)], rel=1e-3)
    assert fit.params["beta_N"] == pytest.approx(0.3, rel=0.05)
    with pytest.raises(UserError, match="reads N"):
        fit.predict(rates)


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("step", 1e-12), ("up_again", 1e-12), ("cosine", 1e-4), ("wsd", 1e-4)]
)
@pytest.mark.parametrize(
    ("law", "params"),
    [
        ("annealing", ANNEALING),
        ("annealing_N", ANNEALING | {"B_N": 30.0, "beta_N": 0.3, "gamma_N": 0.05}),
        ("multi_power", MULTI_POWER | {"eta_0": PEAK}),
    ],
)
def test_each_law_is_the_sum_that_its_paper_writes(law, params, kind, tolerance):
    at = np.array([150, 1600, 1900, 2500, 3000])
    made = laws.LossCurve(kind, schedule(kind), at, np.ones(len(at)), 1e6)
    form, runs = _table(laws.CURVE_LAWS[law], [made])
    found = form.loss(np.array([params[name] for name in form.params]), [runs.column(name) for name in form.columns])
    truth = [by_loops(made.rates, step, law, params, 1e6) for step in at]
    assert found == pytest.approx(truth, rel=tolerance)


def test_an_abrupt_fall_is_read_exactly_and_a_smooth_one_nearly():
    """Σ drop·f(age) against a sum over single steps."""
    for kind, tolerance in (("step", 1e-12), ("up_again", 1e-12), ("cosine", 1e-3), ("wsd", 1e-3)):
        rates, at = schedule(kind), [150, 1600, 1900, 2500, 3000]
        trace = trace_of([laws.LossCurve(kind, rates, at, np.ones(len(at)))], warmup_at_peak=False)
        for row, step in enumerate(at):
            ages = step - np.arange(WARMUP + 1, step + 1)
            falls = rates[WARMUP - 1 : step - 1] - rates[WARMUP:step]
            truth = np.sum(falls * np.log1p(ages))
            assert np.sum(trace.drop[row] * np.log1p(trace.age[row])) == pytest.approx(
                truth, rel=tolerance, abs=1e-15
            )
            assert np.sum(trace.drop[row]) == pytest.approx(rates[WARMUP - 1] - rates[step - 1], abs=1e-15)


def test_the_warmup_ends_where_the_rise_does():
    assert [laws.LossCurve("run", schedule(kind)).warmup for kind in ("constant", "cosine", "wsd")] == [WARMUP] * 3
    assert laws.LossCurve("run", [1.0, 1.0, 0.5]).warmup == 1


def test_a_saved_fit_says_the_same(fits, tmp_path):
    fit = laws.load_curve_fit(fits["annealing"].save(tmp_path / "fit.json"))
    fit.bootstrap(20)
    again = laws.load_curve_fit(fit.save(tmp_path / "fit.json"))
    told, retold = (f.predict(schedule("wsd")) for f in (fit, again))
    assert again.params == fit.params and again.fit.runs.hash == fit.fit.runs.hash
    for part in ("steps", "loss", "low", "high", "run_low"):
        assert np.array_equal(getattr(told, part), getattr(retold, part))
    text = (tmp_path / "fit.json").read_text().replace('"L0": ', '"L0": 1')
    (tmp_path / "fit.json").write_text(text)
    with pytest.raises(UserError, match="was edited"):
        laws.load_curve_fit(tmp_path / "fit.json")


def test_intervals_go_by_runs_and_not_by_checkpoints():
    """Each run is off by a constant of its own: twice the checkpoints say nothing more of it."""
    widths = []
    for points in (12, 48):
        curves = []
        for seed, kind in enumerate(("constant", "cosine", "step", "constant", "cosine", "step", "constant", "wsd")):
            made = curve(kind, "annealing", ANNEALING, 1500, seed=seed, points=points)
            off = np.exp(0.01 * np.random.default_rng(seed).standard_normal())
            curves.append(laws.LossCurve(made.run, made.rates, made.steps, made.loss * off))
        fit = laws.fit_curves(curves, "annealing", loss=laws.l2(), starts=4)
        fit.bootstrap(100)
        told = fit.predict(schedule("cosine", 1500), [1500])
        widths.append(float(told.high[0] - told.low[0]))
    assert widths[1] > 0.8 * widths[0] > 0


def test_a_single_runs_interval_has_the_error_of_the_form_in_it_beyond_what_was_fitted(fits):
    """Curves of one law fitted by another: under a schedule that was fitted the scatter alone is left."""
    curves = [curve(kind, "multi_power", MULTI_POWER, 1500, points=16) for kind in ("constant", "cosine", "step")]
    fit = laws.fit_curves(curves, "annealing", loss=laws.l2(), starts=4)
    fit.bootstrap(40)
    known, unit, quantile = fit.discrepancy, fit.fit.residual_sd, stats.t.ppf(0.95, learned().freedom)
    assert len(known.own) == 3 and known.kappa == learned().laws["annealing"]["kappa"]
    # the falling part of wsd was not fitted, nor four times the steps; its constant part was, as a constant run
    for kind, steps, at, far in (
        ("cosine", 1500, 1500, 0.0),
        ("wsd", 1500, 1000, 0.0),
        ("wsd", 1500, 1500, 1.0),
        ("wsd", 6000, 6000, 1 + np.log(4)),
    ):
        told, narrow = (fit.predict(schedule(kind, steps), [at], level=level) for level in (0.9, 0.6827))
        law = known.widened * known.law * np.log(narrow.high[0] / narrow.low[0]) / 2
        form = known.widened * known.kappa * unit * np.sqrt(far)
        sd = np.sqrt(law**2 + form**2 + unit**2)
        assert np.log(told.run_high[0] / told.run_low[0]) / 2 == pytest.approx(quantile * sd, rel=1e-6)


def test_own_schedules_widen_the_interval_where_the_form_fails_them():
    """Every other curve ends 4 % higher: no law can be right, and the curves that are left out say so."""
    kinds = ("constant", "cosine", "step", "wsd")
    right = [curve(kind, "annealing", ANNEALING, 1500, noise=1e-3, seed=i, points=16) for i, kind in enumerate(kinds)]
    wrong = [
        laws.LossCurve(c.run, c.rates, c.steps, c.loss * np.where(c.steps > 1200, 1.02 if i % 2 else 0.98, 1.0))
        for i, c in enumerate(right)
    ]
    widened = []
    for curves in (right, wrong):
        fit = laws.fit_curves(curves, "annealing", loss=laws.l2(), starts=4)
        fit.bootstrap(20)
        widened.append(fit.discrepancy.widened)
    assert widened[0] < 1.0 and widened[1] > 1.05 * widened[0]


def test_the_same_schedule_is_left_out_as_one():
    two = [curve("cosine", "annealing", ANNEALING, 1500, seed=seed, points=8) for seed in (0, 1)]
    assert list(schedules([*two, curve("wsd", "annealing", ANNEALING, 1500, points=8)])) == [0, 0, 1]


def test_the_shipped_discrepancy_says_where_it_is_from_and_its_record():
    shipped = learned()
    assert set(shipped.laws) == {"annealing", "multi_power"} and "learn.py" in shipped.provenance["command"]
    assert set(shipped.record) == set(shipped.provenance["sets"])
    largest = max(law["kappa"] for law in shipped.laws.values())
    assert shipped.of("annealing_N").kappa == largest


def test_held_out_curves_are_foretold_by_the_others():
    kinds = ("constant", "cosine", "step", "wsd")
    curves = [curve(kind, "annealing", ANNEALING, 1500, noise=1e-4, seed=i) for i, kind in enumerate(kinds)]
    found = laws.hold_out_curves(curves, law="annealing", loss=laws.l2(), starts=4)
    assert [each.run for each in found] == [each.run for each in curves]
    assert all(abs(each.error) < 3e-3 and each.mean_error < 3e-3 and each.inside is None for each in found)
    with pytest.raises(UserError, match="two runs or more"):
        laws.hold_out_curves(curves[:1])


def test_curves_come_from_a_table():
    import pandas as pd

    rows = [("a", 40, 2e-3, 2.96), ("a", 80, 1e-3, 2.92), ("b", 50, 1e-3, 2.5), ("a", 60, 2e-3, None)]
    table = pd.DataFrame(rows, columns=["run", "step", "learning_rate", "loss"])
    a, b = laws.read_curves(table, warmup=20)
    assert (a.run, b.run, list(a.steps), list(a.loss)) == ("a", "b", [40, 80], [2.96, 2.92])
    assert a.rates[[9, 19, 39, 59, 69, 79]] == pytest.approx([1e-3, 2e-3, 2e-3, 2e-3, 1.5e-3, 1e-3])
    assert a.warmup == b.warmup == 20
    with pytest.raises(UserError, match="no column rate='lr'"):
        laws.read_curves(table, rate="lr")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: laws.LossCurve("r", [1.0, 1.0], [3], [2.0]), "r: steps must be whole numbers between 1 and 2"),
        (lambda: laws.LossCurve("r", [1.0, 1.0], [2, 2], [2.0, 2.0]), "step 2 is there twice"),
        (lambda: laws.LossCurve("r", [1.0, -1.0]), "learning rates of 0 or more"),
        (lambda: laws.LossCurve("r", [1.0], [1], [np.nan]), "losses must be positive"),
        (lambda: laws.fit_curves([laws.LossCurve("r", [1.0, 2.0], [1], [2.0])]), "none of 1 curves has a loss after"),
        (
            lambda: laws.fit_curves([curve("constant", "annealing", ANNEALING)]),
            "the learning rate falls in none of 1 curves",
        ),
        (
            lambda: laws.fit_curves([curve("cosine", "annealing", ANNEALING, N=n) for n in (1e5, 1e6)]),
            "law of one size",
        ),
        (lambda: laws.fit_curves([], "anealing"), "there are annealing, annealing_N, multi_power"),
    ],
)
def test_what_is_no_curve_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_schedule_outside_of_those_fitted_is_told(fits):
    assert fits["annealing"].predict(schedule("wsd")).notes == ()
    (longer,) = fits["annealing"].predict(schedule("wsd", 4000)).notes
    (hotter,) = fits["annealing"].predict(2 * schedule("wsd")).notes
    assert (
        "number of steps, 4000, is outside of those fitted, 3000 to 3000" in longer and "peak rate, 0.006" in hotter
    )


def test_the_warmup_is_not_foretold(fits):
    with pytest.raises(UserError, match="in its warmup of 100 steps"):
        fits["annealing"].predict(schedule("wsd"), [50])


def test_wild_draws_turn_the_residuals_of_a_run_as_one(fits):
    """Mean 0, the variance of the residuals widened for three runs, one factor within a run, several between."""
    fit = fits["annealing"].fit
    groups = np.unique(fit.runs.run, return_inverse=True)[1]
    fitted = fit.problem.y + fit.residuals
    factors = (fitted - _wild_losses(fit, groups, 4000, np.random.default_rng(0))) / fit.residuals
    assert np.ptp(factors[:, groups == 1], axis=1).max() < 1e-3 * np.abs(factors).max()
    first, second = factors[:, groups == 0][:, 0], factors[:, groups == 1][:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06 and abs(first.mean()) < 0.07
    assert first.var() == pytest.approx(3 / 2, rel=0.07)


def test_a_backtest_draws_no_wild_losses():
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e8, 1e10, 5)))
    runs = laws.Runs({"params": n, "tokens": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28})
    with pytest.raises(UserError, match="backtest: kind must be 'rows', 'runs' or 'noise'"):
        laws.backtest(runs, starts=4, n=10, kind="wild")
