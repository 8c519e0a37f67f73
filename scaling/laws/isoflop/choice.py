"""Which curves the minima are read from: parabolas over all sizes, over those near the minima, or splines."""

from dataclasses import dataclass, replace

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array, Labels
from scaling.laws.isoflop.akima import Splines, fit_splines
from scaling.laws.isoflop.minima import MinimumMethod, Weights
from scaling.laws.isoflop.misfit import Misfit, misfit, narrower
from scaling.laws.isoflop.parabola import Curvature, Parabolas, default_curvature, fit_parabolas
from scaling.laws.isoflop.published import TokenParabolas, fit_token_parabolas
from scaling.laws.table.runs import Runs

Curves = Parabolas | Splines | TokenParabolas


@dataclass(frozen=True, eq=False)
class Choice:
    """The curves of all budgets, their minima [1 + draws, budgets], and what to say of the choice."""

    groups: list[Labels]
    """rows of each budget that take part"""
    curves: Curves
    minima: tuple[Array, Array]
    method: MinimumMethod
    curvature: Curvature | None = None
    doubt: Array | float = 0.0
    """[budgets], or of all: standard deviations of what log N* may be off, all together (`isoflop.misfit`)"""
    notes: tuple[str, ...] = ()


def choose(
    runs: Runs,
    groups: list[Labels],
    method: MinimumMethod | None,
    curvature: Curvature | None,
    weights: Weights,
    draws: int,
    rng: np.random.Generator,
) -> Choice:
    """The curves through the rows of each group, by the rule of `isoflop`."""
    if weights == "ols":
        tokens = fit_token_parabolas(runs, groups)
        return Choice(groups, tokens, tokens.minima(draws, rng), "parabola", "own")
    if method == "akima":
        splines = fit_splines(runs, groups)
        return Choice(groups, splines, splines.minima(draws, rng), "akima")
    parabolas, found = _parabolas(runs, groups, curvature, draws, rng)
    if not found.matters(parabolas.minima[0]):
        return replace(parabolas, doubt=found.doubt)
    if method is not None or curvature is not None:
        return replace(parabolas, notes=(f"{found}; see method=None",))
    for window in narrower(runs, groups, found.lowest):
        near, left = _parabolas(runs, window.groups, None, draws, rng)
        if not left.matters(near.minima[0]):
            said = f"{found}; sizes further than a factor of {np.exp(window.half):.2g} from the minima were left out"
            # a cubic term pulls a vertex by the square of the window, and shows best in all sizes
            return replace(near, doubt=found.shift * window.share**2, notes=(said,))
    try:
        splines = fit_splines(runs, groups)
    except UserError as error:
        return replace(parabolas, notes=(f"{found}, and splines cannot be taken ({error})",))
    return Choice(groups, splines, splines.minima(draws, rng), "akima", notes=(f"{found}; splines were taken",))


def _parabolas(
    runs: Runs, groups: list[Labels], curvature: Curvature | None, draws: int, rng: np.random.Generator
) -> tuple[Choice, Misfit]:
    bend = curvature or default_curvature(groups)
    parabolas = fit_parabolas(runs, groups, bend)
    found = misfit(runs, groups, bend, parabolas)
    return Choice(groups, parabolas, parabolas.minima(draws, rng), "parabola", bend), found
