"""The attention mask as one value shared by accounting and every implementation. No JAX."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from scaling.families.model import Mask

LOOK_AHEAD: tuple[Mask, ...] = ("full", "prefix")
"""masks in which a query may see keys after its own position"""


@dataclass(frozen=True)
class AttentionMask:
    """Which keys the queries of a layer see, and how scores are modified before the softmax.

    A query sees the keys allowed by `kind` among those near it (`window` and `chunk`) and the global ones.
    """

    window: int
    """number of keys up to its own that a query sees; with a kind that looks ahead, as many in the other direction"""
    softcap: float | None = None
    """scores become cap·tanh(scores/cap)"""
    alibi: bool = False
    """scores decrease linearly with distance (Press et al. 2021)"""
    dropout: float = 0.0
    """dropout rate of probabilities in training"""
    kind: Mask = "causal"
    """which keys of its text a query may see"""
    chunk: int | None = None
    """positions per chunk: a query sees only the keys of its own chunk (Llama 4); None for no chunks"""
    global_tokens: int = 0
    """number of first positions that every query sees whatever window and chunk, and that see beyond their own window
    and chunk (Longformer's global tokens, the kept first tokens of StreamingLLM)"""
    restart: bool = False
    """positions count from 0 in every document of a `document` mask"""

    @property
    def looks_ahead(self) -> bool:
        """Whether a query may see keys after its own position."""
        return self.kind in LOOK_AHEAD

    def near(self, i: Any, j: Any) -> Any:
        """Whether queries at positions i see keys at j judged by positions alone, without the keys that a prefix adds
        or another document hides. Integer arrays of NumPy or JAX that broadcast against each other."""
        distance = i - j
        found = distance < self.window
        if self.looks_ahead:
            found = found & (distance > -self.window)
        if self.chunk is not None:
            found = found & (i // self.chunk == j // self.chunk)
        if self.global_tokens:
            found = found | (i < self.global_tokens) | (j < self.global_tokens)
        return found if self.looks_ahead else found & (distance >= 0)

    def kept(self, length: int) -> int:
        """Most keys of a text of up to `length` tokens that a later query may see: global ones and those near it."""
        return min(length, self.global_tokens + min(self.window, self.chunk or self.window))

    @property
    def by_place(self) -> bool:
        """Whether the mask depends on absolute positions, not only on distances."""
        return self.chunk is not None or self.global_tokens > 0


@lru_cache(maxsize=4096)
def visible_keys(context: int, mask: AttentionMask) -> float:
    """The exact mean number of keys that a query sees, over the positions of a window.

    For a `prefix` mask it is the mean over prefixes of 0 … context − 1 tokens, all equally likely. A `document` mask
    counts as causal, which is an upper bound; the exact number depends on the text, see `visible_keys_within`.
    """
    place = np.arange(context)
    total = int(np.sum(_behind(place, np.zeros_like(place), mask)))
    return (total + (_ahead(context, mask) if mask.looks_ahead else 0)) / context


def visible_keys_within(starts_NxL: np.ndarray, mask: AttentionMask) -> float:
    """The mean number of visible keys of a `document` mask over windows. starts_NxL: for each token, the position in
    its window where its document begins."""
    i = np.arange(starts_NxL.shape[1]) - (starts_NxL if mask.restart else 0)
    start = np.zeros_like(starts_NxL) if mask.restart else starts_NxL
    return float(np.mean(_behind(i, start, mask)))


def _behind(i: np.ndarray, start: np.ndarray, mask: AttentionMask) -> np.ndarray:
    """Number of keys up to its own that a query at position i sees in a text that begins at `start`."""
    low = np.maximum(start, i - mask.window + 1)
    if mask.chunk is not None:
        low = np.maximum(low, i // mask.chunk * mask.chunk)
    low = np.where(i < mask.global_tokens, start, low)
    known: np.ndarray = i + 1 - low + np.maximum(0, np.minimum(mask.global_tokens, low) - start)
    return known


def _ahead(context: int, mask: AttentionMask) -> float:
    """Σ over queries of the number of later keys that they see."""
    i = np.arange(context)
    end = np.minimum(context, i + mask.window)
    if mask.chunk is not None:
        end = np.minimum(end, (i // mask.chunk + 1) * mask.chunk)
    end = np.where(i < mask.global_tokens, context, end)
    far = np.maximum(end, min(mask.global_tokens, context))  # global tokens beyond the near keys
    if mask.kind == "full":
        return int(np.sum(far - i - 1))
    # a key at j is in a prefix of p tokens for L − 1 − j of the L values of p, those above j
    left = np.append(0, np.cumsum(context - 1 - i))  # summed over all keys before a position
    return int(np.sum(left[far] - left[i + 1])) / context


def near_blocks(length: int, mask: AttentionMask, size: int) -> list[tuple[slice, slice]]:
    """(queries, range of keys that any of them sees) of every block of `size` queries; global tokens before that
    range are left out, and it starts at a block boundary. Masking that depends on the text is ignored."""
    parts = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        first, last = start - mask.window + 1, stop - 1 + mask.window if mask.looks_ahead else stop
        if mask.chunk is not None and not mask.restart:
            first = max(first, start // mask.chunk * mask.chunk)
            last = min(last, -(-stop // mask.chunk) * mask.chunk)
        if start < mask.global_tokens:
            first, last = 0, length if mask.looks_ahead else stop
        parts.append((slice(start, stop), slice(max(0, first) // size * size, min(length, -(-last // size) * size))))
    return parts


def blocks(length: int, mask: AttentionMask, size: int) -> list[tuple[slice, slice]]:
    """As `near_blocks`, with the range of keys extended to the start if there are global tokens."""
    known, cut = mask.global_tokens, near_blocks(length, mask, size)
    if not known:
        return cut
    ahead = min(length, -(-known // size) * size) if mask.looks_ahead else 0
    return [(queries, slice(0, max(keys.stop, ahead))) for queries, keys in cut]


def keys_of_blocks(length: int, mask: AttentionMask, size: int) -> float:
    """Mean number of keys per query in `blocks`."""
    cut = blocks(length, mask, size)
    return sum((q.stop - q.start) * (k.stop - k.start) for q, k in cut) / length
