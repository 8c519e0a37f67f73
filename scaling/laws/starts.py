"""Points spread evenly over the unit cube, for a search to start from."""

import numpy as np
from numpy.typing import NDArray

# Primitive polynomial (degree, coefficients) and first direction numbers of dimensions 2, 3, …:
# Joe and Kuo 2008, table new-joe-kuo-6. The first dimension is the van der Corput sequence.
_DIRECTIONS = (
    (1, 0, (1,)),
    (2, 1, (1, 3)),
    (3, 1, (1, 3, 1)),
    (3, 2, (1, 1, 1)),
    (4, 1, (1, 1, 3, 3)),
    (4, 4, (1, 3, 5, 13)),
    (5, 2, (1, 1, 5, 5, 17)),
)
_BITS = 32


def sobol(count: int, dimensions: int) -> NDArray[np.float64]:
    """The Sobol sequence without its first point (the corner): [count, dimensions], inside (0, 1).

    Raises ValueError beyond 8 dimensions.
    """
    if not 1 <= dimensions <= len(_DIRECTIONS) + 1:
        raise ValueError(f"sobol: 1 to {len(_DIRECTIONS) + 1} dimensions; got {dimensions}")
    points = np.zeros((count, dimensions), np.float64)
    for dimension in range(dimensions):
        numbers = _direction_numbers(dimension)
        state = 0
        for i in range(count):
            # Gray code: from point i to i + 1 flips the direction of the lowest zero bit of i.
            state ^= numbers[((i + 1) & -(i + 1)).bit_length() - 1]
            points[i, dimension] = state / 2**_BITS
    return points


def _direction_numbers(dimension: int) -> list[int]:
    if dimension == 0:
        return [1 << (_BITS - 1 - i) for i in range(_BITS)]
    degree, coefficients, first = _DIRECTIONS[dimension - 1]
    numbers = [m << (_BITS - 1 - i) for i, m in enumerate(first)]
    for i in range(degree, _BITS):
        value = numbers[i - degree] ^ (numbers[i - degree] >> degree)
        for k in range(1, degree):
            if coefficients >> (degree - 1 - k) & 1:
                value ^= numbers[i - k]
        numbers.append(value)
    return numbers
