"""Profiles of the objective: exact for a linear law, open where the data say nothing, with runs that would help."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scaling import laws

PUBLISHED = Path(__file__).parents[1] / "../shared/published"


def test_the_interval_of_a_linear_law_is_students():
    rng = np.random.default_rng(0)
    C = np.geomspace(1e15, 1e20, 12)
    loss = 40 * C**-0.06 * np.exp(0.01 * rng.standard_normal(12))
    runs = laws.Runs({"flops": C, "loss": loss}, N=None, D=None, C="flops")
    fit = laws.fit(runs, "power_law_C_no_offset", loss=laws.l2())
    line = stats.linregress(np.log(C), np.log(loss))
    half = stats.t.ppf(0.95, 10) * line.stderr
    profile = fit.profile("alpha", level=0.9)
    np.testing.assert_allclose(profile.interval, (-line.slope - half, -line.slope + half), rtol=1e-5)
    assert profile.least == pytest.approx(fit.objective, rel=1e-9)
    assert fit.identified()["alpha"].identified


def test_an_offset_beyond_the_runs_reach_is_not_identified_and_larger_runs_would_tell():
    rng = np.random.default_rng(1)
    C = np.geomspace(1e15, 1e16, 10)  # a decade, of a loss that is far from its floor
    loss = (0.5 + 40 * C**-0.06) * np.exp(0.01 * rng.standard_normal(10))
    fit = laws.fit(laws.Runs({"flops": C, "loss": loss}, N=None, D=None, C="flops"), "power_law_C", loss=laws.l2())
    found = fit.identified()["E"]
    assert not found.identified and "does not close" in found.why
    assert "larger C" in found.remedy
    assert f"note: {found}" in fit.summary()


@pytest.mark.skipif(not PUBLISHED.exists(), reason="../shared/published is not here")
def test_muennighoffs_decay_of_repeated_tokens_is_not_identified():
    df = pd.read_csv(PUBLISHED / "datablations.csv").query("used_in_fit == 1")
    base = {"A": math.exp(6.255414), "B": math.exp(7.3049974), "E": math.exp(0.6254804)}
    fit = laws.fit(
        laws.Runs(df, U="unique_tokens"), "data_constrained", fixed={**base, "alpha": 0.3526596, "beta": 0.3526596}
    )
    found = fit.identified()["R_D"]
    assert not found.identified
    low, high = found.interval
    assert low < 15.387756 and high > 1e3  # what was published lies inside, and so does no decay at all


@pytest.mark.skipif(not PUBLISHED.exists(), reason="../shared/published is not here")
def test_the_chinchilla_runs_identify_their_law():
    df = pd.read_csv(PUBLISHED / "epoch_chinchilla.csv").query("used_in_fit == 1")
    fit = laws.fit(laws.Runs(df))
    found = fit.identified()
    assert all(found[name].identified for name in ("E", "A", "B", "alpha", "beta"))
    assert found["beta"].interval[0] < fit.params["beta"] < found["beta"].interval[1]
