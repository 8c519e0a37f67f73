"""Sums of power laws: L = E + Σ amplitude / column^exponent."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from scaling.errors import UserError
from scaling.laws.forms.form import Array, Form, Values
from scaling.laws.forms.parameter import Parameter, Power
from scaling.laws.forms.starts import separable

EXPONENTS = (0.05, 1.2)
"""where exponents start"""


@dataclass(frozen=True)
class Term:
    """amplitude · column^−exponent; two terms may share the name of an exponent."""

    amplitude: str
    column: str
    exponent: str


def additive(
    name: str, terms: tuple[Term, ...], offset: bool, source: str, literature: tuple[tuple[float, ...], ...]
) -> Form:
    """L = E + Σ amplitude · column^−exponent, with amplitudes and E positive.

    literature: published exponents, one for each distinct exponent, tried as starts.
    """
    exponents = tuple(dict.fromkeys(term.exponent for term in terms))
    columns = tuple(term.column for term in terms)
    amplitudes = tuple(Parameter(t.amplitude, powers=(Power(t.column, t.exponent),)) for t in terms)
    parameters = (*((Parameter("E"),) if offset else ()), *amplitudes, *(Parameter(e, "real") for e in exponents))
    names = tuple(parameter.name for parameter in parameters)

    def value(p: Values, x: Values, xp: ModuleType) -> Any:
        total = p["E"] if offset else 0.0
        for term in terms:
            total = total + p[term.amplitude] * xp.exp(-p[term.exponent] * x[term.column])
        return total

    parts = [f"{t.amplitude}/{t.column}^{t.exponent}" for t in terms]
    return Form(
        name=name,
        formula="L = " + " + ".join((["E"] if offset else []) + parts),
        source=source,
        columns=columns,
        parameters=parameters,
        value=value,
        starts=separable(
            value,
            columns,
            names,
            spans=dict.fromkeys(exponents, EXPONENTS),
            linear=[p.name for p in parameters if p.kind == "positive"],
            offset="E" if offset else None,
            literature=[dict(zip(exponents, known, strict=True)) for known in literature],
        ),
        frontier=_frontier([names.index(term.exponent) for term in terms]) if columns == ("N", "D") else None,
    )


def _frontier(where: list[int]) -> Callable[[Array], tuple[Array, Array]]:
    def exponents(natural: Array) -> tuple[Array, Array]:
        alpha, beta = natural[..., where[0]], natural[..., where[1]]
        return beta / (alpha + beta), alpha / (alpha + beta)

    return exponents


N, D = Term("A", "N", "alpha"), Term("B", "D", "beta")
_HOFFMANN = "Hoffmann et al. 2022 (2203.15556), eq. 10"
# α, β of Hoffmann et al. as printed, Besiroglu et al. 2024 (2404.10102), Muennighoff et al. 2023 (2305.16264)
LITERATURE = ((0.34, 0.28), (0.3478, 0.3658), (0.3527, 0.3527))


def power_law(column: str = "C", offset: bool = True) -> Form:
    """L = E + A/x^α of one column x (N, D or C), or without E: Kaplan et al. 2020 (2001.08361), eqs. 1.1 to 1.3."""
    if column not in ("N", "D", "C"):
        raise UserError(f"power_law: column must be N, D or C; got {column!r}")
    published = {"N": 0.076, "D": 0.095, "C": 0.05}[column]
    return additive(
        f"power_law_{column}" if offset else f"power_law_{column}_no_offset",
        (Term("A", column, "alpha"),),
        offset,
        "Kaplan et al. 2020 (2001.08361), eqs. 1.1 to 1.3" + (" with an offset" if offset else ""),
        ((published,), (0.155,), (0.35,)),
    )


chinchilla = additive("chinchilla", (N, D), True, _HOFFMANN, LITERATURE)
chinchilla_equal = additive(
    "chinchilla_equal",
    (N, Term("B", "D", "alpha")),
    True,
    f"{_HOFFMANN}, with α = β as Muennighoff et al. 2023 (2305.16264)",
    ((0.3527,), (0.34,)),
)
chinchilla_no_offset = additive(
    "chinchilla_no_offset", (N, D), False, f"{_HOFFMANN}, with E = 0", ((0.076, 0.095), (0.155, 0.155))
)
