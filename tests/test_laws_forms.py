"""Every law against its formula written out, recovered from its own curve, and blind to units and row order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from scaling import laws
from scaling.errors import UserError
from scaling.laws.forms.broken import bnsl

RAW = ("gadre_downstream",)
"""laws whose papers fit raw residuals"""


@dataclass(frozen=True)
class Example:
    """A law where we know the truth."""

    law: Callable[[Mapping[str, np.ndarray], Mapping[str, float]], np.ndarray]
    """the formula, in the columns' own units"""
    columns: Mapping[str, np.ndarray]
    params: Mapping[str, float]
    """none of them the published ones, which are where the search begins"""
    smaller: Mapping[str, float]
    """columns that may be counted in a larger unit: by how much"""

    @property
    def loss(self) -> np.ndarray:
        return self.law(self.columns, self.params)


def runs_of(columns: Mapping[str, np.ndarray], loss: np.ndarray) -> laws.Runs:
    own = {"N": None, "D": None} | {letter: letter for letter in columns}
    return laws.Runs({**columns, "loss": loss}, trusted=True, **own)


def crossed(**axes: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(axes, (axis.ravel() for axis in np.meshgrid(*axes.values())), strict=True))


def muennighoff(x: Mapping[str, np.ndarray], p: Mapping[str, float]) -> np.ndarray:
    unique = np.minimum(x["U"], x["D"])
    tokens = unique + unique * p["R_D"] * (1 - np.exp(-(x["D"] / unique - 1) / p["R_D"]))
    G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))  # Hoffmann et al., eq. 4
    per_six = (unique * G) ** ((p["alpha"] + p["beta"]) / p["alpha"])  # the C/6 whose best D is `unique`
    fitting = np.minimum(G * per_six ** (p["beta"] / (p["alpha"] + p["beta"])), x["N"])
    size = fitting + fitting * p["R_N"] * (1 - np.exp(-(x["N"] / fitting - 1) / p["R_N"]))
    return p["E"] + p["A"] / size ** p["alpha"] + p["B"] / tokens ** p["beta"]


def broken(x: Mapping[str, np.ndarray], p: Mapping[str, float]) -> np.ndarray:
    y = p["b"] * x["x"] ** -p["c0"]
    for i in range(1, len(p) // 3):
        y = y * (1 + (x["x"] / p[f"d{i}"]) ** (1 / p[f"f{i}"])) ** (-p[f"c{i}"] * p[f"f{i}"])
    return p["a"] + y


SIZES, TOKENS, FLOPS = np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e11, 5), np.geomspace(1e17, 1e22, 14)
GRID = crossed(N=SIZES, D=TOKENS)
MILLIONS = {"N": 1e-6, "D": 1e-9}
EXAMPLES = {
    "chinchilla": Example(
        lambda x, p: p["E"] + p["A"] / x["N"] ** p["alpha"] + p["B"] / x["D"] ** p["beta"],
        GRID,
        {"E": 1.6, "A": 300.0, "alpha": 0.31, "B": 900.0, "beta": 0.33},
        MILLIONS,
    ),
    "kaplan_N": Example(
        lambda x, p: (p["Nc"] / x["N"]) ** p["aN"], {"N": SIZES}, {"Nc": 3e13, "aN": 0.09}, {"N": 1e-6}
    ),
    "kaplan_D": Example(
        lambda x, p: (p["Dc"] / x["D"]) ** p["aD"], {"D": TOKENS}, {"Dc": 2e13, "aD": 0.12}, {"D": 1e-9}
    ),
    "kaplan_C": Example(
        lambda x, p: (p["Cc"] / x["C"]) ** p["aC"], {"C": FLOPS}, {"Cc": 6e27, "aC": 0.07}, {"C": 1 / 8.64e19}
    ),
    "kaplan_ND": Example(
        lambda x, p: ((p["Nc"] / x["N"]) ** (p["aN"] / p["aD"]) + p["Dc"] / x["D"]) ** p["aD"],
        GRID,
        {"Nc": 3e13, "aN": 0.09, "Dc": 9e12, "aD": 0.13},
        MILLIONS,
    ),
    "kaplan_NS": Example(
        lambda x, p: (p["Nc"] / x["N"]) ** p["aN"] + (p["Sc"] / x["S"]) ** p["aS"],
        crossed(N=SIZES, S=np.geomspace(1e3, 1e6, 5)),
        {"Nc": 3e13, "aN": 0.09, "Sc": 1500.0, "aS": 0.6},
        {"N": 1e-6, "S": 1e-3},
    ),
    "gadre": Example(
        lambda x, p: p["E"] + (p["a"] * x["M"] ** p["eta"] + p["b"] * x["M"] ** -p["eta"]) * x["C"] ** -p["eta"],
        crossed(C=np.geomspace(1e17, 1e21, 5), M=np.geomspace(5, 640, 5)),
        {"E": 1.7, "a": 300.0, "b": 500.0, "eta": 0.145},
        {"C": 1e-15, "M": 1e-3},
    ),
    "gadre_downstream": Example(
        lambda x, p: p["epsilon"] - p["k"] * np.exp(-p["gamma"] * x["L"]),
        {"L": np.linspace(2.4, 5.5, 12)},
        {"epsilon": 0.88, "k": 2.5, "gamma": 0.8},
        {"L": 1 / np.log(2)},
    ),
    "data_constrained": Example(
        muennighoff,
        crossed(N=SIZES, U=np.geomspace(1e8, 1e10, 4), epochs=np.array([1.0, 2.5, 7.0, 20.0, 60.0])),
        {"E": 1.7, "A": 400.0, "alpha": 0.33, "B": 1100.0, "beta": 0.36, "R_D": 9.0, "R_N": 3.0},
        {"N": 1e-6, "D": 1e-9, "U": 1e-9},
    ),
    "context": Example(
        lambda x, p: (p["alpha"] / x["T"]) ** p["beta"] + p["gamma"],
        {"T": 2.0 ** np.arange(8, 16)},
        {"alpha": 30.0, "beta": 0.4, "gamma": 1.5},
        {"T": 1 / 1024},
    ),
    "chinchilla_context": Example(
        lambda x, p: (
            p["E"] + p["A"] / x["N"] ** p["alpha"] + p["B"] / x["D"] ** p["beta"] + p["K"] / x["T"] ** p["gamma"]
        ),
        crossed(N=SIZES, D=TOKENS, T=2.0 ** np.arange(8, 13)),
        {"E": 1.6, "A": 380.0, "B": 900.0, "K": 3.0, "alpha": 0.33, "beta": 0.31, "gamma": 0.5},
        {"N": 1e-6, "D": 1e-9, "T": 1 / 1024},
    ),
    "context_optimum": Example(
        lambda x, p: p["E"] + p["K"] / x["T"] ** p["gamma"] + p["B"] * x["T"] ** p["delta"],
        {"T": 2.0 ** np.arange(3, 14)},
        {"E": 1.2, "K": 6.0, "gamma": 0.8, "B": 0.02, "delta": 0.4},
        {"T": 1 / 1024},
    ),
    "chinchilla_context_optimum": Example(
        lambda x, p: (
            p["E"]
            + p["A"] / x["N"] ** p["alpha"]
            + p["K"] / x["T"] ** p["gamma"]
            + p["B"] * x["T"] ** p["delta"] / x["D"] ** p["beta"]
        ),
        crossed(N=SIZES, D=TOKENS, T=2.0 ** np.arange(6, 13)),
        {"E": 1.2, "K": 6.0, "gamma": 0.8, "A": 380.0, "alpha": 0.33, "B": 90.0, "delta": 0.3, "beta": 0.31},
        {"N": 1e-6, "D": 1e-9, "T": 1 / 1024},
    ),
    "bnsl_1": Example(
        broken,
        {"x": np.geomspace(100, 1e4, 24)},
        {"a": 0.3, "b": 3.0, "c0": 0.1, "c1": 1.5, "d1": 900.0, "f1": 0.2},
        {"x": 1e-3},
    ),
    "bnsl_2": Example(
        broken,
        {"x": np.geomspace(100, 1e7, 40)},
        {"a": 0.2, "b": 9.0, "c0": 0.05, "c1": 0.8, "d1": 3e3, "f1": 0.3, "c2": -0.6, "d2": 4e5, "f2": 0.25},
        {"x": 1e-3},
    ),
    "bnsl_3": Example(
        broken,
        {"x": np.geomspace(100, 1e9, 60)},
        {"a": 0.05, "b": 9.0, "c0": 0.02, "c1": 0.7, "d1": 3e3, "f1": 0.2}
        | {"c2": -0.5, "d2": 3e5, "f2": 0.3, "c3": 0.4, "d3": 3e7, "f3": 0.25},
        {"x": 1e-3},
    ),
    "farseer": Example(
        lambda x, p: (
            np.exp(p["a3"] * x["N"] ** p["gamma"] + p["b3"])
            + np.exp(p["a2"] * x["N"] ** p["beta"] + p["b2"])
            * x["D"] ** -np.exp(p["a1"] * x["N"] ** p["alpha"] + p["b1"])
        ),
        crossed(N=np.geomspace(1e8, 1e10, 8), D=np.geomspace(2e9, 2e11, 7)),
        {"a1": -0.1, "alpha": 0.13, "b1": 0.3, "a2": 70.0, "beta": -0.1, "b2": -4.0}
        | {"a3": -0.02, "gamma": 0.16, "b3": 0.9},
        {"N": 1e-6},  # the family is not closed under a change of D's unit
    ),
    "interaction": Example(
        lambda x, p: (
            p["E"]
            + p["A"] / x["N"] ** p["alpha"]
            + p["B"]
            / x["D"] ** p["beta"]
            * (x["N"] / p["N0"]) ** -p["eta"]
            * (x["D"] / p["D0"]) ** (p["beta"] * (1 - (x["N"] / p["N0"]) ** p["zeta"]))
        ),
        crossed(N=np.geomspace(1e8, 1e10, 7), D=np.geomspace(2e9, 2e11, 6)),
        {"E": 1.7, "A": 400.0, "B": 1100.0, "alpha": 0.33, "beta": 0.36, "eta": -0.1, "zeta": -0.06}
        | {"N0": 1e9, "D0": 2e10},  # the middle of these columns, where a fit has them
        {"N": 1e-6, "D": 1e-9},
    ),
}
# Repeats included: what the table holds is D.
_repeated = EXAMPLES["data_constrained"].columns
_repeated["D"] = _repeated["U"] * _repeated.pop("epochs")
SLOW = ("bnsl_2", "bnsl_3", "data_constrained", "farseer")  # to compile
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in sorted(EXAMPLES)]


def fit(name: str, columns: Mapping[str, np.ndarray], loss: np.ndarray, rho: laws.Loss | None = None) -> laws.Fit:
    residual = "raw" if name in RAW else "log"
    return laws.fit(runs_of(columns, loss), name, loss=rho or laws.l2(), residual=residual)


def noisy(example: Example) -> np.ndarray:
    return example.loss * np.exp(0.003 * np.random.default_rng(1).standard_normal(len(example.loss)))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_form_is_its_formula(name):
    example, form = EXAMPLES[name], laws.FORMS[name]
    natural = np.array([example.params[p] for p in form.params])
    value = form.loss(natural, [example.columns[letter] for letter in form.columns])
    np.testing.assert_allclose(value, example.loss, rtol=1e-12)


@pytest.mark.parametrize("rho", [laws.l2(), laws.huber(1e-3)], ids=["l2", "huber"])
@pytest.mark.parametrize("name", NAMES)
def test_a_noise_free_law_is_recovered(name, rho):
    example = EXAMPLES[name]
    found = fit(name, example.columns, example.loss, rho)
    predicted = found.predict(**{letter: example.columns[letter] for letter in found.form.columns}).loss
    np.testing.assert_allclose(predicted, example.loss, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_depends_neither_on_units_nor_on_row_order(name):
    example, loss = EXAMPLES[name], noisy(EXAMPLES[name])
    one = fit(name, example.columns, loss)
    other_units = {letter: column * example.smaller.get(letter, 1.0) for letter, column in example.columns.items()}
    other = fit(name, other_units, loss)
    assert other.objective == pytest.approx(one.objective, rel=1e-8)
    there = {letter: other_units[letter] for letter in one.form.columns}
    here = {letter: example.columns[letter] for letter in one.form.columns}
    np.testing.assert_allclose(other.predict(**there).loss, one.predict(**here).loss, rtol=1e-6)
    order = np.random.default_rng(2).permutation(len(loss))
    shuffled = fit(name, {letter: column[order] for letter, column in example.columns.items()}, loss[order])
    assert shuffled.params == one.params


def test_the_size_that_unique_tokens_are_optimal_for_is_muennighoffs_share():
    E, A, B, alpha = np.exp(0.6254804), np.exp(6.255414), np.exp(7.3049974), 0.3526596
    base = np.array([E, A, alpha, B, alpha, 15.387756, 5.309743])
    form = laws.FORMS["data_constrained"]
    # From .050987 unique tokens on, parameters are worth less than their number; up to there the base law holds.
    unique = 1e10
    for share, plain in ((0.0509865, True), (0.0509875, False)):
        n, d = share * unique, unique
        base_law = E + A / n**alpha + B / d**alpha
        assert (form.loss(base, [n, d, unique]) == pytest.approx(base_law, rel=1e-15)) == plain


def test_kaplans_joint_optimum_is_where_its_frontier_says():
    example = EXAMPLES["kaplan_ND"]
    found = fit("kaplan_ND", example.columns, example.loss)
    low, high = found.optimal(1e20), found.optimal(1e24)
    a, b = found.form.frontier(found.natural)
    assert np.log(high.N / low.N) / np.log(1e4) == pytest.approx(a, rel=1e-6)
    assert a + b == pytest.approx(1.0)


def test_bnsl_has_one_to_three_breaks():
    with pytest.raises(UserError, match="breaks must be 1, 2 or 3; got 4"):
        bnsl(4)


@pytest.mark.slow
def test_farseers_other_coordinates_leave_a_known_parameter_alone():
    example = EXAMPLES["farseer"]
    runs = runs_of(example.columns, example.loss)
    found = laws.fit(runs, "farseer", loss=laws.l2(), fixed={"b3": example.params["b3"], "alpha": 0.13})
    assert found.params == pytest.approx(dict(example.params), rel=1e-5)
    np.testing.assert_allclose(found.fitted(), found.runs.loss, rtol=1e-6)


FAR_OFF = {
    "b1": {"a1": -10.7949, "alpha": 0.00933, "b1": 12.0, "a2": 109.4383, "beta": -0.1422, "b2": -1.0902},
    "a2": {"a1": -3.1457, "alpha": 0.0276, "b1": 4.3539, "a2": -20.0, "beta": 0.0165, "b2": 31.2},
}


@pytest.mark.parametrize("name", FAR_OFF)
def test_farseers_curves_start_where_a_fixed_parameter_puts_them(name):
    """No noise: with one parameter given at its true value, far from where starts are, the others come out."""
    from scaling.laws.forms.farseer import farseer

    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e8, 6e9, 7), np.geomspace(2e9, 4e11, 6)))
    truth = FAR_OFF[name] | {"a3": -0.8279, "gamma": 0.0486, "b3": 1.4624}
    loss = farseer.loss(np.array([truth[p] for p in farseer.params]), [n, d])
    runs = laws.Runs({"params": n, "tokens": d, "loss": loss}, trusted=True)
    found = laws.fit(runs, "farseer", loss=laws.l2(), starts=16, fixed={name: truth[name]})
    np.testing.assert_allclose(found.fitted(), found.runs.loss, rtol=1e-6)
    assert found.diagnostics.starts_at_optimum > 0.2
