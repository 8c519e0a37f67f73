"""Nominal 90 % intervals of derived quantities cover 86 to 96 % on simulated ladders whose law is known.

The shares of 200 simulations scatter by 2 points, those of 100 by 3.
"""

from itertools import islice

import numpy as np
import pytest

from scaling import laws

TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
SIMULATIONS = 200
NOISE = 0.005
pytestmark = pytest.mark.slow


def design(budgets, sizes):
    """C, N and D of isoFLOP curves from 1e18 to 1e20 FLOPs, each from a third to three times its optimum."""
    C = np.repeat(np.geomspace(1e18, 1e20, budgets), sizes)
    best, _ = optimum(C)
    N = best * np.tile(np.geomspace(1 / 3, 3, sizes), budgets)
    return C, N, C / 6 / N


def optimum(C):
    """N* and L* by Hoffmann et al. 2022, eq. 4."""
    E, A, B, alpha, beta = TRUTH.values()
    N = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta))
    return N, E + A / N**alpha + B / (C / 6 / N) ** beta


def loss_of(N, D):
    return TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"]


def coverage(tables, loss, draw, C):
    """Share of the tables whose 90 % interval holds the truth: of a, N* and L* at C."""
    N, L = optimum(C)
    truth = {"a": TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"]), "N*": N, "L*": L}
    inside = {name: [] for name in truth}
    for runs in tables:
        fit = laws.fit(runs, loss=loss, starts=4)
        draw(fit)
        for name, value in truth.items():
            low, high = fit.interval(name, 0.9, C=C)
            inside[name].append(low <= value <= high)
    return {name: float(np.mean(hits)) for name, hits in inside.items()}


def tables(noise, budgets=5, sizes=7):
    C, N, D = design(budgets, sizes)
    for seed in range(SIMULATIONS):
        rng = np.random.default_rng([seed, 7])
        # t₂ has no variance: 0.6 makes its quartiles about those of the Gauss.
        drawn = rng.standard_normal(len(C)) if noise == "gauss" else 0.6 * rng.standard_t(2, len(C))
        yield laws.Runs({"params": N, "tokens": D, "loss": loss_of(N, D) * np.exp(NOISE * drawn)})


def laplace(fit):
    fit.draw("laplace", n=600)


def noise(fit):
    fit.bootstrap(192, kind="noise")


def rows(fit):
    fit.bootstrap(192, cluster=False)


def sandwich(fit):
    fit.draw("sandwich", n=600)


def runs(fit):
    fit.bootstrap(192)


@pytest.mark.parametrize(
    ("kind", "loss", "draw"),
    [
        ("gauss", laws.l2(), laplace),
        ("gauss", laws.l2(), noise),
        ("gauss", laws.l2(), rows),
        ("t2", laws.huber(5e-3), laplace),
        ("t2", laws.huber(5e-3), sandwich),
        ("t2", laws.student_t(3), laplace),
    ],
    ids=["gauss-laplace", "gauss-noise", "gauss-rows", "t2-huber-laplace", "t2-huber-sandwich", "t2-student-laplace"],
)
def test_intervals_of_derived_quantities_cover(kind, loss, draw):
    found = coverage(tables(kind), loss, draw, C=1e21)
    assert all(0.86 <= share <= 0.96 for share in found.values()), found


@pytest.mark.parametrize("noise", ["gauss", "t2"])
def test_profile_intervals_of_derived_quantities_cover(noise):
    N, L = optimum(1e21)
    truth = {"a": TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"]), "N*": N, "L*": L}
    inside = {name: [] for name in truth}
    for runs in islice(tables(noise), SIMULATIONS // 2):  # a profile is some hundred refits
        fit = laws.fit(runs, loss=laws.l2() if noise == "gauss" else laws.huber(5e-3), starts=4)
        for name, value in truth.items():
            low, high = fit.profile(name, points=11, C=1e21).interval
            inside[name].append(low <= value <= high)
    found = {name: float(np.mean(hits)) for name, hits in inside.items()}
    assert all(0.86 <= share <= 0.96 for share in found.values()), found


def curves():
    """Three checkpoints of each of 40 training runs, whose losses are off together."""
    C, N, D = design(5, 8)
    tokens = (D[:, None] * [0.25, 0.5, 1.0]).ravel()
    many = {"params": np.repeat(N, 3), "tokens": tokens, "run": np.repeat(np.arange(len(C)), 3)}
    for seed in range(SIMULATIONS):
        rng = np.random.default_rng([seed, 11])
        off = np.repeat(rng.standard_normal(len(C)), 3) + 0.2 * rng.standard_normal(3 * len(C))
        yield laws.Runs(many | {"loss": loss_of(many["params"], many["tokens"]) * np.exp(NOISE * off)}, run="run")


@pytest.mark.parametrize("draw", [runs, sandwich], ids=["runs", "sandwich"])
def test_intervals_by_training_run_cover_where_checkpoints_are_off_together(draw):
    found = coverage(curves(), laws.l2(), draw, C=1e21)
    assert all(0.86 <= share <= 0.96 for share in found.values()), found


def test_intervals_that_take_checkpoints_for_independent_do_not_cover():
    found = coverage(islice(curves(), SIMULATIONS // 2), laws.l2(), laplace, C=1e21)
    assert found["a"] < 0.8, found


def branches(share, seeds, budgets=5, sizes=5):
    """Ladders on one row of sizes, of which neighbouring budgets have all but one in common; runs of one size and
    seed have `share` of the noise's variance in common."""
    C, ratio = np.geomspace(1e18, 16e18, budgets), 16 ** (0.5 / (budgets - 1))
    middle, _ = optimum(C[budgets // 2])
    size = np.add.outer(np.arange(budgets), np.arange(sizes)) - budgets // 2 - sizes // 2
    size, C = np.tile(size.ravel(), seeds), np.tile(np.repeat(C, sizes), seeds)
    trunk = size + 1000 * np.repeat(np.arange(seeds), budgets * sizes)
    N = middle * ratio**size
    for seed in range(SIMULATIONS):
        rng = np.random.default_rng([seed, 3])
        common = rng.standard_normal(seeds * 2000)[trunk + 1000]
        noise = np.sqrt(share) * common + np.sqrt(1 - share) * rng.standard_normal(len(C))
        yield laws.Runs({"params": N, "tokens": C / 6 / N, "loss": loss_of(N, C / 6 / N) * np.exp(NOISE * noise)})


@pytest.mark.parametrize("seeds", [1, 2])
def test_intervals_hold_where_branches_of_a_trunk_share_two_fifths_of_their_noise(seeds):
    """They are taken as independent: what is shared by the runs of a size blurs the comparison of sizes and sharpens
    that of tokens. 84 to 91 % are covered; where nine tenths are shared, 77 to 97 %."""
    found = coverage(islice(branches(0.4, seeds), SIMULATIONS // 2), laws.l2(), noise, C=8 * 16e18)
    assert all(0.8 <= share <= 0.97 for share in found.values()), found
