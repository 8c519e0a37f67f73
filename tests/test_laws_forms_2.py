"""Laws of further columns: recovered from noise-free tables, the same in any unit and row order, as published."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scaling import laws
from scaling.errors import UserError

PUBLISHED = Path(__file__).parents[1] / "../shared/published_laws.csv"
needs_data = pytest.mark.skipif(not PUBLISHED.exists(), reason="../shared/published_laws.csv is not here")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def saturated(E, Es, Em):
    return 1 / (1 / (E - 1 + 1 / (1 / Es - 1 / Em)) + 1 / Em)


def bilinear(N, e, a, b, c, d):
    n = np.log10(N)
    return 10 ** (a * n + b * e + c * n * e + d)


def kept(P, gamma):
    return 1 - np.exp(-P / gamma)


@dataclass
class Case:
    """A law written out a second time, a table it could be fitted to, and parameters that no start begins at."""

    law: Callable
    columns: dict[str, np.ndarray]
    truth: dict[str, float]
    residual: str = "log"
    signed: bool = False

    def table(self, noise=0.0, **units):
        """units: what each column is divided by."""
        values = self.law(**self.columns, **self.truth)
        if noise:
            draws = np.random.default_rng(3).standard_normal(len(values))
            values = values * np.exp(noise * draws) if self.residual == "log" else values + noise * draws
        own = {name: column / units.get(name, 1.0) for name, column in self.columns.items()}
        return pd.DataFrame({**own, "value": values})

    def runs(self, table):
        letters = {"N": None, "D": None} | {name: name for name in self.columns}
        return laws.Runs(table, loss="value", signed=self.signed, trusted=True, **letters)


def grid(**columns):
    return {name: g.ravel() for name, g in zip(columns, np.meshgrid(*columns.values(), indexing="ij"), strict=True)}


N, D = np.geomspace(2e7, 2e9, 4), np.geomspace(1e9, 1e11, 4)
EXPERTS = np.array([1.0, 2, 4, 16, 64, 256, 512])
BITS = np.array([2.0, 3, 4, 6, 8, 16])


def mixed_precision():
    """Runs at mixed precisions, as one would choose them: not the whole of a grid of five columns."""
    rng = np.random.default_rng(0)
    rows = {"N": rng.choice(N, 90), "D": rng.choice(D, 90)}
    rows |= {name: rng.choice(BITS, 90) for name in ("Pw", "Pa", "Pkv")}
    return {name: column.to_numpy() for name, column in pd.DataFrame(rows).drop_duplicates().items()}


def quantized():
    """The same, each then rounded to fewer bits than any that it was trained in."""
    table = pd.DataFrame(mixed_precision())
    table = table[table[["Pw", "Pa", "Pkv"]].min(axis=1) > 2]
    least = table[["Pw", "Pa", "Pkv"]].min(axis=1)
    table["Ppost"] = np.maximum(2.0, least - np.random.default_rng(1).integers(1, 5, len(table)))
    return {name: column.to_numpy() for name, column in table.items()}


def with_dense(columns, **of_dense):
    """The rows, and as many dense models: X, the number of experts, tells them apart."""
    dense = {name: np.full_like(values, of_dense.get(name, 0)) for name, values in columns.items()}
    dense |= {name: columns[name] for name in ("N", "D")}
    both = pd.concat([pd.DataFrame(columns).assign(X=64.0), pd.DataFrame(dense).assign(X=1.0)]).drop_duplicates()
    return {name: column.to_numpy() for name, column in both.items()}


def shared_out(A, As, Am):
    return 1 / (1 / (A + 1 / (1 / As - 1 / Am)) + 1 / Am)


def mixtures_with_shared_experts():
    """Runs of 2 to 16 experts a token, up to half of them shared."""
    rng = np.random.default_rng(4)
    met, routed = np.array([2.0, 4, 8, 16]), np.array([1.0, 0.75, 0.5])
    rows = {"N": rng.choice(np.geomspace(5e7, 5e9, 6), 200), "D": rng.choice(D, 200)}
    rows |= {"share": rng.choice([0.05, 0.1, 0.2, 0.4], 200), "K": rng.choice(met, 200), "R": rng.choice(routed, 200)}
    table = pd.DataFrame(rows).assign(Na=rows["N"] * rows["share"]).drop(columns="share").drop_duplicates()
    return {name: column.to_numpy() for name, column in table.items()}


CASES = {
    "clark": Case(
        lambda N, E, a, b, c, d, Es, Em: bilinear(N, np.log10(saturated(E, Es, Em)), a, b, c, d),
        grid(N=N, E=EXPERTS),
        {"a": -0.07, "b": -0.12, "c": 0.0105, "d": 1.03, "Es": 2.6, "Em": 220.0},
    ),
    "clark_bilinear": Case(
        lambda N, E, a, b, c, d: bilinear(N, np.log10(E), a, b, c, d),
        grid(N=N, E=EXPERTS),
        {"a": -0.07, "b": -0.12, "c": 0.0105, "d": 1.03},
    ),
    "krajewski": Case(
        lambda N, D, G, c, g, a, b, alpha, beta, gamma: c + (g / G**gamma + a) / N**alpha + b / D**beta,
        grid(N=N, D=D, G=np.array([1.0, 2, 4, 8, 16])),
        {"c": 0.8, "g": 3.0, "a": 25.0, "b": 60.0, "alpha": 0.17, "beta": 0.19, "gamma": 0.7},
    ),
    "krajewski_dense": Case(
        lambda N, D, G, X, c, g, a, b, alpha, beta, gamma, a0, b0, alpha0, beta0: (
            c + np.where(X > 1, (g / G**gamma + a) / N**alpha + b / D**beta, a0 / N**alpha0 + b0 / D**beta0)
        ),
        with_dense(grid(N=N, D=D, G=np.array([1.0, 2, 4, 8, 16])), G=1.0),
        {
            **{"c": 0.8, "g": 3.0, "a": 25.0, "b": 60.0, "alpha": 0.17, "beta": 0.19, "gamma": 0.7},
            **{"a0": 22.0, "b0": 50.0, "alpha0": 0.155, "beta0": 0.18},
        },
    ),
    "ludziejewski": Case(
        lambda N, D, E, a, delta, alpha, gamma, b, omega, beta, zeta, c, Es, Em: (
            a * saturated(E, Es, Em) ** delta * N ** (alpha + gamma * np.log(saturated(E, Es, Em)))
            + b * saturated(E, Es, Em) ** omega * D ** (beta + zeta * np.log(saturated(E, Es, Em)))
            + c
        ),
        grid(N=N, D=D, E=EXPERTS),
        {
            **{"a": 40.0, "delta": -0.3, "alpha": -0.21, "gamma": 0.012, "b": 60.0, "omega": 0.5, "beta": -0.2},
            **{"zeta": -0.024, "c": 1.2, "Es": 2.6, "Em": 220.0},
        },
    ),
    "abnar": Case(
        lambda N, D, A, **p: (
            p["a"] / N ** p["alpha"]
            + p["b"] / D ** p["beta"]
            + p["c"] / A ** p["lambda"]
            + p["d"] / (A ** p["delta"] * N ** p["gamma"])
            + p["e"]
        ),
        grid(N=np.geomspace(2e7, 2e10, 6), D=D, A=np.array([1.0, 0.5, 0.25, 0.1, 0.05, 0.02])),
        {
            **{"a": 9000.0, "b": 4000.0, "c": 0.6, "d": 14.0, "e": 0.8, "alpha": 0.55, "beta": 0.36},
            **{"lambda": -0.2, "delta": 0.2, "gamma": 0.15},
        },
    ),
    "ling": Case(
        lambda A, C, G, a, d, gamma, beta, As, Am: np.exp(
            (a + d * np.log10(C) + gamma * np.log2(G) ** 2 + beta * np.log2(G)) * np.log(shared_out(A, As, Am))
        ),
        grid(
            A=np.array([1.0, 0.5, 0.25, 0.1, 0.03, 0.01]), C=np.geomspace(1e18, 1e21, 4), G=np.array([2.0, 4, 8, 16])
        ),
        {"a": 1.1, "d": -0.07, "gamma": 0.015, "beta": -0.1, "As": 0.02, "Am": 40.0},
    ),
    "hunyuan": Case(
        lambda N, Na, D, K, R, e, f, m, n, k, h, a, alpha, b, beta, c, eps: (
            (e * K + f / K + m * (1 - R) ** 2 + n * (1 - R)) * (1 / N**alpha + k / Na**alpha + h * Na / N)
            + a / N**alpha
            + b / D**beta
            + c / Na**alpha
            + eps
        ),
        mixtures_with_shared_experts(),
        {
            **{"e": 0.2, "f": 8.0, "m": 6.0, "n": -3.5, "k": 0.05, "h": 0.06, "a": 30.0, "alpha": 0.22},
            **{"b": 9000.0, "beta": 0.42, "c": 25.0, "eps": 1.7},
        },
    ),
    "frantar": Case(
        lambda N, D, R, aS, bS, cS, bN, aD, bD, c: (aS * R**bS + cS) * N**-bN + (aD / D) ** bD + c,
        grid(N=N, D=D, R=np.array([1.0, 0.5, 0.25, 0.125])),
        {"aS": 12.0, "bS": 0.9, "cS": 30.0, "bN": 0.21, "aD": 3e8, "bD": 0.26, "c": 0.9},
    ),
    "tao": Case(
        lambda Nnv, Nv, D, E, A1, A2, B, alpha1, alpha2, beta: -E + A1 / Nnv**alpha1 + A2 / Nv**alpha2 + B / D**beta,
        grid(Nnv=N, Nv=np.geomspace(2e6, 3e8, 5), D=D),
        {"E": 5.2, "A1": 600.0, "A2": 900.0, "B": 8000.0, "alpha1": 0.4, "alpha2": 0.55, "beta": 0.42},
        residual="raw",
        signed=True,
    ),
    "tao_equal": Case(
        lambda Nnv, Nv, D, E, A1, A2, B, alpha2, beta: -E + A1 / Nnv**beta + A2 / Nv**alpha2 + B / D**beta,
        grid(Nnv=N, Nv=np.geomspace(2e6, 3e8, 5), D=D),
        {"E": 5.2, "A1": 600.0, "A2": 900.0, "B": 8000.0, "alpha2": 0.55, "beta": 0.42},
        residual="raw",
        signed=True,
    ),
    "kumar": Case(
        lambda N, D, Pw, Pa, Pkv, E, A, B, alpha, beta, gamma_w, gamma_a, gamma_kv: (
            E + A / (N * kept(Pw, gamma_w) * kept(Pa, gamma_a) * kept(Pkv, gamma_kv)) ** alpha + B / D**beta
        ),
        mixed_precision(),
        {
            **{"E": 1.9, "A": 900.0, "B": 5000.0, "alpha": 0.39, "beta": 0.41},
            **{"gamma_w": 1.9, "gamma_a": 2.9, "gamma_kv": 0.7},
        },
    ),
    "kumar_weights": Case(
        lambda N, D, Pw, E, A, B, alpha, beta, gamma_w: E + A / (N * kept(Pw, gamma_w)) ** alpha + B / D**beta,
        grid(N=N, D=D, Pw=BITS),
        {"E": 1.9, "A": 900.0, "B": 5000.0, "alpha": 0.39, "beta": 0.41, "gamma_w": 1.9},
    ),
    "kumar_uniform": Case(
        lambda N, D, P, E, A, B, alpha, beta, gamma: E + A / (N * kept(P, gamma) ** 3) ** alpha + B / D**beta,
        grid(N=N, D=D, P=BITS),
        {"E": 1.9, "A": 900.0, "B": 5000.0, "alpha": 0.39, "beta": 0.41, "gamma": 1.6},
    ),
    "kumar_ptq": Case(
        lambda N, D, Ppost, CT, gamma_D, gamma_N, gamma_post: (
            CT * D**gamma_D / N**gamma_N * np.exp(-Ppost / gamma_post)
        ),
        grid(N=N, D=D, Ppost=np.array([3.0, 4, 5, 6])),
        {"CT": 0.04, "gamma_D": 0.45, "gamma_N": 0.37, "gamma_post": 0.7},
    ),
    "kumar_ptq_trained": Case(
        lambda N, D, Pw, Pa, Pkv, Ppost, CT, gamma_D, gamma_N, gamma_post, gamma_w, gamma_a, gamma_kv, Cw, Ca, Ckv: (
            CT
            * D**gamma_D
            * np.exp(-Ppost / gamma_post)
            / (N * kept(Pw, gamma_w) * kept(Pa, gamma_a) * kept(Pkv, gamma_kv)) ** gamma_N
            * kept(Pw - Ppost, 1 / Cw)
            * kept(Pa - Ppost, 1 / Ca)
            * kept(Pkv - Ppost, 1 / Ckv)
        ),
        quantized(),
        {
            **{"CT": 0.04, "gamma_D": 0.45, "gamma_N": 0.37, "gamma_post": 0.7},
            **{"gamma_w": 1.9, "gamma_a": 2.9, "gamma_kv": 0.9, "Cw": 0.6, "Ca": 1.4, "Ckv": 0.9},
        },
    ),
    "hernandez": Case(
        lambda DF, N, k, alpha, beta: k * DF**alpha * N**beta,
        grid(DF=np.geomspace(1e5, 1e9, 6), N=N),
        {"k": 3e4, "alpha": 0.22, "beta": 0.35},
    ),
    "gao_bon": Case(
        lambda d, alpha, beta: d * (alpha - beta * d),
        {"d": np.linspace(0.3, 2.5, 12)},
        {"alpha": 0.9, "beta": 0.42},
        residual="raw",
        signed=True,
    ),
    "gao_rl": Case(
        lambda d, alpha, beta: d * (alpha - beta * np.log(d)),
        {"d": np.linspace(0.3, 12.0, 14)},
        {"alpha": 0.5, "beta": 0.24},
        residual="raw",
        signed=True,
    ),
    "nll_of_flops": Case(
        lambda C, a, b: a + b * np.log10(C), {"C": np.geomspace(6e18, 1e22, 10)}, {"a": 3.1, "b": -0.11}
    ),
    "accuracy_of_nll": Case(
        lambda NLL, low, high, mid, k: low + (high - low) * sigmoid(-k * (NLL - mid)),
        {"NLL": np.linspace(0.55, 1.4, 14)},
        {"low": 0.26, "high": 0.97, "mid": 0.86, "k": 11.0},
        residual="raw",
    ),
}
UNITS = {"N": 1e6, "Na": 1e3, "D": 1e9, "Nnv": 1e6, "Nv": 1e6, "DF": 1e6, "C": 1e18, "NLL": np.log(2)}
VARIANTS = ("clark_bilinear", "krajewski_dense", "tao_equal", "kumar_weights", "kumar_uniform")
"""of the same code as another case; compiling each takes seconds"""
everywhere = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in VARIANTS)) for name in CASES]
)


@everywhere
@pytest.mark.parametrize("loss", [laws.huber(1e-3), laws.l2()], ids=["huber", "l2"])
def test_a_noise_free_law_is_recovered(name, loss):
    case = CASES[name]
    fit = laws.fit(case.runs(case.table()), name, loss=loss, residual=case.residual)
    np.testing.assert_allclose(fit.fitted(), fit.runs.loss, rtol=1e-6, atol=1e-9)
    for parameter, value in case.truth.items():
        assert fit.params[parameter] == pytest.approx(value, rel=1e-4), parameter
    beyond = {column: 1.5 * values[-1] for column, values in case.columns.items()}
    truth = case.law(**beyond, **case.truth)
    assert fit.predict(**beyond).loss == pytest.approx(truth, rel=1e-6)


@everywhere
def test_nothing_depends_on_units_or_row_order(name):
    case = CASES[name]
    table = case.table(noise=0.003)
    settings = {"loss": laws.huber(1e-3), "residual": case.residual}
    one = laws.fit(case.runs(table), name, **settings)
    other = laws.fit(case.runs(case.table(noise=0.003, **UNITS)), name, **settings)
    assert other.objective == pytest.approx(one.objective, rel=1e-9)
    np.testing.assert_allclose(other.fitted(), one.fitted(), rtol=1e-6, atol=1e-9)
    shuffled = laws.fit(case.runs(table.sample(frac=1, random_state=5)), name, **settings)
    assert shuffled.params == one.params


@everywhere
def test_the_solvers_numbers_and_the_columns_own_units_say_the_same(name):
    case = CASES[name]
    form = laws.FORMS[name]
    assert set(case.truth) == set(form.params)
    natural = np.array([case.truth[p] for p in form.params])
    columns = [case.columns[c] for c in form.columns]
    units = form.log_units(columns)
    np.testing.assert_allclose(form.loss(natural, columns), case.law(**case.columns, **case.truth), rtol=1e-12)
    theta = form.theta(natural, units)
    scaled = form.scaled(dict(zip(form.params, theta, strict=True)), {}, units, np)
    np.testing.assert_allclose(form.natural(scaled, units, np), natural, rtol=1e-9)
    logs = {c: np.log(column) - unit for c, column, unit in zip(form.columns, columns, units, strict=True)}
    np.testing.assert_allclose(form.value(scaled, logs, np), form.loss(natural, columns), rtol=1e-11)


def row(name):
    table = pd.read_csv(PUBLISHED).set_index("id")
    return json.loads(table.loc[name, "params_json"])


def evaluate(name, params, **columns):
    """L of our form, through the same path as `fit.predict`."""
    form = laws.FORMS[name]
    natural = np.array([params[p] for p in form.params])
    return form.loss(natural, [np.asarray(columns[c], np.float64) for c in form.columns])


@needs_data
@pytest.mark.parametrize("router", ["SBASE", "RLR", "HASH"])
def test_the_published_law_of_routed_models(router):
    a, b, c, d, start, most = row("clark")[router]
    params = dict(zip(("a", "b", "c", "d", "Es", "Em"), (a, b, c, d, start, most), strict=True))
    experts = 64
    # Clark et al., eq. 1, written as the sum of two resistances
    inverse = 1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most
    log10 = a * np.log10(1.3e9) - b * np.log10(inverse) - c * np.log10(1.3e9) * np.log10(inverse) + d
    assert evaluate("clark", params, N=1.3e9, E=experts) == pytest.approx(10**log10, rel=1e-12)
    assert 1.5 < 10**log10 < 2.6  # nats a token


@needs_data
def test_published_laws_of_granularity_sparsity_and_transfer():
    p = row("krajewski")
    by_hand = p["c"] + (p["g"] / 8 ** p["gamma"] + p["a"]) / 1e9 ** p["alpha"] + p["b"] / 3e10 ** p["beta"]
    assert evaluate("krajewski", p, N=1e9, D=3e10, G=8) == pytest.approx(by_hand, rel=1e-12)

    p, sparsity = row("frantar_sparse")["T5C4"], 0.75
    width = p["aS"] * (1 - sparsity) ** p["bS"] + p["cS"]
    by_hand = width * (1 / 5e7) ** p["bN"] + (p["aD"] / 6.5e10) ** p["bD"] + p["c"]
    assert evaluate("frantar", p, N=5e7, D=6.5e10, R=1 - sparsity) == pytest.approx(by_hand, rel=1e-12)

    for p in row("hernandez").values():
        found = evaluate("hernandez", {"k": p["k"], "alpha": p["a"], "beta": p["b"]}, DF=3e5, N=4e7)
        assert found == pytest.approx(p["k"] * 3e5 ** p["a"] * 4e7 ** p["b"], rel=1e-12)


@needs_data
def test_published_laws_of_precision():
    published = row("kumar_Neff")
    gammas = {"gamma_w": published["gw"], "gamma_a": published["ga"], "gamma_kv": published["gkv"]}
    size = 2e8 * (1 - np.exp(-4 / published["gw"])) * (1 - np.exp(-6 / published["ga"]))
    size *= 1 - np.exp(-3 / published["gkv"])
    assert laws.precision_equivalent(gammas, 2e8, Pw=4, Pa=6, Pkv=3) == pytest.approx(size, rel=1e-12)
    dense = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
    by_hand = evaluate("chinchilla", dense, N=size, D=1e10)
    found = evaluate("kumar", dense | gammas, N=2e8, D=1e10, Pw=4, Pa=6, Pkv=3)
    assert found == pytest.approx(by_hand, rel=1e-12)

    p = row("kumar_ptq")
    params = {"CT": p["CT"], "gamma_D": p["gD"], "gamma_N": p["gN"], "gamma_post": p["gpost"]}
    by_hand = p["CT"] * 1e10 ** p["gD"] / 2e8 ** p["gN"] * np.exp(-4 / p["gpost"])
    assert evaluate("kumar_ptq", params, N=2e8, D=1e10, Ppost=4) == pytest.approx(by_hand, rel=1e-12)
    # Trained in high precision, eq. 9 is eq. 2; quantised to what it was trained in, nothing is lost.
    trained = {**params, **gammas, "Cw": 2.0, "Ca": 3.0, "Ckv": 4.0}
    high = {"Pw": 400.0, "Pa": 400.0, "Pkv": 400.0}
    found = evaluate("kumar_ptq_trained", trained, N=2e8, D=1e10, Ppost=4, **high)
    assert found == pytest.approx(by_hand, rel=1e-12)
    for least in (4.0, 3.0):
        assert evaluate("kumar_ptq_trained", trained, N=2e8, D=1e10, Ppost=4, **{**high, "Pa": least}) == 0.0


@needs_data
def test_the_published_growth_of_the_vocabulary():
    """Nnv = .08 C^.50 and Nv = .20 C^.42 are power laws of compute: Nv grows with the .83rd power of Nnv."""
    C = np.array([1e19, 1e22])
    Nnv = evaluate("power_law_C_no_offset", {"A": 0.08, "alpha": -0.50}, C=C)
    Nv = evaluate("power_law_C_no_offset", {"A": 0.20, "alpha": -0.42}, C=C)
    np.testing.assert_allclose(Nnv, 0.08 * C**0.5, rtol=1e-12)
    growth = np.log(Nv[1] / Nv[0]) / np.log(Nnv[1] / Nnv[0])
    assert growth == pytest.approx(row("tao_gamma")["gamma"], abs=0.015)


@pytest.mark.parametrize("name", ["clark", "clark_bilinear"])
def test_the_dense_equivalent_has_the_same_loss(name):
    case = CASES[name]
    N, E = case.columns["N"], case.columns["E"]
    dense = laws.dense_equivalent(case.truth, N, E)
    np.testing.assert_allclose(
        case.law(dense, np.ones_like(E), **case.truth), case.law(N, E, **case.truth), rtol=1e-11
    )
    np.testing.assert_allclose(dense[E == 1], N[E == 1], rtol=1e-11)
    assert (dense[E > 1] > N[E > 1]).all()
    with pytest.raises(UserError, match="dense_equivalent needs the parameters of clark"):
        laws.dense_equivalent({"A": 1.0}, 1e9, 8)


def test_precision_equivalent_says_which_bits_it_needs():
    with pytest.raises(UserError, match=r"needs bits Pw, Pa, Pkv; got P$"):
        laws.precision_equivalent(CASES["kumar"].truth, 1e9, P=8)
    uniform = laws.precision_equivalent({"gamma": 1.6}, 1e9, P=4)
    thrice = laws.precision_equivalent({"gamma_w": 1.6, "gamma_a": 1.6, "gamma_kv": 1.6}, 1e9, Pw=4, Pa=4, Pkv=4)
    assert uniform == pytest.approx(thrice, rel=1e-12)


def test_a_known_chance_level_is_kept():
    case = CASES["accuracy_of_nll"]
    fit = laws.fit(case.runs(case.table()), "accuracy_of_nll", fixed={"low": 0.26}, residual="raw")
    assert fit.params == pytest.approx(case.truth, rel=1e-6)
    assert fit.params["low"] == 0.26
