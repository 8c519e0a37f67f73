"""Gadre et al. 2024 (2403.08540): the loss of over-trained models, and the downstream error that follows from it.

`gadre` (eq. 4): L = E + (a·M^η + b·M^−η)·C^−η of columns C (training FLOPs, 6·N·D where the table has none) and
M = D/N. With C = 6·N·D it is Chinchilla's law with both exponents 2η. E, a and b are positive, sought as logarithms,
η is real; a carries C^η·M^−η, b carries C^η·M^η. Starts spread η and E's share of the least loss, a and b follow by
least squares.

`gadre_downstream` (eq. 5): error = ε − k·exp(−γ·L) of column L, a loss (`Runs(…, L="loss_c4", loss="err")`). ε, k and
γ are positive, sought as logarithms; γ carries 1/L. Starts spread γ, ε and k follow by least squares. Gadre et al.
fit both to raw residuals; `Chain` puts one after the other.
"""

from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.feed import LOSS, Feed
from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import separable, spread_starts

_PAPER = "Gadre et al. 2024 (2403.08540)"
_PARAMS = ("E", "a", "b", "eta")


def _loss(p: Values, x: Values, xp: ModuleType) -> Any:
    by_ratio = p["a"] * xp.exp(p["eta"] * x["M"]) + p["b"] * xp.exp(-p["eta"] * x["M"])
    return p["E"] + by_ratio * xp.exp(-p["eta"] * x["C"])


def _error(p: Values, x: Values, xp: ModuleType) -> Any:
    return p["epsilon"] - p["k"] * xp.exp(-p["gamma"] * xp.exp(x["L"]))


def _error_starts(x: Array, y: Array, count: int) -> Array:
    loss, rows = np.exp(x[0]), []
    for gamma in spread_starts(count, {"gamma": (0.05, 30.0)})["gamma"]:
        basis = np.stack([np.ones_like(loss), -np.exp(-gamma * (loss - loss.min()))], -1)
        level, drop = np.linalg.lstsq(basis, y, rcond=None)[0]
        drop = max(drop, 1e-2 * np.ptp(y)) * np.exp(gamma * loss.min())
        rows.append([max(level, y.max()), drop, gamma])
    return np.array(rows)


gadre = Form(
    name="gadre",
    formula="L = E + (a·M^η + b·M^−η)·C^−η, M = D/N",
    source=f"{_PAPER}, eq. 4",
    columns=("C", "M"),
    parameters=(
        Parameter("E"),
        Parameter("a", powers=(Power("C", "eta"), Power("M", "eta", -1.0))),
        Parameter("b", powers=(Power("C", "eta"), Power("M", "eta"))),
        Parameter("eta", "real"),
    ),
    value=_loss,
    starts=separable(
        _loss,
        ("C", "M"),
        _PARAMS,
        spans={"eta": (0.02, 0.6)},
        linear=("E", "a", "b"),
        offset="E",
        literature=[{"eta": eta} for eta in (0.121, 0.136, 0.127)],
    ),
)

gadre_downstream = Form(
    name="gadre_downstream",
    formula="error = ε − k·exp(−γ·L)",
    source=f"{_PAPER}, eq. 5",
    columns=("L",),
    parameters=(Parameter("epsilon"), Parameter("k"), Parameter("gamma", powers=(Power("L", None, -1.0),))),
    value=_error,
    feeds={"L": LOSS},
    predicts=Feed("downstream_error", (), "error on the tasks"),
    starts=_error_starts,
)
