"""Clark et al.'s routed models (2202.01169): their own data give their own curves."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws

DATA = Path(__file__).parents[1] / "../shared/published/clark_routed.csv"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="../shared/published is not here")

# a, b, c, d, Es, Em as printed, and the RMSE of log10 L that a fit reaches
ROUTERS = {
    "S-Base": ((-0.082, -0.108, 0.009, 1.104, 1.847, 314.478), 0.00324),
    "RL-R": ((-0.083, -0.126, 0.012, 1.111, 1.880, 469.982), 0.00324),
    "Hash": ((-0.087, -0.136, 0.012, 1.157, 4.175, 477.741), 0.00299),
}


@pytest.fixture(scope="module")
def table():
    df = pd.read_csv(DATA)
    return df[(df.routing_frequency == 0.5) & (df.k == 1) & (df.seed == 42)]


def runs_of(table, router):
    rows = table[table.router.isin([router, "Dense"])]
    return laws.Runs(rows, N="params", D=None, E="experts")


@pytest.fixture(scope="module")
def fits(table):
    return {router: laws.fit(runs_of(table, router), "clark", loss=laws.l2()) for router in ROUTERS}


def rmse(fit):
    return np.sqrt(np.mean((np.log10(fit.fitted()) - np.log10(fit.runs.loss)) ** 2))


@pytest.mark.parametrize("router", ROUTERS)
def test_the_fit_is_as_close_as_the_published_one(fits, router):
    fit = fits[router]
    assert (fit.runs.column("E") == 1).sum() == 5
    assert rmse(fit) <= ROUTERS[router][1] + 5e-6  # listed to five decimals
    assert fit.diagnostics.starts_at_optimum > 0.5
    assert fit.diagnostics.gradient_norm < 1e-5


@pytest.mark.parametrize("router", ROUTERS)
def test_the_curves_are_the_published_ones(fits, router):
    fit = fits[router]
    N, E = fit.runs.column("N"), fit.runs.column("E")
    published = fit.form.loss(np.array(ROUTERS[router][0]), [N, E])
    # a, b, c and d were printed to three decimals: between the printed curve and the one it stands for may lie this.
    n, e = np.log10(N), np.log10(E + 1)
    rounding = 0.0005 * (n + e + n * e + 1)
    assert (np.abs(np.log10(fit.fitted() / published)) < rounding).all()
    assert rmse(fit) < np.sqrt(np.mean(np.log10(published / fit.runs.loss) ** 2))


@pytest.mark.parametrize("router", ROUTERS)
def test_saturation_is_needed(table, fits, router):
    """The plain bilinear law is worse, and it lacks the two parameters."""
    plain = laws.fit(runs_of(table, router), "clark_bilinear", loss=laws.l2())
    assert rmse(plain) > 1.05 * rmse(fits[router])


def test_dense_models_follow_the_published_power_law():
    """The six sizes at k = 1, seeds averaged: α_N printed as .078, N_c as 3.57e13."""
    df = pd.read_csv(DATA)
    dense = df[(df.router == "Dense") & (df.k == 1)].groupby("params", as_index=False).loss.mean()
    fit = laws.fit(laws.Runs(dense, D=None), "power_law_N_no_offset", loss=laws.l2())
    alpha = fit.params["alpha"]
    assert len(dense) == 6
    assert alpha == pytest.approx(0.0785, abs=2e-4)
    assert fit.params["A"] ** (1 / alpha) == pytest.approx(3.57e13, rel=2e-3)


def test_experts_are_worth_less_to_larger_models(fits):
    """The effective parameter count: many times N for a small model, hardly more than N for the largest."""
    fit = fits["S-Base"]
    gain = laws.dense_equivalent(fit.params, [2.5e7, 1.3e9], [512, 512]) / np.array([2.5e7, 1.3e9])
    assert gain[0] > 2 * gain[1] > 2
