"""Vocabulary: Tao et al. 2024, Scaling laws with vocabulary (2407.13623), section 4.3, approach 3.

    L = −E + A1/Nnv^α1 + A2/Nv^α2 + B/D^β        (tao)
    the same with α1 = β, as the source fits it   (tao_equal)

L is the unigram-normalised loss: the mean of −log p(w | context)/p(w), that is the loss less that of a model which
knows only how often each token occurs. It compares vocabularies of different sizes, and it is negative for every
model better than word counts, hence −E; fit it with `Runs(…, signed=True)` and residual="raw", as the source does. A
run's record has the loss of word counts as `unigram_loss`, by the frequencies of the held-out split itself.

Columns: Nnv, parameters outside the vocabulary's matrices; Nv, parameters in them (vocabulary size × d_model);
D, training tokens, counted with each run's own vocabulary.

Parameters: E and the exponents real; A1, A2, B positive, in units of their columns. Starts: exponents spread evenly,
the rest by least squares.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from scaling.laws.forms.feed import SIZES, Feed
from scaling.laws.forms.form import Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.variable_projection import Array, Numbers, least_squares, variable_projection

_COLUMNS = ("Nnv", "Nv", "D")
_FEEDS = {
    "Nnv": Feed("params_non_embedding", SIZES, "parameters outside the vocabulary's matrices"),
    "Nv": Feed(
        "params_total - params_non_embedding",
        (*SIZES, "model.vocab", "data.tokenizer.vocab"),
        "parameters of the vocabulary's matrices (with learned positions, theirs too)",
    ),
}
_LOSS = Feed("loss - unigram_loss", (), "held out, less that of a model that counts words", in_unit=True)
_SPAN = (0.05, 1.2)


def _tao(name: str, exponents: tuple[str, str, str], formula: str, note: str) -> Form:
    terms = list(zip(("A1", "A2", "B"), _COLUMNS, exponents, strict=True))
    distinct = tuple(dict.fromkeys(exponents))
    parameters = (
        Parameter("E", "real"),
        *(Parameter(amplitude, powers=(Power(column, exponent),)) for amplitude, column, exponent in terms),
        *(Parameter(exponent, "real") for exponent in distinct),
    )

    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        return sum((p[amplitude] * xp.exp(-p[e] * x[column]) for amplitude, column, e in terms), -p["E"])

    def solve(own: Numbers, x: Mapping[str, Array], y: Array, weights: Array) -> dict[str, float]:
        basis = [np.exp(-own[exponent] * x[column]) for _, column, exponent in terms]
        offset, *found = least_squares([-1.0, *basis], y, weights)
        least = 0.02 * float(np.ptp(y)) + 1e-12  # no term starts at nothing, where its logarithm would stay
        amplitudes = {term[0]: max(value, least) for term, value in zip(terms, found, strict=True)}
        return {"E": offset, **amplitudes}

    return Form(
        name=name,
        formula=formula,
        source=f"Tao et al. 2024 (2407.13623), section 4.3{note}",
        columns=_COLUMNS,
        parameters=parameters,
        value=value,
        starts=variable_projection(_COLUMNS, [p.name for p in parameters], dict.fromkeys(distinct, _SPAN), solve),
        feeds=_FEEDS,
        predicts=_LOSS,
        signed=True,
    )


tao = _tao("tao", ("alpha1", "alpha2", "beta"), "L = -E + A1/Nnv^alpha1 + A2/Nv^alpha2 + B/D^beta", "")
tao_equal = _tao(
    "tao_equal", ("beta", "alpha2", "beta"), "L = -E + A1/Nnv^beta + A2/Nv^alpha2 + B/D^beta", ", alpha1 = beta"
)
