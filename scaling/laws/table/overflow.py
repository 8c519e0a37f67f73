"""FLOPs that overflowed an integer type and wrapped to positive values, which range checks do not catch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.laws.arrays import Array

CONVENTIONS = 12.0
"""factor by which a correct count of FLOPs may differ from 6·N·D: conventions differ this much at toy sizes"""
LEAST = 1e-4
"""share of an integer type's range: wrapped values lie anywhere in it; smaller ones are more likely in another
unit"""


def overflowed(given: NDArray[Any], C: Array, N: Array, D: Array) -> NDArray[np.bool_]:
    """Which rows' FLOPs are a product that overflowed an integer type.

    given: C as read, whose type limits its size; C, N, D: [rows], as floats.

    For integer columns: values too small for 6·N·D by any convention where 6·N·D is beyond the type's range. For any
    column: values equal to 6·N·D, or 6 times N·D, modulo 2^32 or 2^64, to the last digit.
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
    """The values of 6·product if it, or the product before it is multiplied by 6.0, wraps around."""
    ranges = (2**32, 2**64)
    late = {float(6 * product % size) for size in ranges if 6 * product >= size}
    return late | {6.0 * (product % size) for size in ranges if product >= size}
