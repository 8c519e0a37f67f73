"""Attention of tokens that follow others, over what is kept of those: T new tokens, S places of the cache.

A layer keeps its global tokens and as many others as a query sees: a token is put where the one lay that is too far
behind it to be seen again, at its position modulo their number. Where positions restart, it may be any of a document
that is hidden by then.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from scaling.families.attention_mask import AttentionMask
from scaling.models.attention_mask import Places, masked_softmax
from scaling.models.layer import PADDING, Arrays

PART, PARTS = 128, 8
"""a cache is read up to a multiple of so many places, the least that leaves no more than PARTS of them"""
WHERE = ("positions", "marks")
"""what a cache says of where its tokens were: the fields of `Places`"""


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
    batch, length, _, width = q_BxTxHxd.shape
    q_BxKxGxTxd = jnp.moveaxis(q_BxTxHxd.reshape(batch, length, new["keys"].shape[2], -1, width), 1, 3)
    after = _kept(cache, new, mask, places)
    if length == 1:  # it took the place of what it does not see: one array is read, and written where it is
        parts = [after]
    else:
        fresh = {name: jnp.swapaxes(x, 1, 2) for name, x in new.items()}
        parts = [cache, fresh | {name: jnp.asarray(x) for name, x in zip(WHERE, places, strict=True)}]

    return _over_filled(parts[0], partial(_read, q_BxKxGxTxd, parts[1:], mask, places, d_v, scale, sinks_H)), after


def _over_filled(cache: Arrays, read: Callable[[Arrays], jax.Array]) -> jax.Array:
    """`read` of the first places of a cache, no more of them than it takes to have all that are filled."""
    size = cache["positions"].shape[1]
    part = PART * -(-size // (PART * PARTS))
    sizes = [*range(part, size, part), size]
    filled = jnp.max(jnp.where(cache["positions"] < PADDING, jnp.arange(1, size + 1), 0))

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
    """Attention [B, T, H, d_v] over a cache, and new tokens where they are not in it."""
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
    """The cache with new tokens in it. One that a later token takes the place of is left out."""
    size, known, position_BxT = cache["positions"].shape[1], mask.global_tokens, places.positions
    rolled_BxT = known + (position_BxT - known) % max(1, size - known)
    slot_BxT = jnp.where(position_BxT < known, position_BxT, rolled_BxT)
    slot_BxT = jnp.where(position_BxT < PADDING, slot_BxT, size)
    taken_BxTxT = jnp.triu(slot_BxT[:, :, None] == slot_BxT[:, None, :], 1)
    slot_BxT = jnp.where(taken_BxTxT.any(-1), size, slot_BxT)
    row_Bx1 = jnp.arange(len(slot_BxT))[:, None]
    where = {
        name: cache[name].at[row_Bx1, slot_BxT].set(x, mode="drop") for name, x in zip(WHERE, places, strict=True)
    }
    return where | {name: cache[name].at[row_Bx1, :, slot_BxT].set(x, mode="drop") for name, x in new.items()}
