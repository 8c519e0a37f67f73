"""What a longer context is worth in parameters, by a law of N, D and T."""

import numpy as np
import pytest

from scaling import laws
from scaling.errors import UserError

TRUTH = {"E": 1.6, "A": 380.0, "B": 900.0, "K": 3.0, "alpha": 0.33, "beta": 0.31, "gamma": 0.5}


def loss(N, D, T):
    p = TRUTH
    return p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"] + p["K"] / T ** p["gamma"]


def fitted(noise=0.0, contexts=(256.0, 512.0, 1024.0, 2048.0, 4096.0)):
    axes = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 4), contexts)
    N, D, T = (axis.ravel() for axis in axes)
    drawn = np.exp(noise * np.random.default_rng(0).standard_normal(len(N)))
    runs = laws.Runs({"params": N, "tokens": D, "context": T, "loss": loss(N, D, T) * drawn}, T="context")
    return laws.fit(runs, "chinchilla_context", starts=8)


def test_a_context_is_worth_the_parameters_that_bring_the_same_loss():
    fit = fitted()
    found = laws.context_worth(fit, N=1e8, D=1e10, T=1024)
    assert found.longer == 2048 and found.interval is None
    assert found.loss == pytest.approx(loss(1e8, 1e10, 2048), rel=1e-6)
    short = TRUTH["A"] / 1e8 ** TRUTH["alpha"] - TRUTH["K"] * (1024**-0.5 - 2048**-0.5)  # what is left for A/N^α
    assert found.times == pytest.approx((TRUTH["A"] / short) ** (1 / TRUTH["alpha"]) / 1e8, rel=1e-4)
    assert laws.context_worth(fit, N=1e8, D=1e10, T=1024, times=8).times > 2 * found.times - 1
    assert laws.context_worth(fit, N=1e13, D=1e10, T=16).times == np.inf  # no size makes up for it


def test_its_interval_holds_the_truth():
    fit = fitted(0.002)
    fit.bootstrap(200)
    found = laws.context_worth(fit, N=1e8, D=1e10, T=1024)
    truth = laws.context_worth(fitted(), N=1e8, D=1e10, T=1024).times
    low, high = found.interval
    assert low < truth < high and high / low < 1.2 and not found.notes


def test_runs_of_two_contexts_leave_open_what_lies_between_and_beyond_them():
    """Any gamma goes through two points: every share of their difference up to a quarter may lie between 1024 and
    2048. From one to the other it is known."""
    fit = fitted(0.002, (256.0, 4096.0))
    fit.bootstrap(100)
    for T, times in ((1024, 2), (8192, 2)):
        found, truth = (laws.context_worth(own, N=1e8, D=1e10, T=T, times=times) for own in (fit, fitted()))
        assert found.interval[0] < 1.01 and found.interval[1] > truth.times and found.seen == (256, 4096)
        assert found.notes == fit.draws.notes != () and "gamma, which the runs do not identify" in found.notes[0]
    whole, truth = (laws.context_worth(own, N=1e8, D=1e10, T=256, times=16, level=0.98) for own in (fit, fitted()))
    assert whole.interval[0] < truth.times < whole.interval[1] < 1.1 * whole.interval[0]


def test_what_it_asks_for_is_said():
    fit = fitted()
    with pytest.raises(UserError, match="got T=-5"):
        laws.context_worth(fit, N=1e8, D=1e10, T=-5)
    with pytest.raises(UserError, match="level must lie between 0 and 1"):
        laws.context_worth(fit, N=1e8, D=1e10, T=1024, level=0)
    with pytest.raises(UserError, match="chinchilla_context asks for positive N, D, T; got N, T"):
        laws.context_worth(fit, N=1e8, T=1024)
    with pytest.raises(UserError, match="times=1 is how many times longer"):
        laws.context_worth(fit, N=1e8, D=1e10, T=1024, times=1)
    runs = laws.Runs(
        {"T": 2.0 ** np.arange(8, 16), "loss": 1.5 + (30 / 2.0 ** np.arange(8, 16)) ** 0.4}, T="T", N=None, D=None
    )
    with pytest.raises(UserError, match=r"context reads T: .* takes a law of N and T, such as chinchilla_context"):
        laws.context_worth(laws.fit(runs, "context"), T=1024)


@pytest.mark.parametrize("D", [None, 3e6, 3e8])
def test_the_best_context_is_where_the_fitted_loss_is_least(D):
    """Against a search on a grid; of a law that reads D it grows with the data."""
    T = 2.0 ** np.arange(4, 14)
    if D is None:
        table = {"T": T, "loss": 1.2 + 6 / T**0.8 + 0.02 * T**0.4}
        fit = laws.fit(laws.Runs(table, T="T", N=None, D=None), "context_optimum", starts=16)
    else:
        N, tokens, T = (x.ravel() for x in np.meshgrid([1e4, 1e5, 1e6], [1e6, 1e7, 1e8, 1e9], T))
        loss = 0.9 + 30 / N**0.4 + 3 / T**0.6 + 60 * T**0.35 / tokens**0.45
        runs = laws.Runs({"N": N, "D": tokens, "T": T, "loss": loss}, N="N", D="D", T="T", trusted=True)
        fit = laws.fit(runs, "chinchilla_context_optimum", starts=16)
    grid = np.geomspace(2, 2e5, 20001)
    sizes = {} if D is None else {"N": np.full_like(grid, 1e5), "D": np.full_like(grid, D)}
    found, least = laws.best_context(fit, D=D), grid[fit.predict(T=grid, **sizes).loss.argmin()]
    assert pytest.approx(least, rel=1e-3) == found.T
    truth = (0.8 * 6 / (0.4 * 0.02)) ** (1 / 1.2) if D is None else (0.6 * 3 * D**0.45 / (0.35 * 60)) ** (1 / 0.95)
    assert pytest.approx(truth, rel=0.02) == found.T and found.interval is None


def test_a_best_context_is_the_same_where_the_terms_have_changed_places():
    T = 2.0 ** np.arange(4, 14)
    runs = laws.Runs({"T": T, "loss": 1.2 + 6 / T**0.8 + 0.02 * T**0.4}, T="T", N=None, D=None)
    fit = laws.fit(runs, "context_optimum", starts=16, fixed={"gamma": -0.4, "delta": -0.8})
    assert fit.params["B"] == pytest.approx(6, rel=1e-4)
    assert pytest.approx((0.8 * 6 / (0.4 * 0.02)) ** (1 / 1.2), rel=1e-3) == laws.best_context(fit).T
    for fixed, best in (({"gamma": -0.2, "delta": 0.4}, 0.0), ({"gamma": 0.8, "delta": -0.1}, np.inf)):
        assert best == laws.best_context(laws.fit(runs, "context_optimum", starts=16, fixed=fixed)).T


def test_a_best_context_has_an_interval_and_says_what_it_asks_for():
    T = np.repeat(2.0 ** np.arange(4, 14), 3)
    loss = (1.2 + 6 / T**0.8 + 0.02 * T**0.4) * np.exp(0.002 * np.random.default_rng(3).standard_normal(len(T)))
    fit = laws.fit(laws.Runs({"T": T, "loss": loss}, T="T", N=None, D=None, duplicates="keep"), "context_optimum")
    fit.bootstrap(100)
    found = laws.best_context(fit)
    low, high = found.interval
    assert low < (0.8 * 6 / (0.4 * 0.02)) ** (1 / 1.2) < high < 3 * low and found.seen == (16.0, 8192.0)
    with pytest.raises(UserError, match="context_optimum asks for no column here; got D"):
        laws.best_context(fit, D=1e6)
    with pytest.raises(UserError, match="chinchilla_context has no best context: take context_optimum"):
        laws.best_context(fitted())
