"""Profiles of exponents and optima against the same law written with that quantity as a parameter of its own."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from scaling import laws
from scaling.errors import UserError
from scaling.laws import quantities
from scaling.laws.forms import FORMS
from scaling.laws.forms.float64 import float64_on_cpu
from scaling.laws.intervals import coordinate
from scaling.laws.intervals.identification import unidentified
from scaling.laws.solve.problem import Pull

BUDGET = 6 * 300.0
"""FLOPs, of N in 1e9 and D in 1e10: 1.8e22 of the usual"""


def ladder(low=1e17, high=1e21, sd=0.005, seed=0):
    C = np.repeat(np.geomspace(low, high, 5), 7)
    N = 0.1 * C**0.47 * np.tile(np.geomspace(1 / 3, 3, 7), 5)
    loss = 1.69 + 406.4 / N**0.34 + 410.7 / (C / 6 / N) ** 0.28
    loss = loss * np.exp(sd * np.random.default_rng(seed).standard_normal(len(C)))
    return laws.Runs({"params": N / 1e9, "tokens": C / 6 / N / 1e10, "loss": loss}, trusted=True)


def sum_of_powers(N, D, E, A, B, alpha, beta):
    return E + A * N**-alpha + B * D**-beta


def by_exponent(N, D, E, A, B, alpha, a):
    return sum_of_powers(N, D, E, A, B, alpha, alpha * a / (1 - a))


def by_optimal_size(N, D, E, A, best, alpha, beta):
    """B such that N* is `best`: Hoffmann et al. 2022, eq. 4, solved for it."""
    B = alpha * A / beta * ((BUDGET / 6) ** (beta / (alpha + beta)) / best) ** (alpha + beta)
    return sum_of_powers(N, D, E, A, B, alpha, beta)


def by_least_loss(N, D, least, A, B, alpha, beta):
    """E such that L* is `least`."""
    best = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (BUDGET / 6) ** (beta / (alpha + beta))
    above = sum_of_powers(best, BUDGET / 6 / best, 0.0, A, B, alpha, beta)
    return sum_of_powers(N, D, least - above, A, B, alpha, beta)


STARTS = {"E": (1.0, 2.0), "A": (0.1, 1.0), "B": (0.1, 1.0), "alpha": (0.2, 0.5), "beta": (0.2, 0.5)}
OTHERS = {
    "a": (by_exponent, "a", {"a": (0.3, 0.6)}, "beta"),
    "N*": (by_optimal_size, "best", {"best": (1.0, 50.0)}, "B"),
    "L*": (by_least_loss, "least", {"least": (1.5, 2.5)}, "E"),
}


def rewritten(runs, name, loss):
    """The profile of the same quantity as a parameter."""
    function, own, start, gone = OTHERS[name]
    starts = {key: value for key, value in STARTS.items() if key != gone} | start
    form = laws.form(f"by_{own}", function, columns=["N", "D"], params=starts)
    return laws.fit(runs, form, loss=loss, starts=16).profile(own)


def budget_of(name):
    return {} if name == "a" else {"C": BUDGET}


@pytest.fixture(scope="module")
def long_fit():
    return laws.fit(ladder(), loss=laws.l2(), starts=16)


@pytest.mark.parametrize(
    ("name", "loss", "sd"),
    [
        ("a", laws.l2(), 0.005),
        ("a", laws.huber(1e-3), 0.005),
        ("a", laws.l2(), 0.02),
        ("N*", laws.l2(), 0.02),
        ("L*", laws.l2(), 0.005),
    ],
)
def test_a_derived_quantity_has_the_profile_that_it_has_as_a_parameter(name, loss, sd):
    runs = ladder(sd=sd)
    found = laws.fit(runs, loss=loss, starts=16).profile(name, **budget_of(name))
    other = rewritten(runs, name, loss)
    assert found.estimate == pytest.approx(other.estimate, rel=1e-6)
    np.testing.assert_allclose(found.interval, other.interval, atol=1e-5 * np.ptp(other.interval))
    assert found.cut == pytest.approx(other.cut, rel=1e-9)
    assert found.closed == (True, True) and found.note is None
    inside = np.abs(found.z) < 2  # between the points of the other a straight line in z, which is nearly one
    np.testing.assert_allclose(found.z[inside], np.interp(found.values[inside], other.values, other.z), atol=0.02)


def test_points_far_from_the_estimate_are_the_best_fits_too():
    """By scipy: the least squares at a, N* or L* held by elimination, from the point's own parameters and others."""
    runs = ladder(1e18, 4e18, sd=0.02, seed=1)
    fit = laws.fit(runs, loss=laws.l2(), starts=16)
    y = np.log(runs.loss)

    def least(name, value, near):
        function, own, _, gone = OTHERS[name]
        free = [key for key in STARTS if key != gone]

        def residuals(t):
            return np.log(function(runs.N, runs.D, **dict(zip(free, np.exp(t), strict=True)), **{own: value})) - y

        starts = [[np.log(params[key]) for key in free] for params in (near, fit.params, {**near, "E": 1.0})]
        with np.errstate(all="ignore"):
            return min(optimize.least_squares(residuals, s, xtol=1e-15, ftol=1e-15, gtol=1e-15).cost for s in starts)

    for name in ("a", "N*"):
        found = fit.profile(name, points=11, **budget_of(name))
        for i in (2, len(found.values) // 3, -3):
            near = dict(zip(fit.form.params, found.natural[i], strict=True))
            assert found.objectives[i] == pytest.approx(least(name, float(found.values[i]), near), rel=1e-6)


def test_each_point_carries_the_parameters_and_the_value_that_follows_from_them(long_fit):
    found = long_fit.profile("L*", points=11, C=BUDGET)
    E, A, B, alpha, beta = found.natural.T
    best = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (BUDGET / 6) ** (beta / (alpha + beta))
    least = sum_of_powers(best, BUDGET / 6 / best, E, A, B, alpha, beta)
    np.testing.assert_allclose(found.values, least, rtol=1e-9)
    assert (np.diff(found.values) >= 0).all()
    assert found.C == BUDGET and "at 1800 FLOPs" in repr(found)


def test_a_parameter_that_is_pulled_has_the_profile_of_the_one_held(long_fit):
    """The pull alone: "b" of a law whose b is one of its own parameters."""

    class Pulled(coordinate.DerivedCoordinate):
        def __init__(self, fit, name):
            parameter = next(p for p in fit.form.parameters if p.name == name)
            coordinate.Coordinate.__init__(self, fit, parameter, fit.params[name])
            index = fit.form.params.index(name)
            self.pull = Pull(lambda natural, _: parameter.to_theta(natural[index], jnp), (), np.zeros(0), 0.0)

    held = long_fit.profile("beta")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling.laws.intervals.profile.coordinate", lambda fit, name, *_: Pulled(fit, name))
        pulled = long_fit.profile("beta")
    np.testing.assert_allclose(pulled.interval, held.interval, atol=1e-5 * np.ptp(held.interval))


def test_what_is_pulled_is_what_is_reported(long_fit):
    """The optimum that the solver follows and `fit.optimal`, with a count of FLOPs that is no power of N."""
    natural = long_fit.natural
    curved = lambda N: 5.0 * N + 3.0 * N**0.7  # noqa: E731
    best = long_fit.optimal(BUDGET, flops_per_token=curved)
    for name, value in {"N*": best.N, "D*": best.D, "L*": best.loss, "D*/N*": best.tokens_per_param}.items():
        traced = quantities.traced(FORMS["chinchilla"], name)
        table = quantities.tokens_table(BUDGET, curved)
        with float64_on_cpu():
            own = float(traced(jnp.asarray(natural), [jnp.asarray(t) for t in table]))
        assert own == pytest.approx(np.log(value), abs=1e-6)
    found = long_fit.profile("N*", points=7, C=BUDGET, flops_per_token=curved)
    assert found.estimate == pytest.approx(best.N, rel=1e-9)
    assert found.interval[0] < best.N < found.interval[1]


def test_b_is_one_less_a_and_tokens_per_parameter_mirror_the_size(long_fit):
    a, b = (long_fit.profile(name).interval for name in "ab")
    np.testing.assert_allclose(b, [1 - a[1], 1 - a[0]], atol=1e-6)
    size, tokens, ratio = (long_fit.profile(name, C=BUDGET).interval for name in ("N*", "D*", "D*/N*"))
    np.testing.assert_allclose(np.multiply(size, tokens[::-1]), BUDGET / 6, rtol=1e-5)  # 6·N·D = C
    np.testing.assert_allclose(np.multiply(np.square(size), ratio[::-1]), BUDGET / 6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [laws.l1(), laws.student_t(4)], ids=["l1", "student"])
def test_every_objective_has_profiles_of_derived_quantities(loss):
    """L1's cannot be met by elimination to 1e-5: there the fit with a parameter held is the worse search."""
    runs = ladder()
    fit = laws.fit(runs, loss=loss, starts=16)
    found, other = fit.profile("a"), rewritten(runs, "a", loss)
    width = np.ptp(other.interval)
    assert found.interval[0] <= other.interval[0] + 1e-4 * width
    assert found.interval[1] >= other.interval[1] - 1e-4 * width
    np.testing.assert_allclose(found.interval, other.interval, atol=0.1 * width)


def test_a_prior_narrows_what_follows_from_its_parameter():
    runs = ladder(1e18, 4e18, sd=0.02, seed=1)
    free = laws.fit(runs, loss=laws.l2(), starts=16)
    priors = {"alpha": laws.Prior(0.34, 0.01), "beta": laws.Prior(0.28, 0.01)}
    told = laws.fit(runs, loss=laws.l2(), starts=16, priors=priors)
    assert np.ptp(told.profile("a").interval) < 0.2 * np.ptp(free.profile("a").interval)


def test_an_offset_that_was_driven_to_zero_does_not_trap_the_profile():
    """The fit has E = 0, from which no gradient leads back; yet far off the best fits have an E."""
    runs = ladder(1e18, 4e18, sd=0.02, seed=2)
    fit = laws.fit(runs, loss=laws.l2(), starts=16)
    assert fit.params["E"] < 1e-6
    found, other = fit.profile("N*", C=BUDGET), rewritten(runs, "N*", laws.l2())
    np.testing.assert_allclose(found.interval, other.interval, rtol=1e-3)


def test_exponents_that_the_runs_leave_open_are_reported():
    fit = laws.fit(ladder(1e18, 4e18, sd=0.05, seed=3), loss=laws.l2(), starts=16)
    found = fit.identified()["a"]
    assert not found.identified and "does not close on" in found.why
    assert "it needs runs at" in found.remedy
    assert "a is not identified" in fit.summary()


@pytest.mark.parametrize(("high", "sd"), [(1e21, 0.005), (1e20, 0.01), (4e18, 0.05)])
def test_what_is_left_open_is_the_same_whether_or_not_the_exponents_intervals_tell_it(high, sd):
    fit = laws.fit(ladder(1e18, high, sd=sd, seed=3), loss=laws.l2(), starts=16)
    open_ = {name for name, found in unidentified(fit).items() if not found.identified}
    found = fit.identified()
    assert open_ == {name for name, of in found.items() if not of.identified}
    if not open_:  # then all a that fit lie between those of the corners
        (a_low, a_high), (b_low, b_high), (low, high) = (found[name].interval for name in ("alpha", "beta", "a"))
        assert b_low / (a_high + b_low) <= low < high <= b_high / (a_low + b_high)


@pytest.mark.parametrize(
    ("law", "name", "more", "said"),
    [
        ("chinchilla", "L*", {}, "depends on the budget: give C="),
        ("chinchilla", "c", {}, "there are E, A, B, alpha, beta, and derived a, b, N\\*, D\\*, L\\*, D\\*/N\\*"),
        ("chinchilla_equal", "a", {}, "a of chinchilla_equal is 0.5 whatever its parameters"),
        ("power_law_N", "N*", {"C": 1e20}, "not a fitted parameter; there are E, A, alpha$"),
        ("chinchilla", "N*", {"C": -1.0}, "positive number of FLOPs"),
    ],
)
def test_misuse_is_one_line(law, name, more, said):
    fit = laws.fit(ladder(), law, loss=laws.l2(), starts=8)
    with pytest.raises(UserError, match=said):
        fit.profile(name, **more)


def test_a_law_without_an_optimum_has_no_profile_of_it():
    runs = ladder()
    flat = 1.69 + 406.4 / (runs.N * 1e9) ** 0.34
    loss = flat * np.exp(0.005 * np.random.default_rng(3).standard_normal(len(flat)))
    fit = laws.fit(
        laws.Runs({"params": runs.N, "tokens": runs.D, "loss": loss}, trusted=True), loss=laws.l2(), starts=16
    )
    assert fit.params["beta"] < 0
    assert "a" not in fit.identified()
    for name in ("a", "L*"):
        with pytest.raises(UserError, match="no compute-optimal N and D"):
            fit.profile(name, C=BUDGET)
