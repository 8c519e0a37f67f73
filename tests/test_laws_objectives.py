"""Objectives against linear programming, SciPy's minimisers and the published mistake."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from scaling import laws
from scaling.laws.solve.objectives import student_scale
from scaling.laws.solve.optimality import least_subgradient


def noisy_power_law(seed, points=40, degrees=3.0):
    """L = 30·N^−0.2 with t-distributed noise on log L: linear in (log A, α)."""
    rng = np.random.default_rng(seed)
    n = np.geomspace(1e7, 1e10, points)
    return laws.Runs({"N": n, "loss": 30 * n**-0.2 * np.exp(0.05 * rng.standard_t(degrees, points))}, N="N", D=None)


def linear_program(runs, q):
    """Quantile regression of log L on log N: minimise Σ q·u + (1 − q)·v, u − v = y − Xb, u, v ≥ 0."""
    points = len(runs)
    design = np.stack([np.ones(points), -np.log(runs.N)], 1)
    cost = np.concatenate([np.zeros(2), np.full(points, q), np.full(points, 1 - q)])
    equality = np.hstack([design, np.eye(points), -np.eye(points)])
    bounds = [(None, None)] * 2 + [(0, None)] * (2 * points)
    return optimize.linprog(cost, A_eq=equality, b_eq=np.log(runs.loss), bounds=bounds, method="highs-ds")


@pytest.mark.parametrize("q", [0.05, 0.3, 0.5, 0.8])
def test_quantile_fits_of_a_log_linear_law_are_those_of_linear_programming(q):
    runs = noisy_power_law(seed=1)
    reference = linear_program(runs, q)
    fit = laws.fit(runs, "power_law_N_no_offset", loss=laws.quantile(q), starts=8)
    assert fit.objective == pytest.approx(reference.fun, rel=1e-10)
    assert np.log(fit.params["A"]) == pytest.approx(reference.x[0], rel=1e-8)
    assert fit.params["alpha"] == pytest.approx(reference.x[1], rel=1e-8)
    assert fit.diagnostics.certified
    # A share q of the runs lies below the law, up to those that it passes through.
    assert np.mean(fit.residuals > 1e-9) <= q <= np.mean(fit.residuals > -1e-9)


def test_l1_is_the_median_of_linear_programming_counted_twice():
    runs = noisy_power_law(seed=2)
    fit = laws.fit(runs, "power_law_N_no_offset", loss=laws.l1(), starts=8)
    assert fit.objective == pytest.approx(2 * linear_program(runs, 0.5).fun, rel=1e-10)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.floats(0.02, 0.98))
def test_certificates_hold_at_linear_programmings_vertex_and_nowhere_else(seed, q):
    runs = noisy_power_law(seed, points=30)
    vertex = linear_program(runs, q).x[:2]
    problem = laws.fit(runs, "power_law_N_no_offset", loss=laws.quantile(q), starts=1).problem
    theta = problem.theta(np.array([np.exp(vertex[0]), vertex[1]]))
    assert least_subgradient(problem, theta) < 1e-12
    for away in ([1e-3, 0], [0, 1e-3]):
        assert least_subgradient(problem, theta + away) > 1e-3


def test_passing_through_points_is_no_certificate():
    runs = noisy_power_law(seed=6)
    problem = laws.fit(runs, "power_law_N_no_offset", loss=laws.l1(), starts=1).problem
    log_n, log_loss = np.log(runs.N), np.log(runs.loss)
    alpha = -(log_loss[1] - log_loss[0]) / (log_n[1] - log_n[0])  # through the first two points, far from the rest
    theta = problem.theta(np.array([np.exp(log_loss[0] + alpha * log_n[0]), alpha]))
    assert np.sort(np.abs(problem.residuals(theta)))[1] < 1e-12
    assert least_subgradient(problem, theta) > 0.1


def test_student_t_agrees_with_scipy_over_law_and_scale():
    runs = noisy_power_law(seed=3, degrees=2.0)
    nu = 3.0

    def negative_log_likelihood(t):
        r = t[0] - t[1] * np.log(runs.N) - np.log(runs.loss)
        return np.sum(0.5 * (nu + 1) * np.log1p((r / np.exp(t[2])) ** 2 / nu) + t[2])

    starts = [[np.log(30), 0.2, np.log(0.05)], [3.0, 0.19, -2.0]]
    options = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 5000, "maxfev": 5000}
    found = [optimize.minimize(negative_log_likelihood, s, method="Nelder-Mead", options=options) for s in starts]
    best = min(found, key=lambda result: result.fun)
    fit = laws.fit(runs, "power_law_N_no_offset", loss=laws.student_t(nu), starts=16)
    assert fit.objective == pytest.approx(best.fun, abs=1e-9)
    assert fit.params["alpha"] == pytest.approx(best.x[1], rel=1e-6)
    assert student_scale(fit.residuals, np.ones(len(runs)), nu, np) == pytest.approx(np.exp(best.x[2]), rel=1e-5)
    assert fit.diagnostics.certified


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.3, 30.0), st.floats(0.5, 5.0), st.booleans())
def test_students_scale_is_the_root_that_bisection_finds(seed, nu, degrees, counted):
    rng = np.random.default_rng(seed)
    r = 10 ** rng.uniform(-6, 3) * rng.standard_t(degrees, 25)
    w = rng.multinomial(25, np.full(25, 0.04)).astype(float) if counted else np.ones(25)

    def slope(u):
        return np.sum(w * ((nu + 1) * r**2 / (nu * np.exp(u) + r**2) - 1))

    span = np.log(np.median(r**2)) + np.array([-60.0, 60.0])
    reference = np.exp(0.5 * optimize.brentq(slope, *span, xtol=1e-13))
    assert student_scale(r, w, nu, np) == pytest.approx(reference, rel=1e-8)


def test_huber_with_a_fitted_scale_collapses_to_l1_and_laws_huber_does_not():
    """The published mistake: minimising Σ huber_δ(r/s) + log s over s as well as over the law.

    Beyond δ·s Huber's ρ is linear, so with δ = 1e-3 the scale settles where next to all points are beyond, and the
    law is that of L1 whatever δ says. Besiroglu et al. 2024 (2404.10102) printed the numbers of such a fit.
    """
    runs = noisy_power_law(seed=4)
    delta, x, y = 1e-3, np.log(runs.N) - np.log(runs.N).mean(), np.log(runs.loss)

    def free_scale(t):
        size = np.abs(t[0] - t[1] * x - y) / np.exp(t[2])
        rho = np.where(size < delta, 0.5 * size**2, delta * (size - 0.5 * delta))
        return np.sum(rho + t[2])

    options = {"xatol": 1e-11, "fatol": 1e-13, "maxiter": 9000, "maxfev": 9000}
    start = [y.mean(), 0.2, np.log(0.05)]
    for _ in range(4):  # Nelder–Mead stops early at a kink; from where it stopped it goes on
        start = optimize.minimize(free_scale, start, method="Nelder-Mead", options=options).x
    l1 = laws.fit(runs, "power_law_N_no_offset", loss=laws.l1(), starts=8)
    beyond = np.abs(start[0] - start[1] * x - y) > delta * np.exp(start[2])
    assert start[1] == pytest.approx(l1.params["alpha"], abs=1e-5)
    assert beyond.sum() >= len(runs) - 2
    # Without a scale δ is in units of the residual: a wide one is least squares.
    wide = laws.fit(runs, "power_law_N_no_offset", loss=laws.huber(10.0), starts=8)
    squares = laws.fit(runs, "power_law_N_no_offset", loss=laws.l2(), starts=8)
    assert wide.params["alpha"] == pytest.approx(squares.params["alpha"], rel=1e-9)
    assert abs(wide.params["alpha"] - l1.params["alpha"]) > 1e-4


@pytest.mark.parametrize("loss", [laws.huber(0.1), laws.l1(), laws.l2(), laws.quantile(0.2), laws.student_t(3.0)])
def test_many_rows_of_residuals_give_what_each_gives_alone(loss):
    rng = np.random.default_rng(0)
    r, w = rng.standard_normal((5, 20)), rng.integers(0, 3, (5, 20)).astype(float)
    alone = [loss(row, own) for row, own in zip(r, w, strict=True)]
    np.testing.assert_allclose(loss.sums(r, w), alone, rtol=1e-13)
