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
    marks_BxL: jax.Array | None
    """what the mask is made of, where it depends on the text"""
    implementation: str
    """`placement.attention`"""
