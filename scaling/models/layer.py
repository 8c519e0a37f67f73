"""What a layer is told beside its input, and what it tells beside its output."""

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
"""what a part keeps of the tokens before, as its `cache` declares it"""

PADDING = 2**30
"""position of what fills up a row of new tokens and is none: behind all that there are"""


@dataclass(frozen=True)
class LayerContext:
    """Where a layer is and how it computes."""

    rope: Rope
    """cos and sin of every position, see `positions.rope_tables`; of as many of the mixer's `rope_width` features as
    turn"""
    window: int
    """keys that a query may see"""
    mask: Mask
    marks_BxL: jax.Array | None
    """what the mask is made of, where it depends on the text"""
    placement: Placement
    """where and how it computes"""
    tokens_BxL: jax.Array | None = None
    """ids of the tokens of the window"""
    positions: jax.Array | None = None
    """of every token, [L], or [B, L] where they count from 0 in every document"""
    chunk: int | None = None
    """positions of a chunk, see `AttentionMask`"""
    global_tokens: int = 0
    """first positions that window and chunk hide from no query, see `AttentionMask`"""
    query_scale: jax.Array | float | None = None
    """what queries are multiplied with: [L, 1, 1], [B, L, 1, 1] or one number; None for 1"""


class Aux(NamedTuple):
    """What is told beside an output: float32 sums over tokens."""

    losses: dict[str, jax.Array]
    """what is added to the training loss, each with its weight: scalars by the names in LOSSES"""
    counts: dict[str, Any]
    """what metrics and states are made of: arrays by the names in `counts`, of several layers by stack and part"""


NOTHING = Aux({}, {})


def total(sums: Iterable[dict[str, jax.Array]]) -> dict[str, jax.Array]:
    """Sums of the same name added, whichever have it."""
    found: dict[str, jax.Array] = {}
    for own in sums:
        found |= {name: found[name] + value if name in found else value for name, value in own.items()}
    return found


class LayerPart(nnx.Module):
    """The forward pass of a part of a layer, over the parameters of that layer.

    Called with (x, context, dropout key or None) it returns the branch [B, L, D] and its `Aux`.
    """

    def extend(self, x_BxTxD: jax.Array, context: LayerContext, cache: Arrays) -> tuple[jax.Array, Arrays]:
        """(the branch, the cache with these tokens) of tokens that follow those in the cache; by itself that of a
        part that keeps nothing."""
        return self(x_BxTxD, context, None)[0], cache

    @staticmethod
    def metrics(counts: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Scalars of one layer by the names in METRICS. Traced.

        counts: sums over the tokens of a whole batch, divided by their number.
        """
        return {}

    @staticmethod
    def informed(part: Any, params: Params, counts: dict[str, jax.Array]) -> Params:
        """Parameters of one layer that is applied to a part of a batch, of which those that are declared as `state`
        may say what was counted in the whole batch, see `BlockPart.reads_counts`. Traced."""
        return params

    @staticmethod
    def updated(part: Any, params: Params, counts: dict[str, jax.Array]) -> Params:
        """Parameters of one layer after a step, of which those that are declared as `state` may be new. Traced.

        part: its declaration.
        """
        return params
