"""Mixture laws: a known mixture law is recovered, a published collection's held-out mixtures are forecast."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError

DATA = Path(__file__).parents[1] / "../shared/published/domain_mixture.csv"
RATES = np.array([[-3.0, 0.2, 0.1], [0.3, -2.0, 0.0]])  # of two losses, by three domains
LEVELS = np.array([1.5, 2.0])
DOMAINS, LOSSES = ["web", "code", "books"], ["loss_web", "loss_code"]


def table(rng, runs=40, noise=0.001):
    r = rng.dirichlet([1.0, 1.0, 1.0], runs)
    loss = (LEVELS + np.exp(r @ RATES.T)) * np.exp(noise * rng.standard_normal((runs, 2)))
    return pd.DataFrame(np.concatenate([r, loss], 1), columns=[*DOMAINS, *LOSSES])


def test_without_noise_the_law_comes_out():
    found = laws.mixture(table(np.random.default_rng(0), noise=0.0), DOMAINS, LOSSES, n=50)
    frame = found.to_frame()
    np.testing.assert_allclose(frame["c"], LEVELS, rtol=1e-3)
    np.testing.assert_allclose(frame[DOMAINS], RATES, atol=5e-3)
    told = found.predict([0.2, 0.3, 0.5])["loss"]
    np.testing.assert_allclose(told, LEVELS + np.exp(RATES @ [0.2, 0.3, 0.5]), rtol=1e-4)


def test_the_best_mixture_is_that_of_a_fine_grid():
    found = laws.mixture(table(np.random.default_rng(0), noise=0.0), DOMAINS, LOSSES, n=50)
    grid = np.array([[i, j, 300 - i - j] for i in range(301) for j in range(301 - i)]) / 300
    for weights in ({"loss_web": 1.0, "loss_code": 1.0}, {"loss_web": 1.0, "loss_code": 3.0}, {"loss_code": 1.0}):
        total = sum(w * np.exp(grid @ RATES[LOSSES.index(name)]) for name, w in weights.items())
        np.testing.assert_allclose(found.best(weights)["share"], grid[np.argmin(total)], atol=0.01)


def test_intervals_of_the_best_mixture_hold_it_as_often_as_they_say():
    truth = laws.mixture(table(np.random.default_rng(0), noise=0.0), DOMAINS, LOSSES, n=50).best()["share"]
    held = []
    for seed in range(30):
        best = laws.mixture(table(np.random.default_rng(seed), noise=0.01), DOMAINS, LOSSES, n=200).best()
        held.append((best["low"] <= truth) & (truth <= best["high"]))
    assert 0.8 <= np.mean(np.stack(held)[:, :2]) <= 1.0  # the third, the rest, is at its bound


def test_what_the_runs_leave_open_is_named():
    rng = np.random.default_rng(0)
    known = laws.mixture(table(rng, noise=0.001), DOMAINS, LOSSES, n=200)
    assert known.unidentified() == {}
    near = table(rng, noise=0.0)
    near[DOMAINS] = 1 / 3 + 0.03 * (near[DOMAINS] - 1 / 3)  # all mixtures much alike
    r = near[DOMAINS].to_numpy()
    near[LOSSES] = (LEVELS + np.exp(r @ RATES.T)) * np.exp(0.01 * rng.standard_normal((40, 2)))
    assert "c" in laws.mixture(near, DOMAINS, LOSSES, n=200).unidentified()["loss_web"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"web": 0.9}, "sum to 1; row 0"), ({"web": -0.5}, "0 or more"), ({"loss_web": -1.0}, "loss")],
)
def test_a_table_of_no_mixtures_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        laws.mixture(table(np.random.default_rng(0)).assign(**change), DOMAINS, LOSSES)


def test_the_words_of_a_mixture_that_is_none():
    found = laws.mixture(table(np.random.default_rng(0)), DOMAINS, LOSSES, n=50)
    with pytest.raises(UserError, match="of 3 domains; got 2"):
        found.predict([0.5, 0.5])
    with pytest.raises(UserError, match="no loss loss_books"):
        found.best({"loss_books": 1.0})


@pytest.mark.skipif(not DATA.exists(), reason="../shared/published is not here")
def test_held_out_mixtures_of_a_published_collection_are_forecast():
    df = pd.read_csv(DATA)
    shares, losses = ([f"{what}_domain_{i}" for i in range(1, 6)] for what in ("proportion", "loss"))
    for _, group in df.groupby("group"):
        seen, held = group[group.split == "train"], group[group.split == "test"]
        found = laws.mixture(seen, shares, losses, n=100)
        told = np.stack([found.predict(row)["loss"] for row in held[shares].to_numpy()])
        off = np.abs(told / held[losses].to_numpy() - 1)
        naive = np.abs(seen[losses].to_numpy().mean(0) / held[losses].to_numpy() - 1)
        assert off.mean() < 0.014 and off.mean() < 0.3 * naive.mean()
