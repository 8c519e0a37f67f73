"""Central intervals of draws."""

from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.arrays import Array

Interval = tuple[float, float]


def interval(values: Array, level: float) -> tuple[Any, Any]:
    """The central share `level` of draws: from the (1−level)/2 to the (1+level)/2 quantile of the last axis.

    Raises UserError for a level outside (0, 1).
    """
    check_level(level)
    # Draws may be infinite (a minimum that some draws do not have); "lower"/"higher" never subtract infinities.
    # Of a draw without a number (exponents below zero, no optimum) either end may be true.
    lost = np.isnan(values)
    low = np.quantile(np.where(lost, -np.inf, values), (1 - level) / 2, axis=-1, method="lower")
    high = np.quantile(np.where(lost, np.inf, values), (1 + level) / 2, axis=-1, method="higher")
    return (low, high) if np.ndim(low) else (float(low), float(high))


def check_level(level: float) -> None:
    """Raises UserError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1, such as 0.9; got {level!r}")


def require_draws(n: int) -> None:
    """Raises UserError for fewer draws than an interval has ends."""
    if n < 2:
        raise UserError(f"n must be at least 2; got {n}")
