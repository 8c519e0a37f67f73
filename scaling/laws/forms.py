"""The laws that can be fitted, each a documented object: formula, source, parameters, where to start.

A form computes log L from θ, its parameters as the solver sees them: amplitudes and the offset as logarithms, in
units N0, D0, … of the data's own geometric means, so that a fit depends neither on units nor on scales.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.starts import sobol

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Form:
    """A law L(columns; parameters)."""

    name: str
    formula: str
    source: str
    columns: tuple[str, ...]
    """columns of `Runs` it reads"""
    params: tuple[str, ...]
    """natural parameters in the order of θ"""
    log_loss: Callable[[Sequence[Any], Sequence[Any], ModuleType], Any]
    """(θ, log(column / unit) of each column, numpy or jax.numpy) -> log L"""
    to_natural: Callable[[Array, Array], Array]
    """(θ [..., k], log units [c]) -> natural parameters [..., k]"""
    to_theta: Callable[[Array, Array], Array]
    """(natural parameters [..., k], log units [c]) -> θ [..., k]"""
    starts: Callable[[Array, Array, int], Array]
    """(log(column / unit) [c, points], log L [points], count) -> θ [count, k]"""
    frontier: Callable[[Array], tuple[Array, Array]] | None = None
    """natural parameters [..., k] -> the exponents a, b of N* ∝ C^a, D* ∝ C^b at C ∝ N·D"""

    def __repr__(self) -> str:
        return f"Form({self.name}: {self.formula})"

    def loss(self, natural: Array, columns: Sequence[Any]) -> Array:
        """L at natural parameters [..., k] and columns (N, D, … in their own units), broadcast together."""
        theta = self.to_theta(np.asarray(natural, np.float64), np.zeros(len(self.columns)))
        logs = [np.log(np.asarray(column, np.float64)) for column in columns]
        return np.exp(self.log_loss(list(np.moveaxis(theta, -1, 0)), logs, np))


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
    n_linear = offset + len(terms)
    which = np.array([exponents.index(term.exponent) for term in terms])
    columns = tuple(term.column for term in terms)

    def log_loss(theta: Sequence[Any], x: Sequence[Any], xp: ModuleType) -> Any:
        total = xp.exp(theta[0]) if offset else 0.0
        for j in range(len(terms)):
            total = total + xp.exp(theta[offset + j] - theta[n_linear + which[j]] * x[j])
        return xp.log(total)

    def to_natural(theta: Array, units: Array) -> Array:
        natural = theta.copy()
        natural[..., offset:n_linear] += theta[..., n_linear + which] * units
        natural[..., :n_linear] = np.exp(natural[..., :n_linear])
        return natural

    def to_theta(natural: Array, units: Array) -> Array:
        theta = natural.copy()
        # An amplitude that a fit drove to nothing is 0 in float64; its logarithm stays finite here.
        theta[..., :n_linear] = np.log(np.maximum(natural[..., :n_linear], 1e-300))
        theta[..., offset:n_linear] -= natural[..., n_linear + which] * units
        return theta

    def starts(x: Array, y: Array, count: int) -> Array:
        known = np.array(literature, np.float64).reshape(-1, len(exponents))
        grid = 0.05 + 1.15 * sobol(max(count - len(known), 0), len(exponents) + 1)
        guesses = np.concatenate([known, grid[:, :-1]])[:count]
        shares = np.concatenate([np.full(len(known), 0.5), (grid[:, -1] - 0.05) / 1.15])[:count]
        linear = [
            _linear_part(x, y, guess[which], offset, share) for guess, share in zip(guesses, shares, strict=True)
        ]
        return np.concatenate([np.array(linear), guesses], axis=1)

    parts = [f"{t.amplitude}/{t.column}^{t.exponent}" for t in terms]
    return Form(
        name=name,
        formula="L = " + " + ".join((["E"] if offset else []) + parts),
        source=source,
        columns=columns,
        params=(("E",) if offset else ()) + tuple(t.amplitude for t in terms) + exponents,
        log_loss=log_loss,
        to_natural=to_natural,
        to_theta=to_theta,
        starts=starts,
        frontier=_frontier(n_linear, which) if columns == ("N", "D") else None,
    )


def _linear_part(x: Array, y: Array, exponents: Array, offset: bool, share: float) -> Array:
    """log of the amplitudes, least squares in L at given exponents; E starts at `share` of the least loss."""
    loss = np.exp(y)
    basis = np.exp(-exponents[:, None] * x)
    level = share * loss.min() if offset else 0.0
    amplitudes = np.linalg.lstsq(basis.T, loss - level, rcond=None)[0]
    floor = 0.05 * (loss.mean() - level) / len(exponents) / basis.mean(1)
    logs = np.log(np.maximum(amplitudes, floor))
    return np.concatenate([[np.log(max(level, 1e-3 * loss.min()))], logs]) if offset else logs


def _frontier(n_linear: int, which: NDArray[np.int64]) -> Callable[[Array], tuple[Array, Array]]:
    def exponents(natural: Array) -> tuple[Array, Array]:
        alpha, beta = natural[..., n_linear + which[0]], natural[..., n_linear + which[1]]
        return beta / (alpha + beta), alpha / (alpha + beta)

    return exponents


_N, _D = Term("A", "N", "alpha"), Term("B", "D", "beta")
_HOFFMANN = "Hoffmann et al. 2022 (2203.15556), eq. 10"
# α, β of Hoffmann et al. as printed, Besiroglu et al. 2024 (2404.10102), Muennighoff et al. 2023 (2305.16264)
_LITERATURE = ((0.34, 0.28), (0.3478, 0.3658), (0.3527, 0.3527))


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


chinchilla = additive("chinchilla", (_N, _D), True, _HOFFMANN, _LITERATURE)
chinchilla_equal = additive(
    "chinchilla_equal",
    (_N, Term("B", "D", "alpha")),
    True,
    f"{_HOFFMANN}, with α = β as Muennighoff et al. 2023 (2305.16264)",
    ((0.3527,), (0.34,)),
)
chinchilla_no_offset = additive(
    "chinchilla_no_offset", (_N, _D), False, f"{_HOFFMANN}, with E = 0", ((0.076, 0.095), (0.155, 0.155))
)

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        chinchilla,
        chinchilla_equal,
        chinchilla_no_offset,
        *(power_law(column, offset) for column in ("N", "D", "C") for offset in (True, False)),
    )
}


def get_form(form: str | Form) -> Form:
    """The form of that name. Raises UserError with the names that there are."""
    if isinstance(form, Form):
        return form
    if form not in FORMS:
        raise UserError(f"no law {form!r}; there are {', '.join(FORMS)}")
    return FORMS[form]
