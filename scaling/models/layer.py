"""The interface of a layer's parts: their context, cache, auxiliary losses and counts."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from flax import nnx

from scaling.config.placement import Placement
from scaling.families import Mask
from scaling.models.parameters import Params

Rope = tuple[jax.Array, jax.Array] | None
Arrays = dict[str, jax.Array]
"""a part's cache of the preceding tokens, as its `cache` declares it"""

PADDING = 2**30
"""position of padding in a row of new tokens: beyond every real position"""


@dataclass(frozen=True)
class LayerContext:
    """What a layer needs besides its input: mask, positions and placement."""

    rope: Rope
    """cos and sin of every position for the rotated ones of the mixer's `rope_width` features, see
    `positions.rope_tables`"""
    window: int
    """number of keys that a query may see"""
    mask: Mask
    marks_BxL: jax.Array | None
    """per-token marks of a mask that depends on the text"""
    placement: Placement
    """where and how the layer computes"""
    tokens_BxL: jax.Array | None = None
    """token ids of the windows"""
    positions: jax.Array | None = None
    """position of every token: [L], or [B, L] where they restart from 0 in every document"""
    chunk: int | None = None
    """positions per attention chunk, see `AttentionMask`"""
    global_tokens: int = 0
    """number of first positions that window and chunk hide from no query, see `AttentionMask`"""
    query_scale: jax.Array | float | None = None
    """factor on the queries: [L, 1, 1], [B, L, 1, 1] or one number; None for 1"""


class Aux(NamedTuple):
    """What a part returns besides its output: float32 sums over tokens."""

    losses: dict[str, jax.Array]
    """auxiliary losses, weights included: scalars by the names in LOSSES"""
    counts: dict[str, Any]
    """inputs to metrics and state updates: arrays by the names in `counts`; for several layers, by stack and part"""


NOTHING = Aux({}, {})


def total(sums: Iterable[dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """Add up the values of each name over all dicts that have it."""
    found: dict[str, jax.Array] = {}
    for own in sums:
        found |= {name: found[name] + value if name in found else value for name, value in own.items()}
    return found


class LayerPart(nnx.Module):
    """The forward pass of a part of a layer, over the parameters of that layer.

    A call takes (x, context, dropout key or None) and returns the branch's output [B, L, D] and its `Aux`.
    """

    def extend(self, x_BxTxD: jax.Array, context: LayerContext, cache: Arrays) -> tuple[jax.Array, Arrays]:
        """(branch output, updated cache) for tokens that follow those in the cache. The default is for parts that
        cache nothing."""
        return self(x_BxTxD, context, None)[0], cache

    @staticmethod
    def metrics(counts: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Scalars of one layer by the names in METRICS. Traced.

        counts: averages over the tokens of a whole batch.
        """
        return {}

    @staticmethod
    def informed(part: Any, params: Params, counts: dict[str, jax.Array]) -> Params:
        """Parameters of one layer for computing a part of a batch: those declared as `state` may hold counts of the
        whole batch, see `BlockPart.reads_counts`. Traced."""
        return params

    @staticmethod
    def updated(part: Any, params: Params, counts: dict[str, jax.Array]) -> Params:
        """Parameters of one layer after a step; only those declared as `state` may change. Traced.

        part: the declaration of this part.
        """
        return params
