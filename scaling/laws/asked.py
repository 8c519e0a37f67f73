"""Numbers that a user asks with, of any library or as texts such as 1e21, as Python's own."""

from operator import index
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.errors import shown as quoted
from scaling.numbers import to_number

BUDGET = "C must be a positive number of FLOPs"


def real(value: Any, must: str) -> float:
    """A finite number as a float, from a number of any type or a text such as 1e21 or 7B.

    Integers beyond 64 bits, which NumPy does not compute with, are numbers, too. Raises UserError for anything else,
    beginning with `must`.
    """
    try:
        found = to_number(value)
    except (TypeError, ValueError, OverflowError):
        found = np.nan
    if not np.isfinite(found):
        raise UserError(f"{must}; got {quoted(value)}{'; give one at a time' if np.ndim(value) else ''}")
    return found


def amount(value: Any, must: str = BUDGET) -> float:
    """A finite number above zero, as `real`."""
    if (found := real(value, must)) <= 0:
        raise UserError(f"{must}; got {quoted(value)}")
    return found


def whole(value: Any, name: str, least: int = 0) -> int:
    """A whole number from `least` on, from an integer or a float without a fraction (1e4). Raises UserError for
    anything else."""
    try:
        found = int(value) if isinstance(value, float | np.floating) else index(value)
        if found == value and found >= least:
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{name} must be a whole number, at least {least}; got {quoted(value)}")
