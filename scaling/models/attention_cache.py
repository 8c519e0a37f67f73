"""Attention of T new tokens over a cache of S slots.

A layer caches its global tokens and as many others as a query can see. The latter slots form a ring buffer: a token
is stored at its position modulo their number, and overwrites a token that no later query can see. Where positions
restart per document, the overwritten token may be any one of a document that is hidden by then.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from scaling.families.attention_mask import AttentionMask
from scaling.models.attention_mask import Places, masked_softmax
from scaling.models.layer import PADDING, Arrays

PART, PARTS = 128, 8
"""a cache is read in multiples of a part: the smallest multiple of PART slots that makes at most PARTS parts"""
WHERE = ("positions", "marks")
"""cache entries that hold the tokens' positions and marks: the fields of `Places`"""


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
    """(attention output [B, T, H, d_v], equal to that of `attend` on the whole text; the updated cache).

    new: arrays of the new tokens, [B, T, K, width], by the names in `SoftmaxMixer.held`.
    cache: as declared by `SoftmaxMixer.cache`, with B in front.
    places: positions and marks of the new tokens; those at PADDING see nothing and are not cached.
    d_v: features of a value; without separate values, the first features of a key.
    """
    batch, length, _, width = q_BxTxHxd.shape
    q_BxKxGxTxd = jnp.moveaxis(q_BxTxHxd.reshape(batch, length, new["keys"].shape[2], -1, width), 1, 3)
    after = _kept(cache, new, mask, places)
    if length == 1:  # what it overwrote it cannot see: reading the updated cache, in place, suffices
        parts = [after]
    else:
        fresh = {name: jnp.swapaxes(x, 1, 2) for name, x in new.items()}
        parts = [cache, fresh | {name: jnp.asarray(x) for name, x in zip(WHERE, places, strict=True)}]

    return _over_filled(parts[0], partial(_read, q_BxKxGxTxd, parts[1:], mask, places, d_v, scale, sinks_H)), after


def _over_filled(cache: Arrays, read: Callable[[Arrays], jax.Array]) -> jax.Array:
    """`read` applied to the first slots of a cache, in as few parts as hold all filled slots."""
    size = cache["positions"].shape[1]
    part = PART * -(-size // (PART * PARTS))
    sizes = [*range(part, size, part), size]
    filled = jnp.max(jnp.where(cache["positions"] >= 0, jnp.arange(1, size + 1), 0))

    def first(places: int) -> jax.Array:
        return read({name: x[:, :places] if name in WHERE else x[:, :, :places] for name, x in cache.items()})

    index = jnp.searchsorted(jnp.asarray(sizes[:-1], jnp.int32), filled)
    return jax.lax.switch(index, [partial(first, places) for places in sizes])


def _read(
    q_BxKxGxTxd: jax.Array,
    fresh: list[Arrays],
    mask: AttentionMask,
    places: Places,
    d_v: int,
    scale: float,
    sinks_H: jax.Array | None,
    cache: Arrays,
) -> jax.Array:
    """Attention [B, T, H, d_v] over a cache and, if they are not in it, over the new tokens."""
    batch, kv_heads, group, length, _ = q_BxKxGxTxd.shape
    heads, parts = kv_heads * group, [cache, *fresh]

    def scores(part: Arrays) -> jax.Array:
        return jnp.einsum("bkgtd,bksd->bkgts", q_BxKxGxTxd, part["keys"], preferred_element_type=jnp.float32)

    def read(probs_BxKxGxTxS: jax.Array, part: Arrays) -> jax.Array:
        values = part.get("values", part["keys"])[..., :d_v]
        return jnp.einsum("bkgts,bksd->btkgd", probs_BxKxGxTxS.astype(values.dtype), values)

    scores_BxKxGxTxS = jnp.concatenate([scores(part) for part in parts], -1) * scale
    keys = Places(*(jnp.concatenate([part[name] for part in parts], 1) for name in WHERE))
    by_head = scores_BxKxGxTxS.reshape(batch, heads, length, -1)
    real_Bx1xTx1 = (places.positions < PADDING)[:, None, :, None]
    probs = jnp.where(real_Bx1xTx1, masked_softmax(by_head, places, keys, mask, sinks_H), 0)
    probs = probs.reshape(scores_BxKxGxTxS.shape)
    cuts = [cache["positions"].shape[1]] if fresh else []
    out = sum(read(own, part) for own, part in zip(jnp.split(probs, cuts, -1), parts, strict=True))
    return jnp.reshape(out, (batch, length, heads, d_v))


def _kept(cache: Arrays, new: Arrays, mask: AttentionMask, places: Places) -> Arrays:
    """The cache with the new tokens written into it, except those that a later new token would overwrite."""
    size, known, position_BxT = cache["positions"].shape[1], mask.global_tokens, places.positions
    rolled_BxT = known + (position_BxT - known) % max(1, size - known)
    slot_BxT = jnp.where(position_BxT < known, position_BxT, rolled_BxT)
    slot_BxT = jnp.where(position_BxT < PADDING, slot_BxT, size)
    overwritten_BxTxT = jnp.triu(slot_BxT[:, :, None] == slot_BxT[:, None, :], 1)
    slot_BxT = jnp.where(overwritten_BxTxT.any(-1), size, slot_BxT)
    row_Bx1 = jnp.arange(len(slot_BxT))[:, None]
    where = {
        name: cache[name].at[row_Bx1, slot_BxT].set(x, mode="drop") for name, x in zip(WHERE, places, strict=True)
    }
    return where | {name: cache[name].at[row_Bx1, :, slot_BxT].set(x, mode="drop") for name, x in new.items()}
