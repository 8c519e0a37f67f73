"""Fits of data that others published, and laws as they printed them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws

PUBLISHED = Path(__file__).parents[1] / "../shared/published"
LAWS = PUBLISHED.parent / "published_laws.csv"
needs_data = pytest.mark.skipif(not PUBLISHED.exists(), reason="../shared/published is not here")
needs_laws = pytest.mark.skipif(not LAWS.exists(), reason="../shared/published_laws.csv is not here")

MUENNIGHOFF = {
    "E": np.exp(0.6254804),
    "A": np.exp(6.255414),
    "alpha": 0.3526596,
    "B": np.exp(7.3049974),
    "beta": 0.3526596,
}


def value(form: str, columns: dict[str, float], **params: float) -> float:
    law = laws.FORMS[form]
    return float(law.loss(np.array([params[name] for name in law.params]), [columns[c] for c in law.columns]))


@pytest.fixture(scope="module")
def repeated():
    df = pd.read_csv(PUBLISHED / "datablations.csv")
    return laws.Runs(df[df.used_in_fit == 1], U="unique_tokens")


@needs_data
def test_muennighoffs_objective_is_the_published_one_at_their_parameters(repeated):
    assert len(repeated) == 182
    fit = laws.fit(repeated, "data_constrained", fixed={**MUENNIGHOFF, "R_D": 15.387756}, starts=16)
    columns = [repeated.column(letter) for letter in fit.form.columns]
    theirs = np.array([{**MUENNIGHOFF, "R_D": 15.387756, "R_N": 5.309743}[name] for name in fit.form.params])
    residuals = np.log(fit.form.loss(theirs, columns) / repeated.loss)
    assert laws.huber(1e-3)(residuals) == pytest.approx(0.015825935, rel=1e-7)
    # They are where a search over R_N* alone ends as well.
    assert fit.params["R_N"] == pytest.approx(5.309743, rel=2e-3)


@needs_data
def test_muennighoffs_data_leave_the_decay_of_repeated_tokens_open(repeated):
    best = laws.fit(repeated, "data_constrained", fixed=MUENNIGHOFF)
    assert best.objective <= 0.0158047 * (1 + 1e-6)
    assert 80 < best.params["R_D"] < 110  # SOURCES.md: near 95 and 1.7
    assert 1.5 < best.params["R_N"] < 2.0
    at = {
        worth: laws.fit(repeated, "data_constrained", fixed={**MUENNIGHOFF, "R_D": worth}).objective
        for worth in (2.0, 15.39, 95.0)
    }
    assert at[95.0] <= at[15.39] < 1.002 * at[95.0]
    assert at[2.0] > 1.05 * at[95.0]  # the data do say that some repeats are worth something


@pytest.fixture(scope="module")
def gadre():
    """Loss law of five small runs, error law of these and one of 1.4B, and the two runs to forecast."""
    df = pd.read_csv(PUBLISHED / "gadre_redpajama.csv")
    small = (df.model.str.startswith("d=") & (df.multiplier == 20)) | (
        (df.model == "d=96_l=8_h=4") & (df.multiplier == 320)
    )
    more = small | ((df.model == "open_lm_1b") & (df.multiplier == 20))
    raw = {"loss": laws.l2(), "residual": "raw"}
    loss = laws.fit(laws.Runs(df[small], C="flops"), "gadre", **raw)
    error = laws.fit(laws.Runs(df[more], N=None, D=None, L="loss", loss="err_avg17"), "gadre_downstream", **raw)
    large = df[((df.model == "open_lm_1b") & (df.multiplier == 640)) | (df.model == "open_lm_7b")]
    return loss, error, large.sort_values("params")


@needs_data
def test_gadres_forecasts_of_loss_and_error_are_off_by_as_much_as_published(gadre):
    loss, error, large = gadre
    assert (len(loss.runs), len(error.runs), list(large.multiplier)) == (5, 6, [640, 20])
    at = {"C": large.flops.to_numpy(), "M": (large.tokens / large.params).to_numpy()}
    off = 100 * np.abs(loss.predict(**at).loss / large.loss - 1)
    np.testing.assert_allclose(off, [0.7103, 0.7320], atol=1e-3)
    downstream = laws.Chain(loss, error).predict(**at).loss
    np.testing.assert_allclose(100 * np.abs(downstream / large.err_avg17 - 1), [3.6365, 0.0464], atol=1e-3)


@needs_data
def test_gadres_parameters_are_the_published_ones(gadre):
    loss, error, _ = gadre
    assert loss.params["eta"] == pytest.approx(0.136, abs=5e-4)
    assert loss.params["E"] == pytest.approx(1.84, abs=5e-3)
    assert loss.params["a"] == pytest.approx(212, abs=0.5)
    assert loss.params["b"] == pytest.approx(367, abs=0.5)
    assert error.params == pytest.approx({"epsilon": 0.857, "k": 2.21, "gamma": 0.715}, rel=2e-3)


@needs_data
def test_bnsl_of_four_digit_addition_is_no_worse_than_the_published_fit():
    df = pd.read_csv(PUBLISHED / "bnsl_4digit_addition.csv")
    train = df[df.split == "train"]
    runs = laws.Runs(train, N=None, D=None, x="dataset_size")
    fit = laws.fit(runs, "bnsl_1", loss=laws.l2(), residual="log1p")
    listed = {"a": 0.41388, "b": 2.27727, "c0": 0.05508, "c1": 5.6629, "d1": 612.584, "f1": 0.05919}
    x, y = train.dataset_size.to_numpy(float), train.loss.to_numpy()
    p = listed
    theirs = p["a"] + p["b"] * x ** -p["c0"] * (1 + (x / p["d1"]) ** (1 / p["f1"])) ** (-p["c1"] * p["f1"])
    assert fit.objective <= 0.5 * np.sum((np.log1p(theirs) - np.log1p(y)) ** 2) * (1 + 1e-6)
    assert fit.params == pytest.approx(listed, rel=1e-3)


@pytest.fixture(scope="module")
def printed():
    table = pd.read_csv(LAWS, index_col="id")
    return {name: json.loads(text) for name, text in table.params_json.items()}


@needs_laws
def test_kaplans_laws_are_what_they_printed(printed):
    N, D, C, S, day = 1.5e9, 2.2e10, 3e21, 2.5e5, 8.64e19
    p = printed["kaplan_LN"]
    assert value("kaplan_N", {"N": N}, **p) == pytest.approx((8.8e13 / N) ** 0.076, rel=1e-12)
    p = printed["kaplan_LD"]
    assert value("kaplan_D", {"D": D}, **p) == pytest.approx((5.4e13 / D) ** 0.095, rel=1e-12)
    for name, scale, exponent in (("kaplan_LCmin", 3.1e8, 0.05), ("kaplan_LC_naive", 1.6e7, 0.057)):
        p = printed[name]  # in PF-days
        direct = (scale / (C / day)) ** exponent
        assert value("kaplan_C", {"C": C / day}, **p) == pytest.approx(direct, rel=1e-12)
        assert value("kaplan_C", {"C": C}, aC=p["aC"], Cc=p["Cc"] * day) == pytest.approx(direct, rel=1e-12)
    p = printed["kaplan_LND"]
    joint = ((6.4e13 / N) ** (0.076 / 0.103) + 1.8e13 / D) ** 0.103
    assert value("kaplan_ND", {"N": N, "D": D}, **p) == pytest.approx(joint, rel=1e-12)
    p = printed["kaplan_LNS"]
    steps = (6.5e13 / N) ** 0.077 + (2.1e3 / S) ** 0.76
    assert value("kaplan_NS", {"N": N, "S": S}, **p) == pytest.approx(steps, rel=1e-12)


@needs_laws
@pytest.mark.parametrize(("name", "alpha", "beta"), [("param", 0.34, 0.28), ("param_tex", 0.3392, 0.2849)])
def test_hoffmanns_law_is_what_they_printed(printed, name, alpha, beta):
    p = printed[f"hoffmann_{name}"]
    direct = p["E"] + 406.4 / 70e9**alpha + 410.7 / 1.4e12**beta
    named = {"E": p["E"], "A": p["A"], "B": p["B"], "alpha": p["a"], "beta": p["b"]}
    assert value("chinchilla", {"N": 70e9, "D": 1.4e12}, **named) == pytest.approx(direct, rel=1e-12)


@needs_laws
@pytest.mark.parametrize("data", ["C4", "RPJ", "RW"])
def test_gadres_laws_are_what_they_printed(printed, data):
    p, N, D = printed["gadre"][data], 1.4e9, 2.8e10
    # With C = 6·N·D theirs is a sum of powers of N and of D, both with exponent 2η.
    direct = p["E"] + 6 ** -p["eta"] * (p["a"] * N ** (-2 * p["eta"]) + p["b"] * D ** (-2 * p["eta"]))
    own = {name: p[name] for name in ("E", "a", "b", "eta")}
    loss = value("gadre", {"C": 6 * N * D, "M": D / N}, **own)
    assert loss == pytest.approx(direct, rel=1e-12)
    error = value("gadre_downstream", {"L": loss}, epsilon=p["eps"], k=p["k"], gamma=p["gamma"])
    assert error == pytest.approx(p["eps"] - p["k"] * np.exp(-p["gamma"] * direct), rel=1e-12)


@needs_laws
def test_muennighoffs_law_is_what_they_printed(printed):
    p, unique, repeats, share = printed["muennighoff"], 1e10, 6.0, 0.050987
    tokens = unique * (1 + p["RD"] * (1 - np.exp(-repeats / p["RD"])))
    excess = 2e9 / (share * unique) - 1
    size = share * unique * (1 + p["RN"] * (1 - np.exp(-excess / p["RN"])))
    direct = np.exp(p["lnE"]) + np.exp(p["lnA"]) / size ** p["a"] + np.exp(p["lnB"]) / tokens ** p["a"]
    found = value(
        "data_constrained",
        {"N": 2e9, "D": unique * (1 + repeats), "U": unique},
        **{"E": np.exp(p["lnE"]), "A": np.exp(p["lnA"]), "alpha": p["a"], "B": np.exp(p["lnB"]), "beta": p["a"]},
        **{"R_D": p["RD"], "R_N": p["RN"]},
    )
    assert found == pytest.approx(direct, rel=5e-7)  # .050987 has five digits
    assert printed["muennighoff"]["UN_over_UD"] == pytest.approx(share, rel=1e-3)


@needs_laws
@pytest.mark.parametrize("model", ["m7B", "m13B", "m34B", "m70B"])
def test_xiongs_laws_are_what_they_printed(printed, model):
    alpha, beta, gamma = printed["xiong"][model]
    direct = (alpha / 16384) ** beta + gamma
    found = value("context", {"T": 16384.0}, alpha=alpha, beta=beta, gamma=gamma)
    assert found == pytest.approx(direct, rel=1e-12)
