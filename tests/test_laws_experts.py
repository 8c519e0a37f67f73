"""What experts are worth by a fitted law, against closed forms and searches over a grid written out here."""

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError

JOINT = {
    **{"a": 30.0, "delta": -0.3, "alpha": -0.22, "gamma": 0.011, "b": 50.0, "omega": 0.45, "beta": -0.2},
    **{"zeta": -0.024, "c": 1.1, "Es": 2.1, "Em": 200.0},
}


def joint(N, D, E, p=JOINT):
    e = np.log(1 / (1 / (E - 1 + 1 / (1 / p["Es"] - 1 / p["Em"])) + 1 / p["Em"]))
    sizes = p["a"] * np.exp(p["delta"] * e) * N ** (p["alpha"] + p["gamma"] * e)
    return sizes + p["b"] * np.exp(p["omega"] * e) * D ** (p["beta"] + p["zeta"] * e) + p["c"]


def grid(**columns):
    return pd.DataFrame({n: g.ravel() for n, g in zip(columns, np.meshgrid(*columns.values()), strict=True)})


def fitted(table, form, noise=0.0, seed=0, **settings):
    table = table.assign(loss=table.loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(table))))
    letters = {"N": None, "D": None} | {name: name for name in table.columns}
    return laws.fit(laws.Runs(table, trusted=True, **letters), form, loss=laws.l2(), starts=16, **settings)


def sweep(experts=(1.0, 4, 8, 16, 32), law=joint):
    table = grid(N=np.geomspace(1e7, 1e9, 4), D=np.geomspace(1e9, 3e10, 4), E=np.array(experts))
    return table.assign(C=6 * table.N * table.D * table.E**0.02, loss=law(table.N, table.D, table.E))


@pytest.fixture(scope="module")
def exact():
    return fitted(sweep(), "ludziejewski")


@pytest.fixture(scope="module")
def noisy():
    fit = fitted(sweep(), "ludziejewski", noise=0.001, fixed={"Es": JOINT["Es"], "Em": JOINT["Em"]})
    fit.bootstrap(200)
    return fit


def best_loss(C, E):
    N = np.geomspace(1e6, 1e12, 60001)
    return joint(N, C / (6 * N * E**0.02), E).min()


def saved(C, E):
    """FLOPs of the dense model over those of the mixture, by bisection over least losses on a grid of sizes."""
    low, high = C / 100, C
    for _ in range(40):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if best_loss(middle, E) > best_loss(C, 1.0) else (low, middle)
    return C / high


def test_a_mixture_is_worth_the_dense_model_of_the_same_loss(exact, noisy):
    found = laws.dense_worth(exact, N=3e8, D=1e10, E=8)
    assert joint(found.N, 1e10, 1) == pytest.approx(joint(3e8, 1e10, 8), rel=1e-5)
    assert found.times == found.N / 3e8 > 1.2 and found.interval is None
    low, high = laws.dense_worth(noisy, N=3e8, D=1e10, E=8).interval
    assert low < found.N < high and high / low < 1.3
    assert laws.dense_worth(exact, N=3e8, D=1e10, E=1).times == pytest.approx(1, rel=1e-6)
    far = laws.dense_worth(exact, N=3e8, D=1e10, E=1000), laws.compute_saving(exact, E=1000)
    assert not found.note and all("E = 1e+03 lies outside the runs' 1 to " in each.note for each in far)


def test_by_clarks_law_it_is_the_closed_form():
    p = {"a": -0.08, "b": -0.11, "c": 0.009, "d": 1.1}
    table = grid(N=np.geomspace(1e7, 1e9, 5), E=np.array([1.0, 4, 16, 64]))
    n, e = np.log10(table.N), np.log10(table.E)
    fit = fitted(table.assign(loss=10 ** (p["a"] * n + p["b"] * e + p["c"] * n * e + p["d"])), "clark_bilinear")
    known = laws.dense_equivalent(p, N=1e8, E=16)
    assert pytest.approx(known, rel=1e-6) == laws.dense_worth(fit, N=1e8, E=16).N


def test_the_compute_that_experts_save_is_what_a_search_finds(exact, noisy):
    for C, E in ((1e20, 8.0), (1e19, 32.0)):
        truth = saved(C, E)
        found = laws.compute_saving(exact, C, E=E)
        assert found.multiplier == pytest.approx(truth, rel=2e-3) and found.multiplier > 1.2
        assert found.loss == pytest.approx(best_loss(C, 1.0), rel=1e-5)
        low, high = laws.compute_saving(noisy, C, E=E).interval
        assert low < truth < high and high / low < 1.4
    assert laws.compute_saving(exact, E=1).multiplier == pytest.approx(1, rel=1e-6)
    six = laws.compute_saving(exact, 1e20, E=8, flops_per_token=lambda columns: 6 * columns["N"])
    assert six.multiplier == pytest.approx(saved(1e20, 8) * 8**0.02, rel=3e-3)


def test_sweeps_that_share_exponents_narrow_what_each_says_of_its_experts():
    """A second sweep, worse by a factor of both terms, of which 16 runs alone say little."""
    few = sweep((1.0, 8))[lambda t: t.D < 1e10]
    other = sweep(law=lambda N, D, E: 1.1 * joint(N, D, E))
    fixed = {"Es": JOINT["Es"], "Em": JOINT["Em"], "gamma": JOINT["gamma"], "zeta": JOINT["zeta"]}
    shared = ("alpha", "beta", "delta", "omega", "gamma", "zeta", "Es", "Em")
    table = pd.concat([few.assign(sweep="few"), other.assign(sweep="other")], ignore_index=True)
    table["loss"] *= np.exp(0.002 * np.random.default_rng(1).standard_normal(len(table)))
    letters = {name: name for name in ("N", "D", "C", "E", "loss")}
    settings = {"loss": laws.l2(), "starts": 8, "fixed": fixed}
    runs = laws.Runs(table, trusted=True, **letters)
    pooled = laws.fit(runs, "ludziejewski", group=table["sweep"], shared=shared, **settings)
    alone = laws.fit(laws.Runs(table[table.sweep == "few"], trusted=True, **letters), "ludziejewski", **settings)
    widths = []
    for fit in (pooled, alone):
        fit.bootstrap(100, kind="noise")
        own = fit["few"] if fit is pooled else fit
        found = laws.compute_saving(own, 1e20, E=8)
        low, high = found.interval
        widths.append(np.log(high / low))
        assert low < saved(1e20, 8.0) < high
    assert widths[0] < 0.6 * widths[1]


def test_more_experts_are_always_better_by_a_law_that_says_so(noisy):
    found = laws.best_sparsity(noisy, 1e20)
    assert found.column == "E" and found.value == np.inf and found.outside == 1.0 and found.seen == (1, 32)
    assert found.note.startswith(
        "by this law the loss still falls at E = 512, the search's end, outside the runs' 1 to"
    )


def abnar(N, D, A):
    return 900 / N**0.45 + 4000 / D**0.4 + 0.5 * A**0.17 + 17 / (A**0.16 * N**0.16) + 0.9


def shares(values):
    table = grid(N=np.geomspace(1e8, 1e10, 5), D=np.geomspace(1e9, 1e11, 4), A=np.array(values))
    return table.assign(C=6 * table.N * table.A**0.9 * table.D, loss=abnar(table.N, table.D, table.A))


def test_the_best_sparsity_at_a_budget_is_what_a_search_finds_and_says_where_it_lies():
    C, N = 1e20, 3e9
    A = np.geomspace(1, 0.001, 100001)
    truth = A[abnar(N, C / (6 * N * A**0.9), A).argmin()]
    inside, outside = 2 * truth, 8 * truth
    fit = fitted(shares([1, 0.5, inside, truth / 2, truth / 4]), "abnar")
    found = laws.best_sparsity(fit, C, N=N)
    assert found.value == pytest.approx(truth, rel=0.01) and found.sparsity == 1 - found.value
    assert found.note == "" and pytest.approx(N) == found.N and found.interval is None
    assert found.loss == pytest.approx(abnar(N, found.D, found.value), rel=1e-6)
    fit = fitted(shares([1, 0.8, 0.6, min(0.5, outside)]), "abnar", noise=1e-4)
    fit.draw("laplace", 300)
    found = laws.best_sparsity(fit, C, N=N)
    assert found.outside > 0.5 and "outside the runs' 0.5 to 1" in found.note
    assert found.interval[0] <= truth


def test_the_best_granularity_by_ling_hunyuan_and_krajewski():
    table = grid(A=np.array([0.5, 0.25, 0.1, 0.03]), C=np.geomspace(1e18, 1e21, 4), G=np.array([2.0, 4, 8, 16]))
    power = 1.2 - 0.07 * np.log10(table.C) + 0.016 * np.log2(table.G) ** 2 - 0.11 * np.log2(table.G)
    fit = fitted(table.assign(loss=(table.A + 0.02) ** power), "ling", fixed={"As": 0.02, "Am": 1e15})
    found = laws.best_granularity(fit, 1e22, A=0.03)
    assert found.value == pytest.approx(2 ** (0.11 / 0.032), rel=0.01) and found.note == ""
    with pytest.raises(UserError, match=r"give A=…; the runs have 0\.03 to 0\.5 of it"):
        laws.best_granularity(fit, 1e22)

    def loss(N, D, G):
        return 0.5 + (2.1 / G**0.6 + 15) / N**0.2 + 40 / D**0.2

    def per_token(N, G):  # a router's share of an expert's FLOPs
        return 6 * N / 64 * (1 + 0.004 * G)

    table = grid(N=np.geomspace(1e9, 1e11, 4), D=np.geomspace(1e9, 1e11, 4), G=np.geomspace(1, 64, 7))
    table = table.assign(C=table.D * per_token(table.N, table.G), loss=loss(table.N, table.D, table.G))
    found = laws.best_granularity(fitted(table, "krajewski"), 1e20, N=1e10)
    G = np.geomspace(1, 64, 20001)
    truth = G[loss(1e10, 1e20 / per_token(1e10, G), G).argmin()]
    assert 2 < truth < 40 and found.value == pytest.approx(truth, rel=0.05) and found.note == ""


def test_the_number_of_experts_that_a_token_meets_by_hunyuans_law():
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"N": rng.choice(np.geomspace(1e9, 1e11, 5), 200), "D": rng.choice([1e10, 1e11, 1e12], 200)})
    table["Na"] = table.N * rng.choice([0.05, 0.1, 0.3], 200)
    table["K"], table["R"] = rng.choice([2.0, 4, 8, 16], 200), rng.choice([1, 0.75, 0.5], 200)
    S, size, active = 1 - table.R, table.N**-0.24, table.Na**-0.24
    shape = 0.2 * table.K + 8.0 / table.K + 5 * S**2 - 3 * S
    loss = shape * (size + 0.01 * active + 0.05 * table.Na / table.N) + 38 * size + 2e4 * table.D**-0.45
    fit = fitted(table.assign(loss=loss + 31 * active + 1.8).drop_duplicates(), "hunyuan")
    found = laws.best_granularity(fit, N=1e10, Na=1e9, D=1e11, R=0.75)
    assert found.column == "K" and found.value == pytest.approx((8.0 / 0.2) ** 0.5, rel=0.01) and found.note == ""


def test_what_a_law_cannot_say_is_told(exact):
    with pytest.raises(UserError, match="has no dense models to compare with"):
        laws.dense_worth(fitted(sweep((1.0,)).drop(columns="E"), "chinchilla"), N=1e9, D=1e9)
    with pytest.raises(UserError, match="asks for positive N, D, E; got N, D"):
        laws.dense_worth(exact, N=1e9, D=1e9)
    with pytest.raises(UserError, match="asks for positive N, D, E; got D=-1"):
        laws.dense_worth(exact, N=1e9, D=-1, E=8)
    for asked in (lambda: laws.dense_worth(exact, N=1e9, D=1e9, E=0.5), lambda: laws.compute_saving(exact, E=0.5)):
        with pytest.raises(UserError, match=r"E=0.5, .*; allowed: at least 1$"):
            asked()
    with pytest.raises(UserError, match="says nothing of G or K"):
        laws.best_granularity(exact, 1e20)
    with pytest.raises(UserError, match="depends on the budget: give C=…"):
        laws.best_sparsity(exact)
    without = fitted(shares([1, 0.5, 0.2]).drop(columns="C"), "abnar")
    with pytest.raises(UserError, match="FLOPs do not follow from them"):
        laws.best_sparsity(without, 1e20)


LING = {"a": 1.23, "d": -0.0761, "gamma": 0.0167, "beta": -0.117, "As": 0.0163, "Am": 5.28e16}
"""table of Tian et al. 2025 (2507.17702)"""


def leverage_by_ling(A, C, G, p=LING):
    share = 1 / (1 / (A + 1 / (1 / p["As"] - 1 / p["Am"])) + 1 / p["Am"])
    return share ** (p["a"] + p["d"] * np.log10(C) + p["gamma"] * np.log2(G) ** 2 + p["beta"] * np.log2(G))


def test_leverage_is_measured_against_dense_runs_and_gives_lings_law_back():
    """Mixtures as good as the best dense model of EL times their FLOPs, by the closed form of the least loss."""
    a, b, alpha, beta, E = 400.0, 2000.0, 0.34, 0.37, 1.7
    dense = grid(N=np.geomspace(1e8, 1e11, 6), D=np.geomspace(2e9, 2e12, 6))
    dense = dense.assign(C=6 * dense.N * dense.D, loss=E + a / dense.N**alpha + b / dense.D**beta, experts=1.0)
    mixed = grid(C=np.geomspace(1e20, 1e22, 4), experts=np.array([8.0, 16, 32, 128]), G=np.array([1.0, 4, 8, 12, 24]))
    true = leverage_by_ling(1 / mixed.experts, mixed.C, mixed.G)
    N = (alpha * a / (beta * b) * (true * mixed.C / 6) ** beta) ** (1 / (alpha + beta))
    D = true * mixed.C / 6 / N
    mixed = mixed.assign(N=N, D=D, loss=E + a / N**alpha + b / D**beta, A=1 / mixed.experts)
    far = mixed.tail(1).assign(C=1e27, loss=E + 0.001)  # no dense run has come near
    table = pd.concat([dense, mixed, far], ignore_index=True)

    found = laws.with_leverage(table, N="N", D="D", C="C")
    assert found.leverage[: len(dense)].isna().all() and np.isnan(found.leverage.iloc[-1])
    np.testing.assert_allclose(found.leverage[len(dense) : -1], true, rtol=2e-3)
    twice = laws.with_leverage(table, N="N", D="D", C="C", flops_per_token=lambda columns: 12 * columns["N"])
    cost = 2 * true[::9]  # of dense models that take 12 N: as large and as long ones take twice the FLOPs
    np.testing.assert_allclose(twice.leverage[len(dense) : -1 : 9], cost, rtol=2e-3)
    measured = found.dropna(subset="leverage")
    columns = {"N": None, "D": None, "C": "C", "A": "A", "G": "G", "loss": "leverage"}
    fit = laws.fit(laws.Runs(measured, trusted=True, **columns), "ling", loss=laws.l2(), starts=16)
    assert fit.predict(A=0.031, C=1e22, G=12).loss == pytest.approx(7.24, rel=0.01)
    fine = np.geomspace(8, 16, 41)
    best = fine[np.argmax([fit.predict(A=0.031, C=1e22, G=g).loss for g in fine])]
    assert best == pytest.approx(11.3, rel=0.03)


def test_leverage_without_dense_runs_is_refused():
    table = pd.DataFrame({"experts": [8.0, 8.0], "flops": [1e18, 1e19], "loss": [3.0, 2.9]})
    with pytest.raises(UserError, match="which has mixtures only"):
        laws.with_leverage(table)
    with pytest.raises(UserError, match="missing: experts"):
        laws.with_leverage(table.drop(columns="experts"))


@pytest.mark.parametrize(
    ("law", "letter", "values", "said"),
    [
        ("abnar", "A", [2.0, 4, 8], r"abnar reads A, share K/E of .*, at most 1; 60 of 60 rows are not: 0 \(2\), 1"),
        ("ludziejewski", "E", [0.5, 4, 8], r"ludziejewski reads E, experts of a layer, at least 1; 20 of 60 rows"),
        ("clark", "E", [0.5, 4, 8], r"clark reads E, experts of a layer, at least 1"),
        ("krajewski_dense", "X", [0.5, 64], r"krajewski_dense reads X, experts of a layer, 1 of .*at least 1"),
        ("hunyuan", "R", [1.0, 2, 3], r"hunyuan reads R, share of these experts that is routed, at most 1"),
        ("hunyuan", "K", [0.5, 2, 4], r"hunyuan reads K, experts that a token meets, .*, at least 1"),
        ("ling", "A", [0.1, 1.5], r"ling reads A, share of the experts that a token meets, at most 1"),
        ("frantar", "R", [0.1, 1.5], r"frantar reads R, share of the weights that is not zero, at most 1"),
    ],
)
def test_runs_that_no_model_can_be_are_refused(law, letter, values, said):
    """E/K where K/E is read, half an expert: a fit would be good and its forecasts wrong."""
    reads = laws.FORMS[law].columns
    sizes = {name: np.geomspace(1e8, 1e9, 4 if name == "D" else 5) for name in reads if name in "NDC"}
    others = {name: np.array([0.5, 1.0]) for name in reads if name not in (*"NDC", "K", letter)}
    others |= {"K": np.array([2.0, 4])} if "K" in reads else {}
    table = grid(**sizes, **(others | {letter: np.array(values)}))
    table = table.assign(loss=2 + table[letter] / 100 + np.arange(len(table)) / 1e4)
    with pytest.raises(UserError, match=said):
        fitted(table, law)


def test_a_share_is_not_read_from_a_column_called_sparsity(exact):
    table = shares([0.8, 0.5, 0.2]).rename(columns={"A": "moe_sparsity"})
    letters = {"N": "N", "D": "D", "C": "C", "A": "moe_sparsity"}
    with pytest.raises(UserError, match=r"which is 1 less the sparsity; .* is called moe_sparsity: A='COLUMN'"):
        laws.fit(laws.Runs(table, trusted=True, **letters), "abnar", starts=4)
    for E in (0.5, [8, 0.5]):
        with pytest.raises(UserError, match=r"ludziejewski: E=0.5, experts of a layer; allowed: at least 1"):
            exact.predict(N=1e9, D=1e10, E=E)
    assert exact.predict(N=1e9, D=1e10, E=1).loss > 1


def test_flops_of_a_share_of_the_parameters_are_plausible():
    """6·N·K/E·D, of a law that counts all N: a 50th of 6·N·D, and no sign of another unit."""
    table = shares([1, 0.5, 0.1, 0.02])
    table["C"] = 6 * table.N * table.A * table.D
    letters = {name: name for name in ("N", "D", "C", "A", "loss")}
    assert laws.Runs(table, **letters).notes == ()
    active = table.assign(Na=table.N * table.A).drop(columns="A")
    assert laws.Runs(active, **{name: name for name in ("N", "D", "C", "Na", "loss")}).notes == ()
    for factor in (1e-15, 1e3):
        with pytest.raises(UserError, match=r"C is more than 30 times off 6·N·D in \d+ of 80 rows"):
            laws.Runs(table.assign(C=factor * table.C), **letters)


def test_a_parameter_without_effect_has_an_open_interval():
    """Of the published Am, 5e16: every draw leaves it where it is, and a millionth of it would do as well."""
    table = grid(A=np.array([0.5, 0.25, 0.1, 0.03]), C=np.geomspace(1e18, 1e20, 3), G=np.array([2.0, 4, 8]))
    fit = fitted(table.assign(loss=leverage_by_ling(table.A, table.C, table.G)), "ling", noise=0.003)
    fit.bootstrap(40, kind="noise")
    assert fit.diagnostics.at_bounds == ("Am",) and fit.interval("Am") == (0.0, np.inf)
    low, high = fit.interval("As")
    assert 0.5 * LING["As"] < low < high < 2 * LING["As"]
    assert "Am ended where it has no effect: the data do not identify it" in laws.fit_table(fit)["warnings"]
