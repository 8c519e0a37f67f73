"""The choice of curves for the minima: parabolas over all sizes, parabolas over those near the minima, or splines."""

from dataclasses import dataclass, replace
from typing import Literal

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
Fitted = Literal["parabola", "skewed"]


@dataclass(frozen=True, eq=False)
class Choice:
    """The curves of all budgets, their minima [1 + draws, budgets], and notes about the choice."""

    groups: list[Labels]
    """rows of each budget that take part"""
    curves: Curves
    minima: tuple[Array, Array]
    method: MinimumMethod
    curvature: Curvature | None = None
    doubt: tuple[Array | float, Array | float] = (0.0, 0.0)
    """[budgets]: standard deviations of the possible errors of log N* and log L*, common to all (`isoflop.misfit`)"""
    notes: tuple[str, ...] = ()

    @property
    def skew(self) -> tuple[float, float] | None:
        """The skew of the curves and its standard deviation; None for curves without skew by assumption."""
        if self.method != "skewed" or not isinstance(self.curves, Parabolas):
            return None
        return self.curves.skews.mean, self.curves.skews.sd


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
    first: Fitted = "skewed" if method is None else method
    parabolas, found = _parabolas(runs, groups, first, curvature, draws, rng)
    if not found.matters(parabolas.minima[0]):
        return parabolas
    if method is not None or curvature is not None:
        return replace(parabolas, notes=(f"{found}; see method=None",))
    for window in narrower(runs, groups, found.lowest):
        near, left = _parabolas(runs, window.groups, first, None, draws, rng)
        if not left.matters(near.minima[0]):
            note = f"{found}; sizes more than a factor of {np.exp(window.half):.2g} from the minima were left out"
            # the misfit shows best over all sizes; its pull on a minimum shrinks with the square of the window
            (off, lift), (wide_off, wide_lift) = near.doubt, found.doubt
            share = window.share**2
            doubt = np.hypot(off, share * wide_off), np.hypot(lift, share * wide_lift)
            return replace(near, doubt=doubt, notes=(note,))
    try:
        splines = fit_splines(runs, groups)
    except UserError as error:
        return replace(parabolas, notes=(f"{found}, and splines are not possible ({error})",))
    return Choice(groups, splines, splines.minima(draws, rng), "akima", notes=(f"{found}; splines were used",))


def _parabolas(
    runs: Runs,
    groups: list[Labels],
    method: Fitted,
    curvature: Curvature | None,
    draws: int,
    rng: np.random.Generator,
) -> tuple[Choice, Misfit]:
    bend = curvature or default_curvature(groups)
    parabolas = fit_parabolas(runs, groups, bend, skewed=method == "skewed")
    found = misfit(runs, groups, bend, parabolas)
    doubt = found.doubt if method == "skewed" else (0.0, 0.0)
    return Choice(groups, parabolas, parabolas.minima(draws, rng), method, bend, doubt), found
