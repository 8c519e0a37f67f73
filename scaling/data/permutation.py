"""A stateless permutation: the i-th element is computed, not looked up, so that iteration can start anywhere."""

import hashlib

import numpy as np

ROUNDS = 12
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of splitmix64 (Steele et al. 2014)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Permutation:
    """A bijection of range(n), selected by (seed, stream).

    An alternating unbalanced Feistel network over the next power of two, with cycle walking: results outside range(n)
    are encrypted again until they fall inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). The
    padding is less than n, so the average is less than two passes per element.
    """

    def __init__(self, n: int, seed: int, stream: int = 0) -> None:
        if n < 1:
            raise ValueError(f"a permutation needs n >= 1, got {n}")
        self.n = n
        bits = max(2, (n - 1).bit_length())
        self._low_bits = np.uint64(bits // 2)
        self._high_bits = np.uint64(bits - bits // 2)
        text = b"".join(
            hashlib.blake2b(f"{seed},{stream},{n},{i}".encode(), digest_size=8).digest() for i in range(ROUNDS)
        )
        self._keys = np.frombuffer(text, dtype="<u8")

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Elements at `positions` [any shape, integers in range(n)], int64 of the same shape."""
        x = self._cipher(np.asarray(positions).astype(np.uint64))
        outside = np.flatnonzero(x.ravel() >= self.n)
        flat = x.reshape(-1)
        while outside.size:
            again = self._cipher(flat[outside])
            flat[outside] = again
            outside = outside[again >= self.n]
        return flat.reshape(x.shape).astype(np.int64)

    def _cipher(self, x: np.ndarray) -> np.ndarray:
        """One pass: the two halves alternately modify each other, each modification being its own inverse."""
        low = x & ((np.uint64(1) << self._low_bits) - np.uint64(1))
        high = x >> self._low_bits
        for i, key in enumerate(self._keys):
            if i % 2:
                low ^= _hash(high, key, self._low_bits)
            else:
                high ^= _hash(low, key, self._high_bits)
        return (high << self._low_bits) | low


def _hash(x: np.ndarray, key: np.uint64, bits: np.uint64) -> np.ndarray:
    """`bits` well-mixed bits of x and the key."""
    y = x + key
    y ^= y >> np.uint64(30)
    y *= _MIX_1
    y ^= y >> np.uint64(27)
    y *= _MIX_2
    return y >> (np.uint64(64) - bits)
