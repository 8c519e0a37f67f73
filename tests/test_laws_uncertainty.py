"""Bootstraps, linearised covariances, posteriors, priors and σ against closed forms and published numbers."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scaling import laws
from scaling.errors import UserError
from scaling.laws import Form, Parameter
from scaling.laws.intervals import interval
from scaling.laws.intervals.bootstrap import resample_counts
from scaling.laws.intervals.interval import check_level
from scaling.laws.table import budget_labels

CHINCHILLA = Path(__file__).parents[1] / "../shared/published/epoch_chinchilla.csv"
needs_data = pytest.mark.skipif(not CHINCHILLA.exists(), reason="../shared/published is not here")

STRAIGHT = Form(
    name="straight",
    formula="L = c + s·log N",
    source="a law that is linear in its parameters",
    columns=("N",),
    parameters=(Parameter("c", "real"), Parameter("s", "real")),
    value=lambda p, x, xp: p["c"] + p["s"] * x["N"],
    starts=lambda x, y, count: np.tile([float(np.mean(y)), 0.0], (count, 1)),
    unscaled=("N",),
)


def line(n=40, sd=0.3, seed=0, heavy=False, sigma=None):
    """Runs on a straight line in log N, the design [n, 2] and the losses; raw residuals of `sd`."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0.0, 3.0, n)
    noise = rng.standard_t(2, n) if heavy else rng.standard_normal(n)
    scale = np.full(n, sd) if sigma is None else sigma
    y = 10.0 - 0.7 * x + scale * noise
    table = {"params": np.exp(x), "loss": y} | ({} if sigma is None else {"sigma": sigma})
    runs = laws.Runs(table, D=None, sigma=None if sigma is None else "sigma", signed=True)
    return runs, np.stack([np.ones(n), x], 1), y


def straight(runs, loss=None, **options):
    return laws.fit(runs, STRAIGHT, loss=loss or laws.l2(), residual="raw", starts=2, **options)


def ladder(seed=0, sd=0.005, runs=None):
    C = np.repeat(np.geomspace(1e18, 1e20, 5), 6)
    N = 0.1 * C**0.47 * np.tile(np.geomspace(1 / 3, 3, 6), 5)
    loss = 1.69 + 406.4 / N**0.34 + 410.7 / (C / 6 / N) ** 0.28
    loss = loss * np.exp(sd * np.random.default_rng(seed).standard_normal(len(C)))
    return laws.Runs({"params": N, "tokens": C / 6 / N, "loss": loss})


def test_a_prediction_has_the_interval_of_the_law_and_that_of_a_single_run():
    runs, X, y = line(12)
    fit = straight(runs)
    assert fit.predict(N=30.0).run_low is None
    fit.bootstrap(8000, kind="noise")
    at = np.array([1.0, np.log(30.0)])
    freedom, best = 10, np.linalg.lstsq(X, y, rcond=None)[0]
    s = np.sqrt(np.sum((y - X @ best) ** 2) / freedom)
    leverage = at @ np.linalg.inv(X.T @ X) @ at
    found = fit.predict(N=30.0, level=0.9)
    t = stats.t.ppf(0.95, freedom)
    assert found.high - found.low == pytest.approx(2 * t * s * np.sqrt(leverage), rel=0.05)
    assert found.run_high - found.run_low == pytest.approx(2 * t * s * np.sqrt(1 + leverage), rel=0.05)
    several = fit.predict(N=np.array([[3.0, 30.0]]))
    assert several.run_low.shape == (1, 2) and several.run_low[0, 1] == pytest.approx(found.run_low)


@needs_data
def test_bootstrap_of_the_chinchilla_amplitudes_is_the_published_one():
    df = pd.read_csv(CHINCHILLA)
    fit = laws.fit(laws.Runs(df[df.used_in_fit == 1]), starts=16)
    fit.bootstrap(4000, seed=0)
    # Ends of 4,000 draws scatter by about this much; B's by more, its distribution has a long upper tail.
    np.testing.assert_allclose(fit.interval("A", 0.95), (285, 744), rtol=0.05)
    np.testing.assert_allclose(fit.interval("B", 0.95), (1042, 5810), rtol=0.08)


@needs_data
def test_rows_of_one_size_are_not_independent_in_the_chinchilla_data():
    """Rows whose N agree within 1 % are points of one training curve: α's interval widens, by a quarter."""
    df = pd.read_csv(CHINCHILLA)
    df = df[df.used_in_fit == 1].sort_values("params")
    curve = np.concatenate([[0], np.cumsum(np.diff(np.log(df.params)) > 0.01)])
    assert curve.max() + 1 == 41
    fit = laws.fit(laws.Runs(df), starts=16)
    width = {}
    for cluster in (False, curve):
        fit.bootstrap(2000, cluster=cluster)
        width[cluster is curve] = np.subtract(*fit.interval("alpha", 0.95)[::-1])
    assert 1.1 < width[True] / width[False] < 1.4
    widths = [fit.covariance("sandwich", cluster=cluster).sd["alpha"] for cluster in (False, curve)]
    assert widths[1] > 1.1 * widths[0]
    # The linearised law agrees with the bootstrap; taking all rows to scatter alike would halve α's error.
    fit.bootstrap(2000)
    spread = np.subtract(*fit.interval("alpha", 0.68)[::-1]) / 2
    assert widths[0] == pytest.approx(spread, rel=0.25)
    assert fit.covariance("laplace").sd["alpha"] < 0.75 * spread


def test_budgets_are_rows_of_like_flops():
    np.testing.assert_array_equal(
        budget_labels(np.array([1e18, 3e19, 1.05e18, 0.98e18, 3.1e19, 9e20])), [0, 1, 0, 0, 1, 2]
    )


def test_stratified_resamples_keep_every_budget_its_rows():
    strata = np.repeat([0, 1, 2], [4, 5, 6])
    rng = np.random.default_rng(0)
    counts = resample_counts(np.arange(15), 500, 3, rng, strata)
    for stratum, rows in enumerate((4, 5, 6)):
        np.testing.assert_array_equal(counts[:, strata == stratum].sum(1), rows)
    assert counts.max() > 2
    runs = np.repeat(np.arange(5), 3)  # three rows of each run
    whole = resample_counts(runs, 500, 3, rng, np.repeat([0, 1], [6, 9]))
    assert (whole.reshape(500, 5, 3) == whole.reshape(500, 5, 3)[:, :, :1]).all()
    np.testing.assert_array_equal(whole[:, :6].sum(1), 6)


def test_bootstrap_within_budgets_is_narrower_and_takes_clusters():
    """m rows of a stratum show (m−1)/m of their variance, and no draw loses a budget."""
    runs = ladder()
    fit = laws.fit(runs, loss=laws.l2(), starts=8)
    assert fit.bootstrap(600, strata="budget").strata == 5
    within = fit.draws.samples[:, 3].std()
    fit.bootstrap(600)
    assert 0.6 < within / fit.draws.samples[:, 3].std() < 1.1
    labels = np.repeat(np.arange(10), 3)
    fit.bootstrap(300, strata="budget", cluster=labels)
    assert fit.draws.kind == "runs"
    assert "within 5 strata" in repr(fit.draws)


def test_laplace_is_the_closed_form_of_least_squares():
    runs, X, y = line()
    fit = straight(runs)
    inverse = np.linalg.inv(X.T @ X)
    s2 = np.sum((y - X @ inverse @ X.T @ y) ** 2) / (len(y) - 2)
    found = fit.covariance("laplace")
    np.testing.assert_allclose(found.matrix, s2 * inverse, rtol=1e-6)
    assert found["c", "s"] == pytest.approx(s2 * inverse[0, 1], rel=1e-6)
    fit.draw("laplace", n=40000)
    half = stats.t.ppf(0.95, len(y) - 2) * np.sqrt(s2 * inverse[1, 1])
    np.testing.assert_allclose(fit.interval("s"), fit.params["s"] + half * np.array([-1, 1]), atol=0.02 * half)


def test_sandwich_is_huber_whites():
    sigma = np.linspace(0.05, 1.0, 40)
    _runs, X, y = line(sigma=sigma)
    fit = straight(laws.Runs({"params": np.exp(X[:, 1]), "loss": y}, D=None))
    inverse = np.linalg.inv(X.T @ X)
    hat = X @ inverse @ X.T
    r = y - hat @ y
    meat = (X.T * (r**2 / (1 - np.diag(hat)))) @ X  # HC2, MacKinnon and White 1985
    order = np.argsort(fit.input_order)
    np.testing.assert_allclose(fit.residuals[order], -r, atol=1e-6)
    np.testing.assert_allclose(fit.covariance("sandwich").matrix, inverse @ meat @ inverse, rtol=1e-5)


def test_clustered_sandwich_knows_that_copies_say_nothing_new():
    runs, X, y = line(n=30)
    twice = laws.Runs(
        {"params": np.exp(np.tile(X[:, 1], 2)), "loss": np.tile(y, 2), "run": np.tile(np.arange(30), 2),
         "copy": np.repeat([1.0, 2.0], 30)},
        D=None, run="run", copy="copy",
    )  # fmt: skip
    once = straight(runs).covariance("sandwich")
    both = straight(twice)
    np.testing.assert_allclose(both.covariance("sandwich").matrix, once.matrix, rtol=0.05)
    assert both.covariance("sandwich", cluster=False)["s", "s"] == pytest.approx(once["s", "s"] / 2, rel=0.1)
    assert both.covariance("sandwich").freedom == 29


@pytest.mark.parametrize("heavy", [False, True], ids=["gauss", "t2"])
@pytest.mark.parametrize(
    "loss", [laws.l1(), laws.huber(0.05), laws.huber(0.3), laws.student_t(3)], ids=["l1", "huber", "wide", "student"]
)
def test_standard_errors_of_robust_fits_are_those_of_repeated_data(loss, heavy):
    """Slopes of 150 tables scatter as much as each table's own standard error says."""
    found = []
    for seed in range(150):
        fit = straight(line(60, seed=seed, heavy=heavy)[0], loss)
        found.append([fit.params["s"], *(fit.covariance(m).sd["s"] for m in ("laplace", "sandwich"))])
    slopes, laplace, sandwich = np.array(found).T
    spread = np.subtract(*np.quantile(slopes, [0.84, 0.16])) / 2
    assert np.median(laplace) == pytest.approx(spread, rel=0.2)
    assert np.median(sandwich) == pytest.approx(spread, rel=0.2)


@pytest.mark.slow
def test_posterior_of_a_linear_law_is_students_t():
    pytest.importorskip("numpyro")
    runs, X, y = line(n=12)
    fit = straight(runs)
    inverse = np.linalg.inv(X.T @ X)
    s2 = np.sum(fit.residuals**2) / (len(y) - 2)
    fit.draw("nuts", n=5001)
    assert len(fit.draws) == 5001
    # Flat in the parameters and in log σ: Student's t of n − 2 degrees of freedom (Gelman et al., section 14.2).
    for name, variance in zip(("c", "s"), np.diag(inverse) * s2, strict=True):
        expected = stats.t(len(y) - 2, fit.params[name], variance**0.5).ppf([0.05, 0.25, 0.75, 0.95])
        drawn = np.quantile(fit.draws.samples[:, fit.form.params.index(name)], [0.05, 0.25, 0.75, 0.95])
        np.testing.assert_allclose(drawn, expected, atol=0.12 * variance**0.5)
    assert "r-hat" in fit.draws.notes[0]


@pytest.mark.slow
def test_posterior_and_laplace_agree_on_a_long_ladder():
    pytest.importorskip("numpyro")
    fit = laws.fit(ladder(sd=0.0005), loss=laws.l2(), starts=8)
    ends = {}
    for method in ("laplace", "sandwich", "nuts"):
        fit.draw(method, n=3000)
        ends[method] = np.array([fit.interval(name, C=1e21) for name in ("alpha", "a", "N*", "D*", "L*", "D*/N*")])
    width = np.ptp(ends["laplace"], axis=1)[:, None]
    np.testing.assert_allclose(ends["nuts"] / width, ends["laplace"] / width, atol=0.15)
    np.testing.assert_allclose(ends["sandwich"] / width, ends["laplace"] / width, atol=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [laws.huber(0.2), laws.l1(), laws.quantile(0.5), laws.student_t(4)],
                         ids=["huber", "l1", "median", "student"])  # fmt: skip
def test_posterior_under_robust_likelihoods_is_integrated_correctly(loss):
    """Against the same posterior on a grid of (slope, log scale), the level known."""
    pytest.importorskip("numpyro")
    runs, X, y = line(n=15, heavy=True)
    fit = straight(runs, loss, fixed={"c": 10.0})
    fit.draw("nuts", n=4000, seed=1)
    slope = np.linspace(fit.params["s"] - 1.5, fit.params["s"] + 1.5, 601)
    log_scale = np.linspace(-9.0, 6.0, 301)
    r = (10.0 + slope[:, None] * X[:, 1] - y)[:, None, :]
    s = np.exp(log_scale)[None, :, None]
    if loss.kind == "student_t":
        density = stats.t(loss.nu, scale=s).logpdf(r)
    elif loss.kind == "huber":
        grid = np.linspace(-60, 60, 200001)  # Z(s) by quadrature
        rho = np.where(abs(grid) < 0.2, 0.5 * grid**2, 0.2 * (abs(grid) - 0.1))
        keep = (log_scale > -9) & (log_scale < 1.5)
        log_scale, s = log_scale[keep], s[:, keep]
        Z = np.array([np.trapezoid(np.exp(-rho / v), grid) for v in s[0, :, 0]])
        density = -np.where(abs(r) < 0.2, 0.5 * r**2, 0.2 * (abs(r) - 0.1)) / s - np.log(Z)[None, :, None]
    else:
        half = 1.0 if loss.kind == "l1" else 0.5
        density = -half * abs(r) / s - np.log(2 * s / half)
    log_posterior = density.sum(-1)
    weight = np.exp(log_posterior - log_posterior.max()).sum(1)
    below = np.cumsum(weight) / weight.sum()
    expected = np.interp([0.05, 0.5, 0.95], below, slope)
    drawn = np.quantile(fit.draws.samples[:, 1], [0.05, 0.5, 0.95])
    np.testing.assert_allclose(drawn, expected, atol=0.07 * (expected[2] - expected[0]))


def test_nuts_without_numpyro_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpyro.infer", None)
    with pytest.raises(UserError, match=r"pip install numpyro"):
        straight(line()[0]).draw("nuts")


@pytest.mark.parametrize(
    "how", ["noise", "rows", "laplace", "sandwich", pytest.param("nuts", marks=pytest.mark.slow)]
)
def test_draws_with_a_prior_are_the_closed_form_posterior(how):
    """Bayesian linear regression: precision XᵀX/s² + 1/sd², mean weighed by both."""
    if how == "nuts":
        pytest.importorskip("numpyro")
    runs, X, y = line(n=200, sd=0.3)
    prior = laws.Prior(-0.65, 0.02)  # as sharp as the data, and 2.5 of its own deviations off
    fit = straight(runs, priors={"s": prior})
    free = straight(runs)
    s2 = np.sum(free.residuals**2) / (len(y) - 2)
    precision = X.T @ X / s2 + np.diag([0.0, prior.sd**-2])
    mean = np.linalg.solve(precision, X.T @ y / s2 + np.array([0.0, prior.mean / prior.sd**2]))
    sd = np.linalg.inv(precision)[1, 1] ** 0.5
    assert fit.params["s"] == pytest.approx(mean[1], abs=1e-4)
    if how in ("noise", "rows"):
        fit.bootstrap(3000, kind=how)
    else:
        fit.draw(how, n=3000)
    drawn = fit.draws.samples[:, 1]
    # σ is not known: the prior pulls the line off the runs, whose residuals then look a little larger.
    assert drawn.mean() == pytest.approx(mean[1], abs=0.15 * sd)
    assert drawn.std() == pytest.approx(sd, rel=0.15)


@pytest.mark.parametrize(
    "loss", [laws.l2(), laws.l1(), laws.huber(0.02), laws.student_t(4)], ids=["l2", "l1", "huber", "student"]
)
def test_a_prior_as_sharp_as_the_data_goes_half_way_whatever_the_loss(loss):
    """An objective is not in nats: divided by the variance it would weigh the prior 8 times too much at a small δ."""
    shares = []
    for seed in range(12):
        runs = line(n=200, seed=seed)[0]
        free = straight(runs, loss)
        sd = free.covariance("sandwich").sd["s"]  # by another way than the priors' weight
        pulled = straight(runs, loss, priors={"s": laws.Prior(free.params["s"] + sd, sd)})
        shares.append((pulled.params["s"] - free.params["s"]) / sd)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.07)


def test_a_saved_fit_keeps_its_priors_and_draws(tmp_path):
    runs = ladder()
    fit = laws.fit(runs, starts=8, priors={"alpha": laws.Prior(0.34, 0.01)})
    fit.draw("laplace", n=50)
    back = laws.load(fit.save(tmp_path / "fit.json"))
    np.testing.assert_allclose(back.problem.prior_precision, fit.problem.prior_precision)
    np.testing.assert_allclose(back.covariance("laplace").matrix, fit.covariance("laplace").matrix, rtol=1e-6)
    assert back.draws.kind == "laplace"
    assert back.interval("alpha") == fit.interval("alpha")


def test_chi_squared_takes_sigma_as_it_stands():
    sigma = np.linspace(0.1, 0.5, 400)
    runs = line(n=400, sigma=sigma)[0]
    right = straight(runs)
    assert right.chi2_per_freedom == pytest.approx(1.0, abs=0.2)  # χ²(398)/398 has a deviation of 0.07
    halved = laws.Runs(dict(runs.values) | {"sigma": runs.sigma / 2} | {"params": runs.N}, D=None, sigma="sigma")
    assert straight(halved).chi2_per_freedom == pytest.approx(4 * right.chi2_per_freedom)
    assert straight(halved).params["s"] == pytest.approx(right.params["s"], rel=1e-9)  # weights are relative
    assert straight(line()[0]).chi2_per_freedom is None
    assert "χ² per degree of freedom" in right.summary()


def test_sigma_weighs_rows_by_the_closed_form():
    sigma = np.geomspace(0.05, 2.0, 40)
    runs, X, y = line(sigma=sigma)
    W = sigma**-2
    expected = np.linalg.solve((X.T * W) @ X, X.T @ (W * y))
    fit = straight(runs)
    np.testing.assert_allclose([fit.params["c"], fit.params["s"]], expected, rtol=1e-7)
    scale = np.sum(W * (y - X @ expected) ** 2) / 38
    assert scale == pytest.approx(fit.chi2_per_freedom, rel=1e-9)
    np.testing.assert_allclose(fit.covariance("laplace").matrix, scale * np.linalg.inv((X.T * W) @ X), rtol=1e-5)


def test_draws_without_a_number_open_the_interval():
    draws = np.linspace(0.0, 1.0, 101)
    assert interval(np.where(np.arange(101) == 50, np.nan, draws), 0.9) == pytest.approx((0.05, 0.95), abs=0.021)
    assert interval(np.where(np.arange(101) % 5 == 0, np.nan, draws), 0.9) == (-np.inf, np.inf)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda fit: fit.draw("gibbs"), "'sandwich', 'laplace' or 'nuts'"),
        (lambda fit: fit.draw(n=1), "at least 2"),
        (lambda fit: fit.covariance("hessian"), "'sandwich' or 'laplace'"),
        (lambda fit: fit.covariance(cluster=np.arange(30) % 3), "3 clusters cannot tell 5 parameters"),
        (lambda fit: fit.bootstrap(10, kind="blocks"), "'rows', 'runs', 'noise' or 'wild'"),
        (lambda fit: fit.bootstrap(10, kind="noise", strata="budget"), "strata have no effect"),
        (lambda fit: fit.bootstrap(10, strata="budgets"), "must be 'budget' or 30 labels"),
        (lambda fit: fit.bootstrap(10, strata=np.arange(30)), "30 of 30 strata hold a single row"),
        (lambda fit: fit.bootstrap(10, strata="budget", cluster=np.arange(30) % 6), "more than one stratum"),
        (lambda fit: fit.bootstrap(10, strata=[1, 2]), "strata must hold 30 labels"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(call, said):
    fit = laws.fit(ladder(), loss=laws.l2(), starts=8)
    with pytest.raises(UserError, match=said) as error:
        call(fit)
    assert "\n" not in str(error.value)


def test_a_parameter_that_the_data_leave_open_is_not_linearised():
    runs = ladder()
    flat = laws.Runs({"params": runs.N, "tokens": runs.D, "loss": 400 / runs.N**0.3 + 300 / runs.D**0.25 - 0.8})
    fit = laws.fit(flat, loss=laws.l2(), starts=16)
    assert fit.diagnostics.at_bounds == ("E",)
    with pytest.raises(UserError, match="do not determine E,"):
        fit.draw("laplace")


@pytest.mark.parametrize("level", [0.0, 1e-320, 1.0, float("nan")])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(UserError, match="level must lie between 0 and 1"):
        check_level(level)
