"""Published laws of mixtures of experts give what their papers say; Marin's runs forecast Marin's larger runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws

PUBLISHED = Path(__file__).parents[1] / "../shared/published"
pytestmark = pytest.mark.skipif(not (PUBLISHED / "moe_laws.json").exists(), reason="../shared/published is not here")


def published(name):
    return json.loads((PUBLISHED / "moe_laws.json").read_text(encoding="utf-8"))[name]


def evaluate(name, params, **columns):
    form = laws.FORMS[name]
    given = [np.asarray(columns[letter], float) for letter in form.columns]
    return form.loss(np.array([params[p] for p in form.params]), given)


def joint():
    p = published("ludziejewski_2502.05172")
    return {**p, "Es": p["E_start"], "Em": p["E_max"]}


def test_krajewski_has_a_dense_row_of_its_own():
    p = published("krajewski_2402.07871")
    moe, dense = p["moe"], p["dense"]
    params = {**moe, "a0": dense["a"], "b0": dense["b"], "alpha0": dense["alpha"], "beta0": dense["beta"]}
    N, D = 3e9, 6e10
    of_dense = evaluate("krajewski_dense", params, N=N, D=D, G=1, X=1)
    assert of_dense == pytest.approx(16.3 / N**0.126 + 26.7 / D**0.127 + 0.47, rel=1e-12)
    assert of_dense == pytest.approx(
        evaluate("chinchilla", {"E": 0.47, "A": 16.3, "B": 26.7, "alpha": 0.126, "beta": 0.127}, N=N, D=D), rel=1e-12
    )
    of_mixture = evaluate("krajewski_dense", params, N=N, D=D, G=8, X=64)
    assert of_mixture == pytest.approx(evaluate("krajewski", moe, N=N, D=D, G=8), rel=1e-12)
    # at an expansion of 64 it beats a dense model of its active size, 64 times smaller
    assert evaluate("krajewski_dense", params, N=N / 64, D=D, G=1, X=1) > of_mixture + 0.4


def test_the_joint_law_spends_more_tokens_on_more_experts():
    """D/N of the compute-optimal model grows with E, from 5 to 20 at 1e21 FLOPs: so the signs are right."""
    p, C = joint(), 1e21
    ratios = []
    for E in (1, 2, 4, 8, 16, 32):
        N = np.geomspace(1e7, 1e11, 40001)
        best = N[evaluate("ludziejewski", p, N=N, D=C / 6 / N, E=np.full_like(N, E)).argmin()]
        ratios.append(C / 6 / best**2)
    assert (np.diff(ratios) > 0).all()
    assert ratios[0] == pytest.approx(5, rel=0.05) and ratios[-1] == pytest.approx(20, rel=0.05)


def test_by_the_joint_law_two_to_four_experts_win_at_equal_memory():
    """At 1.1 billion parameters in all, two thirds of an expert's model being its experts, and equal FLOPs."""
    p, experts = joint(), np.array([1, 2, 4, 8, 16, 32.0])
    active = 1.1e9 / (1 / 3 + 2 / 3 * experts)
    loss = evaluate("ludziejewski", p, N=active, D=1e20 / 6 / active, E=experts)
    assert {*experts[np.argsort(loss)[:3]]} == {2, 4, 8} and experts[loss.argmin()] == 4
    assert loss[1] < loss[0] - 0.005 and loss[0] < loss[4]


def test_lings_leverage_and_its_best_granularity():
    p = published("ling_EL_2507.17702_v2")
    p = {**p, "As": p["A_start"], "Am": p["A_max"]}
    assert evaluate("ling", p, A=0.031, C=1e22, G=12) == pytest.approx(7.24, abs=0.005)
    G = np.geomspace(1, 64, 6001)
    best = G[evaluate("ling", p, A=np.full_like(G, 0.031), C=np.full_like(G, 1e22), G=G).argmax()]
    assert best == pytest.approx(11.3, abs=0.05)


def test_hunyuans_best_experts_and_share():
    p = published("hunyuan_2509.23678")
    at = {"N": 3e10, "Na": 3e9, "D": 1e12}
    K, S = np.linspace(1, 30, 29001), np.linspace(0, 0.9, 9001)
    of_K = evaluate("hunyuan", p, **{n: np.full_like(K, v) for n, v in at.items()}, K=K, R=np.ones_like(K))
    of_S = evaluate("hunyuan", p, **{n: np.full_like(S, v) for n, v in at.items()}, K=np.full_like(S, 8), R=1 - S)
    assert K[of_K.argmin()] == pytest.approx(6.78, abs=0.005)
    assert S[of_S.argmin()] == pytest.approx(0.315, abs=0.0005)


def test_abnars_law_by_hand_and_more_sparsity_pays_at_equal_parameters_and_flops():
    p = published("abnar_2501.12370")
    N, D, S = 4e9, 2e10, 0.9
    by_hand = 16612.5 / N**0.5962 + 5455.67 / D**0.3954 + 0.4598 / (1 - S) ** -0.1666
    by_hand += 17.26 / ((1 - S) ** 0.1603 * N**0.1595) + 0.94
    assert evaluate("abnar", p, N=N, D=D, A=1 - S) == pytest.approx(by_hand, rel=1e-12)
    share, C = np.geomspace(1, 0.02, 200), 1e21
    best = []
    for N in (1e9, 4e9, 16e9):
        loss = evaluate("abnar", p, N=np.full_like(share, N), D=C / 6 / (N * share), A=share)
        best.append(1 - share[loss.argmin()])
    assert 0.5 < best[0] < best[1] < best[2] < 0.97


def marin():
    table = pd.read_csv(PUBLISHED / "marin_moe.csv")
    return {name: rows for name, rows in table.groupby("set")}


def test_a_law_of_marins_runs_to_3e20_holds_their_runs_at_1e21_and_1e23():
    """Their own forecasts, frozen but without intervals: 2.606 and 2.252, or 2.597 and 2.236 at last."""
    tables = marin()
    runs = laws.Runs(tables["best_of_isoflop"], N=None, D=None, C="budget_flops", loss="paloma_macro_loss")
    assert runs.flops.max() == 3e20
    fit = laws.fit(runs, "power_law_C")
    fit.bootstrap(1000)
    found = fit.predict(C=tables["forecast_target"]["budget_flops"].to_numpy())
    measured = tables["forecast_target"]["paloma_macro_loss"].to_numpy()
    assert measured.tolist() == [2.599, 2.234]
    assert ((found.run_low < measured) & (measured < found.run_high)).all()
    assert ((found.run_high - found.run_low) / measured < (0.03, 0.09)).all()  # and they say something
    assert np.abs(found.loss / measured - 1).max() < 0.01


def test_256_experts_are_forecast_from_64_and_128():
    tables = marin()
    rows = pd.concat([tables["compute_optimal"], tables["experts"]])
    seen, wanted = rows[rows.experts < 256], rows[rows.experts == 256]
    columns = {"N": "budget_flops", "D": None, "E": "experts", "loss": "paloma_macro_loss", "trusted": True}
    fit = laws.fit(laws.Runs(seen, **columns), "clark_bilinear")
    found = fit.predict(N=wanted.budget_flops.to_numpy(), E=wanted.experts.to_numpy())
    assert len(wanted) == 3 and {*seen.experts} == {64, 128}
    assert np.abs(found.loss / wanted.paloma_macro_loss.to_numpy() - 1).max() < 0.005
