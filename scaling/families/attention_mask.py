"""Which keys a query of attention sees, as one value that accounting and every implementation take. No JAX."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from scaling.families.model import Mask

LOOK_AHEAD: tuple[Mask, ...] = ("full", "prefix")
"""masks in which a query may see keys after its own position"""


@dataclass(frozen=True)
class AttentionMask:
    """What one layer's queries see, and how their scores are bent before the softmax.

    A query sees the keys that `kind` allows of those near it, `window` and `chunk`, and of the global ones.
    """

    window: int
    """keys a query sees, itself included; of a kind that looks ahead as many behind it"""
    softcap: float | None = None
    """scores become cap·tanh(scores/cap)"""
    alibi: bool = False
    """scores fall linearly with the distance (Press et al. 2021)"""
    dropout: float = 0.0
    """share of probabilities that is dropped in training"""
    kind: Mask = "causal"
    """which keys of its text a query may see"""
    chunk: int | None = None
    """positions of a chunk: a query sees the keys of its own (Llama 4); None for no chunks"""
    global_tokens: int = 0
    """positions at the start that window and chunk hide from no query, and that see past their own window and chunk
    (Longformer's global tokens, the kept first tokens of StreamingLLM)"""
    restart: bool = False
    """positions count from 0 in every document of a `document` mask"""

    @property
    def looks_ahead(self) -> bool:
        """Whether a query may see keys after its own position."""
        return self.kind in LOOK_AHEAD

    def near(self, i: Any, j: Any) -> Any:
        """Whether queries at positions i see keys at j as far as their places say it: all but what the prefix adds,
        and what is of another document. Integer arrays of NumPy or JAX that broadcast against each other."""
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
        """Keys of a text of up to `length` tokens that a query after them may see: global ones and those near it."""
        return min(length, self.global_tokens + min(self.window, self.chunk or self.window))

    @property
    def by_place(self) -> bool:
        """Whether it matters where a position is, not only how far it is from another."""
        return self.chunk is not None or self.global_tokens > 0


@lru_cache(maxsize=4096)
def visible_keys(context: int, mask: AttentionMask) -> float:
    """Mean over the positions of a window of text of the keys that a query sees, exact.

    Of a `prefix` mask it is the mean over prefixes of 0 … context − 1 tokens, each as often as another. Documents
    count as causal: more than a query sees, and how much more is the text's, see `visible_keys_within`.
    """
    place = np.arange(context)
    total = int(np.sum(_behind(place, np.zeros_like(place), mask)))
    return (total + (_ahead(context, mask) if mask.looks_ahead else 0)) / context


def visible_keys_within(starts_NxL: np.ndarray, mask: AttentionMask) -> float:
    """The mean of a `document` mask over windows. starts_NxL: the place in its window at which each token's document
    begins there."""
    i = np.arange(starts_NxL.shape[1]) - (starts_NxL if mask.restart else 0)
    start = np.zeros_like(starts_NxL) if mask.restart else starts_NxL
    return float(np.mean(_behind(i, start, mask)))


def _behind(i: np.ndarray, start: np.ndarray, mask: AttentionMask) -> np.ndarray:
    """Keys up to its own that a query at position i sees of a text that begins at `start`."""
    low = np.maximum(start, i - mask.window + 1)
    if mask.chunk is not None:
        low = np.maximum(low, i // mask.chunk * mask.chunk)
    low = np.where(i < mask.global_tokens, start, low)
    known: np.ndarray = i + 1 - low + np.maximum(0, np.minimum(mask.global_tokens, low) - start)
    return known


def _ahead(context: int, mask: AttentionMask) -> float:
    """Σ over queries of the keys after them that they see."""
    i = np.arange(context)
    end = np.minimum(context, i + mask.window)
    if mask.chunk is not None:
        end = np.minimum(end, (i // mask.chunk + 1) * mask.chunk)
    end = np.where(i < mask.global_tokens, context, end)
    far = np.maximum(end, min(mask.global_tokens, context))  # global tokens behind what is near
    if mask.kind == "full":
        return int(np.sum(far - i - 1))
    # a key at j is in the prefix, which has p tokens, for the L − 1 − j of L values of p that are above j
    left = np.append(0, np.cumsum(context - 1 - i))  # of all keys before a place
    return int(np.sum(left[far] - left[i + 1])) / context


def near_blocks(length: int, mask: AttentionMask, size: int) -> list[tuple[slice, slice]]:
    """(queries, keys that some of them see, and those between) of every block of `size` queries; global tokens before
    them are left out, and keys start where a block starts. What depends on the text hides nothing here."""
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
    """The same with all that is before them where there are global tokens."""
    known, cut = mask.global_tokens, near_blocks(length, mask, size)
    if not known:
        return cut
    ahead = min(length, -(-known // size) * size) if mask.looks_ahead else 0
    return [(queries, slice(0, max(keys.stop, ahead))) for queries, keys in cut]


def keys_of_blocks(length: int, mask: AttentionMask, size: int) -> float:
    """Mean over queries of the keys that `blocks` has for them."""
    cut = blocks(length, mask, size)
    return sum((q.stop - q.start) * (k.stop - k.start) for q, k in cut) / length
