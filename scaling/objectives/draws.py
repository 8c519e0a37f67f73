"""Random numbers per window, independent of the batch or host that the window falls to."""

import numpy as np


def random(seed: int, stream: int, first: int, shape: tuple[int, int]) -> np.ndarray:
    """uint64 [rows, columns]: rows from number `first` on of an endless table, each computed independently (Philox,
    Salmon et al. 2011)."""
    rows, columns = shape
    blocks = -(-columns // 4)  # the generator produces four numbers per counter value
    raw = np.random.Philox(key=[seed, stream], counter=first * blocks).random_raw(rows * blocks * 4)
    return raw.reshape(rows, blocks * 4)[:, :columns]
