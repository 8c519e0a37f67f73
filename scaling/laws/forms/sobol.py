"""Points spread evenly over the unit cube, for a search to start from.

SciPy has the sequence too, in a module that takes longer to import than a fit takes.
"""

import numpy as np
from numpy.typing import NDArray

# Primitive polynomial, as bits, and first direction numbers of dimensions 2, 3, …: Joe and Kuo 2008, table
# new-joe-kuo-6. The first dimension is the van der Corput sequence.
_DIRECTIONS = (
    (3, (1,)),
    (7, (1, 3)),
    (11, (1, 3, 1)),
    (13, (1, 1, 1)),
    (19, (1, 1, 3, 3)),
    (25, (1, 3, 5, 13)),
    (37, (1, 1, 5, 5, 17)),
    (41, (1, 1, 5, 5, 5)),
    (47, (1, 1, 7, 11, 19)),
    (55, (1, 1, 5, 1, 1)),
    (59, (1, 1, 1, 3, 11)),
    (61, (1, 3, 5, 5, 31)),
    (67, (1, 3, 3, 9, 7, 49)),
    (91, (1, 1, 1, 15, 21, 21)),
    (97, (1, 3, 1, 13, 27, 49)),
    (103, (1, 1, 1, 15, 7, 5)),
    (109, (1, 3, 1, 15, 13, 25)),
    (115, (1, 1, 5, 5, 19, 61)),
    (131, (1, 3, 7, 11, 23, 15, 103)),
    (137, (1, 3, 7, 13, 13, 15, 69)),
)
_BITS = 30


def sobol(count: int, dimensions: int) -> NDArray[np.float64]:
    """The Sobol sequence without its first point (the corner): [count, dimensions], inside (0, 1)."""
    if dimensions > len(_DIRECTIONS) + 1:
        from scipy.stats import qmc

        points = qmc.Sobol(dimensions, scramble=False).random_base2(int(count).bit_length())
        return np.asarray(points[1 : count + 1], np.float64)
    index = np.arange(1, count + 1)
    gray = index ^ (index >> 1)
    bits = (gray[:, None] >> np.arange(_BITS)) & 1
    numbers = np.array([_direction_numbers(dimension) for dimension in range(dimensions)])
    return np.asarray(np.bitwise_xor.reduce(bits[:, None] * numbers, axis=-1) / 2.0**_BITS)


def _direction_numbers(dimension: int) -> list[int]:
    """One for each bit of a point's Gray code, as whole numbers of _BITS bits."""
    if dimension == 0:
        return [1 << (_BITS - 1 - i) for i in range(_BITS)]
    polynomial, first = _DIRECTIONS[dimension - 1]
    degree = len(first)
    numbers = [m << (_BITS - 1 - i) for i, m in enumerate(first)]
    for i in range(degree, _BITS):
        value = numbers[i - degree] ^ (numbers[i - degree] >> degree)
        for k in range(1, degree):
            if polynomial >> (degree - k) & 1:
                value ^= numbers[i - k]
        numbers.append(value)
    return numbers
