"""`attend`, the one entry point for attention, and the plain reference that every implementation must match."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from scaling.families.attention_mask import AttentionMask
from scaling.families.context import CONTEXTS
from scaling.families.kernels import choose
from scaling.models.attention_blocked import blocked
from scaling.models.attention_context import for_devices
from scaling.models.attention_kernels import cudnn, splash, xla
from scaling.models.attention_mask import dropout, masked_softmax, places
from scaling.models.attention_tiled import tiled
from scaling.parallel.sharding import constrain, target_platform, ways


def reference(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    marks_BxL: jax.Array | None = None,
    key: jax.Array | None = None,
    sinks_H: jax.Array | None = None,
) -> jax.Array:
    """Plain attention: materialises the full [L, L] scores of every head in float32."""
    length, heads, d_head = q_BxLxHxd.shape[1:]
    groups = heads // k_BxLxKxd.shape[2]
    k_BxLxHxd, v_BxLxHxd = jnp.repeat(k_BxLxKxd, groups, 2), jnp.repeat(v_BxLxKxd, groups, 2)
    scores_BxHxLxL = jnp.einsum("bqhd,bkhd->bhqk", q_BxLxHxd, k_BxLxHxd, preferred_element_type=jnp.float32)
    whole = places(slice(0, length), marks_BxL, mask.restart)
    probs_BxHxLxL = masked_softmax(scores_BxHxLxL * d_head**-0.5, whole, whole, mask, sinks_H)
    probs_BxHxLxL = dropout(probs_BxHxLxL, mask.dropout, key).astype(v_BxLxHxd.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", probs_BxHxLxL, v_BxLxHxd)


Implementation = Callable[
    [
        jax.Array,
        jax.Array,
        jax.Array,
        AttentionMask,
        jax.Array | None,
        jax.Array | None,
        jax.Array | None,
    ],
    jax.Array,
]

RUN: dict[str, Implementation] = {
    "reference": reference,
    "blocked": blocked,
    "xla": xla,
    "cudnn": cudnn,
    "splash": splash,
}
"""the functions that implement `families.kernels.KERNELS`"""

OWN_QUERIES: dict[str, Callable[..., jax.Array]] = {"blocked": tiled, "splash": splash}
"""implementations that move keys between devices themselves where each device attends for its own queries; for the
others the compiler inserts the communication"""


def attend(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    *,
    marks_BxL: jax.Array | None = None,
    key: jax.Array | None = None,
    sinks_H: jax.Array | None = None,
    implementation: str = "auto",
    way: str = "ulysses",
) -> jax.Array:
    """Attention, [B, L, H, d of v]; scores are scaled by 1/√(d of q) and query heads share keys in groups of H / K.

    mask: which keys a query sees and how their scores are modified.
    marks_BxL: the per-token marks of a mask that depends on the text: see `objectives.Batch`.
    key: for dropout of the probabilities; None: no dropout.
    sinks_H: one logit per head that takes part in the softmax and carries no value; None: no sinks.
    implementation: a name in KERNELS, or `auto` for the fastest that runs on the mesh's devices.
    way: how devices split windows along the sequence, a name in CONTEXTS.

    Raises UserError if the requested implementation cannot run; the message says why and which ones can.
    """
    length, heads, axes = *q_BxLxHxd.shape[1:3], CONTEXTS[way]
    chosen = choose(
        implementation,
        target_platform(),
        mask if key is not None else replace(mask, dropout=0.0),
        length=length,
        dtype=q_BxLxHxd.dtype.name,
        d_head=max(q_BxLxHxd.shape[-1], v_BxLxKxd.shape[-1]),
        sinks=sinks_H is not None,
        way=way,
        devices=ways("sequence"),
    )
    if way != "ulysses" and chosen in OWN_QUERIES:
        return OWN_QUERIES[chosen](q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, mask, marks_BxL, sinks_H=sinks_H, way=way)
    if way == "ulysses":
        repeated = (for_devices(x, heads, ways("spread_heads")) for x in (k_BxLxKxd, v_BxLxKxd))
        k_BxLxKxd, v_BxLxKxd = (constrain(x, "batch", "sequence", "heads", None) for x in repeated)
    q, k, v = constrain(q_BxLxHxd, *axes[0]), constrain(k_BxLxKxd, *axes[1]), constrain(v_BxLxKxd, *axes[1])
    return constrain(RUN[chosen](q, k, v, mask, marks_BxL, key, sinks_H), *axes[0])
