"""Central intervals of draws."""

from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array

Interval = tuple[float, float]
OUTSIDE = 0.99
"""mean number of draws outside an interval below which its ends are just the smallest and the largest draw"""


LEAST = 1e-9
"""smallest level of an interval: below it the steps of a search vanish"""


def interval(values: Array, level: float) -> tuple[Any, Any]:
    """The central share `level` of draws: from the (1−level)/2 to the (1+level)/2 quantile of the last axis.

    Raises UserError for a level outside (0, 1), and for one whose ends lie beyond all draws.
    """
    check_level(level)
    require_draws(values.shape[-1], level)
    # Draws may be infinite (where a draw has no minimum); "lower"/"higher" never subtract infinities.
    # A NaN draw (exponents below zero, no optimum) could lie beyond either end.
    lost = np.isnan(values)
    low = np.quantile(np.where(lost, -np.inf, values), (1 - level) / 2, axis=-1, method="lower")
    high = np.quantile(np.where(lost, np.inf, values), (1 + level) / 2, axis=-1, method="higher")
    return (low, high) if np.ndim(low) else (float(low), float(high))


def check_level(level: float) -> None:
    """Raises UserError unless LEAST <= level < 1."""
    if not LEAST <= level < 1:
        raise UserError(f"level must lie between 0 and 1, such as 0.9; got {level!r}")


def reach(n: int, level: float) -> bool:
    """Whether the ends of an interval of that level lie among n draws: at .95, one of 20 lies outside."""
    return n >= 2 and n * (1 - level) >= OUTSIDE


def require_draws(n: int, level: float = 0.5) -> None:
    """Raises UserError where there are too few draws for an interval of that level."""
    if n < 2:
        raise UserError(f"n must be at least 2; got {n}")
    if not reach(n, level):
        raise UserError(
            f"level {level:.6g} needs {int(np.ceil(1 / (1 - level) - 1e-6))} draws or more, for its ends lie beyond "
            f"all of {n}: bootstrap(n) with more (`scaling fit --bootstrap`), or ask for a lower level"
        )
