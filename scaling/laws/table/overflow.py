"""FLOPs that overflowed whole numbers and came out positive, which no range check sees."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.arrays import Array

CONVENTIONS = 12.0
"""how many times off 6·N·D an honest count of FLOPs may be: by so much conventions differ at toy sizes"""
LEAST = 1e-4
"""of a whole number's range: wrapped values lie anywhere in it; smaller ones are rather FLOPs in another unit"""


def overflowed(given: NDArray[Any], C: Array, N: Array, D: Array) -> NDArray[np.bool_]:
    """Which rows' FLOPs are what is left of a product too large for whole numbers.

    given: C as it came, whose type tells how large it can be; C, N, D: [rows], as floats.

    Of whole numbers: those too small for 6·N·D by any convention where 6·N·D is beyond their range. Of any numbers:
    those that are 6·N·D, or 6 times N·D, modulo 2^32 or 2^64 to the last digit.
    """
    product = 6.0 * N * D
    found = np.zeros(len(C), np.bool_)
    if given.dtype.kind in "iu":
        largest = float(np.iinfo(given.dtype).max)
        found = (product > largest) & (product > CONVENTIONS * C) & (C / largest > LEAST)
    whole = (N % 1 == 0) & (D % 1 == 0)
    for i in np.flatnonzero(whole & (product >= 2.0**32)):
        found[i] |= C[i] in _wrapped(int(N[i]) * int(D[i]))
    return found


def _wrapped(product: int) -> set[float]:
    """What 6·product comes out as where it, or the product before it is multiplied by 6.0, wraps around."""
    ranges = (2**32, 2**64)
    late = {float(6 * product % size) for size in ranges if 6 * product >= size}
    return late | {6.0 * (product % size) for size in ranges if product >= size}
