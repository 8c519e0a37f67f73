"""Intervals where the runs leave parameters open: they hold the truth, the draws fit as well and say what is open.

Simulated sweeps whose law is known. Refits that only began at the fit's own parameters gave nominal 90 % intervals
that held the truth in none to a third of them.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling import laws
from scaling.laws.forms import get_form
from scaling.laws.intervals import identification
from scaling.laws.intervals.bootstrap import noisy_losses
from scaling.laws.intervals.identification import open_profiles
from scaling.laws.intervals.left_open import spread
from scaling.laws.quantities import quantity
from scaling.laws.solve.solver import solve

CHINCHILLA = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
KRAJEWSKI = {"c": 0.47, "g": 2.1, "a": 18.1, "b": 30.8, "alpha": 0.115, "beta": 0.147, "gamma": 0.58}
NAMES = {"N": "params", "D": "tokens", "G": "granularity"}
SEEDS = 8
SIZES, TOKENS = np.geomspace(1e8, 2e9, 5), np.geomspace(1e9, 4e10, 5)


def fitted(law, truth, axes, seed=0, noise=0.003):
    form = get_form(law)
    columns = dict(zip(form.columns, (a.ravel() for a in np.meshgrid(*axes)), strict=True))
    exact = form.loss(np.array([truth[name] for name in form.params]), list(columns.values()))
    drawn = np.exp(noise * np.random.default_rng([seed, 5]).standard_normal(len(exact)))
    table = {NAMES[letter]: values for letter, values in columns.items()} | {"loss": exact * drawn}
    others = {letter: NAMES[letter] for letter in columns if letter not in "ND"}
    return laws.fit(laws.Runs(table, **others), form, loss="l2", starts=16)


def share(law, truth, axes, asked, seeds=SEEDS):
    """Of the quantities in `asked`, {name: (interval of a fit, truth)}, the share of sweeps whose interval holds."""
    held = {}
    for seed in range(seeds):
        fit = fitted(law, truth, axes, seed)
        fit.bootstrap(80)
        for name, ((low, high), value) in asked(fit).items():
            held.setdefault(name, []).append(low <= value <= high)
    return {name: float(np.mean(inside)) for name, inside in held.items()}


def of_chinchilla(exponent):
    form, natural = get_form("chinchilla"), np.array(list(CHINCHILLA.values()))

    def asked(fit):
        found = {name: (fit.interval(name), CHINCHILLA[name]) for name in ("E", exponent)}
        for name in ("N*", "L*"):
            found[name] = fit.interval(name, C=1e22), float(quantity(form, natural, name, 1e22))
        larger = fit.predict(N=2e10, D=4e11)
        return found | {"loss": ((larger.low, larger.high), float(form.loss(natural, [2e10, 4e11])))}

    return asked


@pytest.mark.parametrize(
    ("exponent", "axes"),
    [("alpha", ([1e8, 1e9], TOKENS)), ("beta", (SIZES, [2e9, 3e10]))],
    ids=["two sizes", "two token counts"],
)
def test_runs_of_two_sizes_or_token_counts_have_intervals_that_hold_the_truth(exponent, axes):
    found = share("chinchilla", CHINCHILLA, axes, of_chinchilla(exponent))
    assert min(found.values()) >= 0.8, found


def test_runs_of_two_granularities_have_intervals_that_hold_the_truth():
    form, natural = get_form("krajewski"), np.array(list(KRAJEWSKI.values()))

    def asked(fit):
        between = fit.predict(N=2e8, D=5e9, G=2.5)
        value = float(form.loss(natural, [2e8, 5e9, 2.5]))
        return {"gamma": (fit.interval("gamma"), 0.58), "between": ((between.low, between.high), value)}

    found = share("krajewski", KRAJEWSKI, (SIZES[::2], TOKENS[::2], [1.0, 8.0]), asked, seeds=4)
    assert min(found.values()) >= 0.75, found


def test_what_is_open_is_told_wherever_the_draws_are_read():
    fit = fitted("chinchilla", CHINCHILLA, ([1e8, 1e9], TOKENS))
    fit.bootstrap(40)
    said = "100% of the draws are spread along E, A and alpha, which the runs do not identify"
    assert fit.draws.notes == (said,) and f"note: {said}" in fit.summary()
    assert said in laws.predict_table(fit, 1e22)["warnings"]
    assert said in laws.loss_table(fit, {"N": 1e8, "D": 1e10})["warnings"]


@settings(deadline=None, max_examples=12, derandomize=True)
@given(st.floats(0.15, 0.6), st.floats(0.15, 0.6), st.floats(3.0, 30.0), st.floats(0.001, 0.01), st.integers(0, 1000))
def test_draws_that_are_spread_fit_as_well_and_leave_what_is_known_as_narrow(alpha, beta, apart, noise, seed):
    """At the two sizes of the runs the loss is known, whatever alpha: by the same interval as from the fit's own."""
    truth = {"E": 1.5, "A": 0.8 * 1e8**alpha, "B": 0.6 * 1e10**beta, "alpha": alpha, "beta": beta}
    fit = fitted("chinchilla", truth, ([1e8, 1e8 * apart], TOKENS), seed, noise)
    draws = fit.bootstrap(100, kind="noise", seed=seed)
    y, _ = noisy_losses(fit, 100, np.random.default_rng(seed))
    own = solve(fit.problem, np.tile(fit.theta, (100, 1)), y, tolerance=1e-9)
    nat = fit.residual_sd**2  # of least squares
    assert (draws.objectives <= own.objective + 0.02 * nat).all()
    at = {"N": np.array([1e8, 1e8 * apart]), "D": np.full(2, 6e9)}
    found, plain = fit.predict(**at), form_losses(fit, fit.problem.natural(own.theta), at)
    low, high = np.quantile(plain, [0.05, 0.95], axis=0)
    np.testing.assert_allclose(found.high - found.low, high - low, rtol=0.25)
    assert np.ptp(draws.samples[:, 3]) > 1.0  # and alpha is spread


def test_a_second_search_is_kept_where_it_ends_elsewhere_and_fits_as_well():
    fit = fitted("chinchilla", CHINCHILLA, ([1e8, 1e9], TOKENS))
    own = solve(fit.problem, np.tile(fit.theta, (4, 1)))
    steps, worse = np.array([1.0, 1.0, 1e-3, 1e-3]), fit.residual_sd**2 * np.array([0.001, 0.1, 0.001, -0.1])
    moved = replace(own, theta=own.theta + steps[:, None], objective=own.objective + worse)
    theta, objective, told = spread(fit, open_profiles(fit), own, lambda starts: moved, np.random.default_rng(0))
    kept = np.array([True, False, False, True])  # the last one because it fits better
    np.testing.assert_array_equal(theta, np.where(kept[:, None], moved.theta, own.theta))
    np.testing.assert_array_equal(objective, np.where(kept, moved.objective, own.objective))
    assert told[0].startswith("50% of the draws are spread along E, A and alpha, ")
    E = np.eye(5)[0]  # e^−30 and e^−40 times it are both nothing
    for one, other in ((own.theta, own.theta), (own.theta - 30 * E, own.theta - 40 * E)):
        first, second = replace(own, theta=one), replace(own, theta=other)
        theta, _, told = spread(fit, open_profiles(fit), first, lambda starts, s=second: s, np.random.default_rng(0))
        assert told == () and (theta == one).all()


def form_losses(fit, natural, columns):
    return fit.form.loss(natural[:, None, :], [columns[letter] for letter in fit.form.columns])


def test_the_draws_of_a_determined_law_begin_at_the_fit_alone_and_take_no_profiles(monkeypatch):
    fit = fitted("chinchilla", CHINCHILLA, (SIZES, TOKENS))
    monkeypatch.setattr(identification, "profile", pytest.fail)
    draws = fit.bootstrap(60, kind="noise", seed=3)
    y, _ = noisy_losses(fit, 60, np.random.default_rng(3))
    own = solve(fit.problem, np.tile(fit.theta, (60, 1)), y, tolerance=1e-9)
    np.testing.assert_array_equal(draws.samples, fit.problem.natural(own.theta))
    assert draws.notes == ()


def test_a_group_of_a_pooled_fit_has_the_spread_of_the_whole():
    """Both groups have the same two sizes, so sharing alpha does not tell it."""
    N, D = (np.tile(a.ravel(), 2) for a in np.meshgrid([1e8, 1e9], TOKENS))
    group = np.repeat(["a", "b"], len(N) // 2)
    p, noise = CHINCHILLA, np.exp(0.003 * np.random.default_rng(1).standard_normal(len(N)))
    loss = (p["E"] + p["A"] / (N * np.where(group == "b", 1.5, 1.0)) ** p["alpha"] + p["B"] / D ** p["beta"]) * noise
    table = {"params": N, "tokens": D, "loss": loss, "group": group}
    fit = laws.fit(laws.Runs(table), loss="l2", group=group, shared=("alpha", "beta"), starts=16)
    fit.bootstrap(80)
    low, high = fit["b"].interval("alpha")
    assert low < p["alpha"] < high and high > 2 * low
    assert any(" of the draws are spread along " in note for note in fit["b"].draws.notes)
