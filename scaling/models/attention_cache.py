"""Attention of tokens that follow others, over what is kept of those: T new tokens, S places of the cache.

A token's place is its position modulo S, so that a layer with a window of S keys keeps the last S tokens and no more.
"""

import jax
import jax.numpy as jnp

from scaling.models.attention_mask import AttentionMask, Places, masked_softmax
from scaling.models.layer import PADDING, Arrays


def attend_cached(
    q_BxTxHxd: jax.Array,
    new: Arrays,
    cache: Arrays,
    mask: AttentionMask,
    places: Places,
    *,
    d_v: int,
    scale: float,
    sinks_H: jax.Array | None = None,
) -> tuple[jax.Array, Arrays]:
    """(attention [B, T, H, d_v], the cache with the new tokens): of each what `attend` gives for the whole text.

    new: of the new tokens, [B, T, K, width] by the names of `SoftmaxMixer.held`.
    cache: as `SoftmaxMixer.cache` declares it, with B in front.
    places: of the new tokens; those at PADDING are no tokens, see no others and are not kept.
    d_v: features of a value, the first ones of a key where there are no values by themselves.
    """
    batch, length, heads = q_BxTxHxd.shape[:3]
    fresh = {name: jnp.swapaxes(x, 1, 2) for name, x in new.items()}
    q_BxKxGxTxd = jnp.moveaxis(q_BxTxHxd.reshape(batch, length, fresh["keys"].shape[1], -1, q_BxTxHxd.shape[-1]), 1, 3)

    def scores(part: Arrays) -> jax.Array:
        return jnp.einsum("bkgtd,bksd->bkgts", q_BxKxGxTxd, part["keys"], preferred_element_type=jnp.float32)

    def read(probs_BxKxGxTxS: jax.Array, part: Arrays) -> jax.Array:
        values = part.get("values", part["keys"])[..., :d_v]
        return jnp.einsum("bkgts,bksd->btkgd", probs_BxKxGxTxS.astype(values.dtype), values)

    scores_BxKxGxTxS = jnp.concatenate([scores(cache), scores(fresh)], -1) * scale
    keys = Places(*(jnp.concatenate(both, 1) for both in zip((cache["positions"], cache["marks"]), places, strict=True)))
    by_head = scores_BxKxGxTxS.reshape(batch, heads, length, -1)
    probs = masked_softmax(by_head, places, keys, mask, sinks_H).reshape(scores_BxKxGxTxS.shape)
    kept = cache["positions"].shape[1]
    out = read(probs[..., :kept], cache) + read(probs[..., kept:], fresh)
    return out.reshape(batch, length, heads, d_v), _kept(cache, new, places)


def _kept(cache: Arrays, new: Arrays, places: Places) -> Arrays:
    """The cache with new tokens in it, of more than it has places for the last ones."""
    size, position_BxT = cache["positions"].shape[1], places.positions
    real_BxT = position_BxT < PADDING
    last_Bx1 = jnp.max(jnp.where(real_BxT, position_BxT, -1), 1, keepdims=True)
    slot_BxT = jnp.where(real_BxT & (position_BxT > last_Bx1 - size), position_BxT % size, size)
    row_Bx1 = jnp.arange(len(slot_BxT))[:, None]
    where = {
        name: cache[name].at[row_Bx1, slot_BxT].set(x, mode="drop")
        for name, x in zip(("positions", "marks"), places, strict=True)
    }
    return where | {name: cache[name].at[row_Bx1, :, slot_BxT].set(x, mode="drop") for name, x in new.items()}
