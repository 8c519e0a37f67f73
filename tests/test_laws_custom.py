"""Laws of the user's own: any JAX function with named columns."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError

TRUTH = {"E": 1.7, "A": 400.0, "B": 410.0, "alpha": 0.34, "beta": 0.28}
RANGES = {"E": (0.3, 3.0), "A": (1.0, 1e4), "B": (1.0, 1e4), "alpha": (0.05, 1.0), "beta": (0.05, 1.0)}


def chinchilla(N, D, E, A, B, alpha, beta):
    return E + A * N**-alpha + B / jnp.exp(beta * jnp.log(D))


def table(noise=0.0):
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e11, 5)))
    loss = TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"]
    return pd.DataFrame(
        {"params": N, "tokens": D, "loss": loss * np.exp(noise * np.random.default_rng(1).standard_normal(30))}
    )


@pytest.fixture(scope="module")
def own():
    return laws.form("own", chinchilla, columns=["N", "D"], params=RANGES)


@pytest.fixture(scope="module")
def fitted(own):
    return laws.fit(laws.Runs(table(noise=0.01)), own, loss=laws.l2())


def test_a_function_of_the_users_is_recovered(own):
    fit = laws.fit(laws.Runs(table()), own, loss=laws.l2())
    np.testing.assert_allclose(fit.fitted(), fit.runs.loss, rtol=1e-9)
    assert fit.params == pytest.approx(TRUTH, rel=1e-6)
    assert fit.diagnostics.starts_at_optimum > 0.5


def test_a_function_of_the_users_fits_as_the_same_law_of_ours(fitted):
    ours = laws.fit(laws.Runs(table(noise=0.01)), "chinchilla", loss=laws.l2())
    assert fitted.objective == pytest.approx(ours.objective, rel=1e-9)
    assert fitted.params == pytest.approx(ours.params, rel=1e-4)
    best = fitted.optimal(C=1e22)
    assert pytest.approx(ours.optimal(C=1e22).N, rel=1e-4) == best.N
    fitted.bootstrap(50)
    low, high = fitted.interval("alpha")
    assert low < fitted.params["alpha"] < high


def test_it_is_evaluated_in_float64_and_leaves_the_callers_setting_alone(own):
    before = jax.config.jax_enable_x64
    natural = np.array([TRUTH[name] for name in own.params])
    found = own.loss(natural, [3.3e8, 7e9])
    assert found.dtype == np.float64
    by_hand = TRUTH["E"] + TRUTH["A"] / 3.3e8 ** TRUTH["alpha"] + TRUTH["B"] / 7e9 ** TRUTH["beta"]
    assert float(found) == pytest.approx(by_hand, rel=1e-13)  # float32 would stop near 1e-7
    assert jax.config.jax_enable_x64 == before


def test_row_order_does_not_matter(own, fitted):
    shuffled = laws.fit(laws.Runs(table(noise=0.01).sample(frac=1, random_state=3)), own, loss=laws.l2())
    assert shuffled.params == fitted.params


def test_kinds_of_parameters_and_further_columns():
    def ceiling(steps, top, rate, shift):
        return top * jax.nn.sigmoid(rate * jnp.log10(steps) + shift)

    form = laws.form(
        "ceiling", ceiling, columns=["steps"], params={"top": "share", "rate": "positive", "shift": (-9.0, 3.0)}
    )
    assert [p.kind for p in form.parameters] == ["share", "positive", "real"]
    steps = np.geomspace(10, 1e5, 15)
    values = 0.8 / (1 + np.exp(-(1.5 * np.log10(steps) - 4.0)))
    runs = laws.Runs({"steps": steps, "hits": values}, N=None, D=None, loss="hits", steps="steps")
    fit = laws.fit(runs, form, residual="raw", loss=laws.l2())
    assert fit.params == pytest.approx({"top": 0.8, "rate": 1.5, "shift": -4.0}, rel=1e-6)


def test_a_saved_fit_needs_its_form_again(own, fitted, tmp_path):
    path = fitted.save(tmp_path / "fit.json")
    again = laws.load(path, law=own)
    assert again.params == fitted.params
    assert again.objective == pytest.approx(fitted.objective, rel=1e-12)
    with pytest.raises(UserError, match=r"is a fit of 'own', which is not one of laws\.FORMS; pass the law"):
        laws.load(path)
    other = laws.form("own", lambda N, k: k / N, columns=["N"], params={"k": (0.1, 9.0)})
    with pytest.raises(UserError, match="with E, A, B, alpha, beta; the form given is 'own' with k"):
        laws.load(path, law=other)
    doubled = laws.form("own", lambda **all: 2 * chinchilla(**all), columns=["N", "D"], params=RANGES)
    with pytest.raises(UserError, match="was edited"):  # another function: not the objective on file
        laws.load(path, law=doubled)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": ["N"]}, "D is neither a column nor a parameter"),
        ({"columns": ["N", "D", "U"]}, "it does not take U; columns and params must name the function's arguments"),
        ({"columns": ["N", "D", "E"]}, "E cannot be both a column and a parameter"),
        ({"columns": []}, "at least one column"),
        ({"params": RANGES | {"A": (5.0, 1.0)}}, r"A must be a range \(low, high\) .* got \(5.0, 1.0\)"),
        ({"params": RANGES | {"A": "small"}}, "one of positive, share, real; got 'small'"),
        ({"name": "chinchilla"}, "there is a law 'chinchilla' already"),
        ({"function": lambda N, D, **rest: np.exp(rest["E"]) * N}, "JAX cannot trace the function .* jax.numpy"),
        ({"function": lambda N, D, E, A, B, alpha, beta: E}, r"for 3 rows it returned \(\)"),
    ],
)
def test_what_cannot_be_a_law_is_said_in_one_line(changes, message):
    settings = {"name": "own", "function": chinchilla, "columns": ["N", "D"], "params": RANGES} | changes
    with pytest.raises(UserError, match=message) as error:
        laws.form(settings.pop("name"), settings.pop("function"), **settings)
    assert "\n" not in str(error.value)
