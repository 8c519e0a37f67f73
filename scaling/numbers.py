"""Numbers as people write them (7B, 1.4T, 350M, 1e24), and divisors."""

import re
from math import isqrt
from typing import Any

SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def to_number(value: Any) -> float:
    """A number, from a number or a text with or without a suffix of `SUFFIXES`. Raises ValueError or TypeError for
    anything else, and for True and False."""
    if isinstance(value, bool):
        raise TypeError(f"{value} is not a number")
    if isinstance(value, str):
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", value.strip()).replace("_", "")
        scale = SUFFIXES.get(text[-1:], 1.0)
        return float(text[:-1] if scale != 1.0 else text) * scale
    return float(value)


def to_seed(value: str) -> int:
    """A seed, an integer from 0 on. Raises ValueError for anything else."""
    if (seed := int(value)) < 0:
        raise ValueError(f"a seed is 0 or more, got {seed}")
    return seed


def divisors(n: int) -> list[int]:
    """All divisors of `n` ≥ 1, the smallest first, in O(√n) steps."""
    small = [k for k in range(1, isqrt(n) + 1) if n % k == 0]
    return [*small, *(n // k for k in reversed(small) if k * k != n)]
