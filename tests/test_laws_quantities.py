"""Derived quantities against Hoffmann et al. 2022, eq. 4, wherever they are asked for, and budgets of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling import laws
from scaling.errors import UserError
from scaling.laws.forms.float64 import float64_on_cpu
from scaling.laws.quantities import DERIVED, derived, gradient, quantity, tokens_table, traced
from scaling.laws.table import budget_labels

BUDGET = 3e21
EXPONENTS, AT_BUDGET = ("a", "b"), ("N*", "D*", "L*", "D*/N*")


def ladder(seed=0):
    C = np.repeat(np.geomspace(1e18, 1e20, 5), 7)
    N = 0.1 * C**0.47 * np.tile(np.geomspace(1 / 3, 3, 7), 5)
    loss = 1.69 + 406.4 / N**0.34 + 410.7 / (C / 6 / N) ** 0.28
    noise = np.exp(0.003 * np.random.default_rng(seed).standard_normal(len(C)))
    return laws.Runs({"params": N, "tokens": C / 6 / N, "loss": loss * noise})


def in_closed_form(natural):
    E, A, B, alpha, beta = np.moveaxis(np.asarray(natural), -1, 0)
    a, b = beta / (alpha + beta), alpha / (alpha + beta)
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N, D = G * (BUDGET / 6) ** a, (BUDGET / 6) ** b / G
    return {"a": a, "b": b, "N*": N, "D*": D, "L*": E + A / N**alpha + B / D**beta, "D*/N*": D / N}


def at(name):
    return {"C": BUDGET} if name in AT_BUDGET else {}


@pytest.fixture(scope="module")
def fit():
    fitted = laws.fit(ladder(), loss=laws.l2(), starts=16)
    fitted.draw("laplace", 200)
    return fitted


def test_the_closed_form_is_about_every_quantity_that_there_is():
    assert set(DERIVED) == {*EXPONENTS, *AT_BUDGET}


@pytest.mark.parametrize("name", DERIVED)
def test_a_quantity_is_the_same_wherever_it_is_asked_for(fit, name):
    samples, own = in_closed_form(fit.draws.samples)[name], in_closed_form(fit.natural)[name]
    np.testing.assert_allclose(quantity(fit.form, fit.draws.samples, name, **at(name)), samples, rtol=1e-7)
    low, high = fit.interval(name, 0.8, **at(name))
    assert np.mean(samples < low * (1 - 1e-7)) < 0.105 and np.mean(samples > high * (1 + 1e-7)) < 0.105
    assert fit.profile(name, points=5, **at(name)).estimate == pytest.approx(own, rel=1e-7)


def test_tables_tell_the_same_quantities(fit):
    own = in_closed_form(fit.natural)
    best, said = fit.optimal(BUDGET), laws.predict_table(fit, BUDGET)
    for name, key in {"N*": "N", "D*": "D", "L*": "loss", "D*/N*": "tokens_per_param"}.items():
        assert [getattr(best, key), said[key]] == pytest.approx([own[name]] * 2, rel=1e-7)
    assert laws.fit_table(fit)["derived"] == pytest.approx({name: own[name] for name in EXPONENTS})
    told = laws.influence(fit, C=BUDGET).base
    row = next(row for row in laws.sensitivity(fit, deltas=(), residuals=("log",), C=BUDGET).table if row["own"])
    for name in ("a", "N*", "L*"):
        assert [told[name], row[name]] == pytest.approx([own[name]] * 2, rel=1e-7)


@pytest.mark.parametrize("name", DERIVED)
def test_the_solver_pulls_by_the_quantity_and_its_gradient(fit, name):
    parameter, C = DERIVED[name].parameter, at(name).get("C")
    with float64_on_cpu():
        function = traced(fit.form, name)
        table = tuple(map(jnp.asarray, tokens_table(C, None)))
        value, slopes = jax.value_and_grad(function)(jnp.asarray(fit.natural), table)
        value, slopes = float(value), np.asarray(slopes)
    assert value == pytest.approx(parameter.to_theta(in_closed_form(fit.natural)[name], np), rel=1e-10)

    def u(natural):
        return parameter.to_theta(in_closed_form(natural)[name], np)

    step = 1e-6 * fit.natural * np.eye(5)
    expected = (u(fit.natural + step) - u(fit.natural - step)) / (2e-6 * fit.natural)
    np.testing.assert_allclose(slopes * fit.natural, expected * fit.natural, rtol=1e-4, atol=1e-7)
    # the solver's numbers of E, A and B are logarithms; a step of its α changes A as well
    own = gradient(fit.problem, fit.theta, parameter, C)
    np.testing.assert_allclose(own[:3], (expected * fit.natural)[:3], rtol=1e-4, atol=1e-6 * abs(value))


def test_a_law_without_exponents_in_closed_form_has_its_optimum_all_the_same():
    runs = ladder()
    plain = laws.fit(runs, loss=laws.l2(), starts=16)
    mine = laws.form(
        "mine",
        lambda D, N, E, A, B, alpha, beta: E + A * N**-alpha + B * D**-beta,
        columns=["D", "N"],  # in this order
        params={"E": (1, 3), "A": (100, 1000), "B": (100, 1000), "alpha": (0.2, 0.5), "beta": (0.2, 0.5)},
    )
    own = laws.fit(runs, mine, loss=laws.l2(), starts=16)
    assert derived(own.form) == AT_BUDGET
    sizes = [one.optimal(BUDGET).N for one in (own, plain)]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-3)
    ends = [one.profile("L*", points=7, C=BUDGET).interval for one in (own, plain)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)
    with pytest.raises(UserError, match=r"no quantity 'a' of mine; there are E, .*beta, N\*, D\*, L\*, D\*/N\*"):
        quantity(own.form, own.natural, "a")


def test_rows_are_in_the_same_budgets_for_minima_resamples_and_designs():
    rng = np.random.default_rng(1)
    table = {key: values for key, values in ladder().values.items()}
    table["flops"] = 6 * table["N"] * table["D"] * rng.uniform(1.0, 1.09, 35)
    runs = laws.Runs(table, N="N", D="D", C="flops")
    labels = budget_labels(runs.flops)
    assert [len(np.unique(labels[i : i + 7])) for i in range(0, 35, 7)] == [1] * 5 and labels.max() == 4
    found = laws.isoflop(runs)
    rows = [sorted(int(row) for row in budget.rows) for budget in found.budgets]
    assert rows == [np.flatnonzero(labels == i).tolist() for i in range(5)]
    fitted = laws.fit(runs, loss=laws.l2(), starts=4)
    assert fitted.bootstrap(10, strata="budget").strata == 5 and runs.form_budgets()
