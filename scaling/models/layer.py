"""What a layer is told beside its input."""

from dataclasses import dataclass

import jax

from scaling.families import Mask

Rope = tuple[jax.Array, jax.Array] | None


@dataclass(frozen=True)
class LayerContext:
    """Where a layer is and how it computes."""

    rope: Rope
    """cos and sin of every position, see `positions.rope_tables`"""
    window: int
    """keys that a query may see"""
    mask: Mask
    implementation: str
    """`placement.attention`"""
