"""Which keys a query sees, and how scores are modified before the softmax."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.families import Mask
from scaling.families.attention_mask import AttentionMask
from scaling.models.positions import alibi_slopes

MARKED: tuple[Mask, ...] = ("prefix", "document")
"""masks that depend on the text: they are computed from the marks of a batch"""


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with each element zeroed with probability `rate` and the rest scaled to keep the mean; without a key, `x`.

    key: one key, or one for each of M microbatches, where row i of `x` belongs to microbatch i mod M.
    """
    if key is None or rate == 0:
        return x
    if key.ndim:
        parts = x.reshape(-1, key.size, *x.shape[1:])
        return jax.vmap(lambda x, key: dropout(x, rate, key), (1, 0), 1)(parts, key).reshape(x.shape)
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


class Places(NamedTuple):
    """Positions and marks of queries or keys."""

    positions: jax.Array
    """integers [L], or [B, L] where windows differ: positions that restart per document, or a cache that has wrapped
    around. A negative position means that there is no key, as in an empty slot of a cache."""
    marks_BxL: jax.Array | None = None
    """per-token marks of a mask that depends on the text: see `objectives.Batch`"""


def places(within: slice, marks_BxL: jax.Array | None, restart: bool = False) -> Places:
    """The places of the slice `within` of windows whose positions count from 0 or, with `restart`, from 0 in each
    document.

    marks_BxL: those of whole windows.
    """
    marks_BxS = None if marks_BxL is None else marks_BxL[:, within]
    if restart and marks_BxL is not None:
        return Places(positions_in_documents(marks_BxL)[:, within], marks_BxS)
    return Places(jnp.arange(within.start, within.stop), marks_BxS)


def positions_in_documents(marks_BxL: jax.Array) -> jax.Array:
    """int32 [B, L], counting from 0 in each document. marks_BxL: document numbers."""
    place_L = jnp.arange(marks_BxL.shape[1])
    first_BxL = jnp.diff(marks_BxL, axis=1, prepend=marks_BxL[:, :1]) != 0
    return place_L - jax.lax.cummax(jnp.where(first_BxL, place_L, 0), axis=1)


def seen(queries: Places, keys: Places, mask: AttentionMask) -> jax.Array:
    """Whether each query sees each key: bool [Q, S], or [B, 1, Q, S] where windows differ.

    Raises ValueError if the mask needs marks and there are none.
    """
    i, j = queries.positions[..., :, None], keys.positions[..., None, :]
    allowed: jax.Array = mask.near(i, j) & (j >= 0)
    if mask.kind in MARKED:
        if queries.marks_BxL is None or keys.marks_BxL is None:
            raise ValueError(f"a {mask.kind} mask needs the marks of the batch")
        own_BxQx1, other_Bx1xS = queries.marks_BxL[:, :, None], keys.marks_BxL[:, None, :]
        allowed &= own_BxQx1 == other_Bx1xS if mask.kind == "document" else (i >= j) | (other_Bx1xS > 0)
    return allowed if allowed.ndim == 2 else allowed[:, None]


def meet(queries: Places, keys: Places, mask: AttentionMask) -> jax.Array:
    """Whether any query of a tile may see any key of another: bool [N, M]. Tiles of one window, [N, T] and [M, T].

    Conservative: a tile is treated as if it held all positions and documents between its least and its greatest.
    Entries at negative positions are ignored.
    """
    (i0, i1), (j0, j1) = _ends(queries.positions, queries.positions), _ends(keys.positions, keys.positions)
    found = i0[:, None] - j1 < mask.window
    if mask.looks_ahead:
        found &= j0 - i1[:, None] < mask.window
    if mask.chunk is not None:
        found &= (i0[:, None] // mask.chunk <= j1 // mask.chunk) & (j0 // mask.chunk <= i1[:, None] // mask.chunk)
    if mask.global_tokens:
        found |= (i0[:, None] < mask.global_tokens) | (j0 < mask.global_tokens)
    after = i1[:, None] >= j0
    if mask.kind == "prefix" and keys.marks_BxL is not None:
        after |= jnp.max(keys.marks_BxL, 1) > 0
    if mask.kind == "document" and queries.marks_BxL is not None and keys.marks_BxL is not None:
        own, other = _ends(queries.marks_BxL, queries.positions), _ends(keys.marks_BxL, keys.positions)
        found &= (own[0][:, None] <= other[1]) & (other[0] <= own[1][:, None])
    return found & (j1 >= 0) & (after if mask.kind != "full" else True)


def _ends(x_NxT: jax.Array, positions_NxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest value of each tile, ignoring entries at negative positions."""
    there, most = positions_NxT >= 0, jnp.iinfo(jnp.int32).max
    return jnp.min(jnp.where(there, x_NxT, most), 1), jnp.max(jnp.where(there, x_NxT, -1), 1)


def softcapped(scores: jax.Array, cap: float) -> jax.Array:
    """cap·tanh(scores/cap)."""
    return cap * jnp.tanh(scores / cap)


def bend(
    scores_BxHxQxS: jax.Array,
    queries: Places,
    keys: Places,
    mask: AttentionMask,
    slopes_H: jax.Array | None = None,
) -> jax.Array:
    """Scaled scores with soft-cap, ALiBi and mask applied, ready for the softmax.

    Keys that a query does not see score −∞; every query must see at least one key. slopes_H: the ALiBi slopes of
    these heads, if a device has only some of the model's.
    """
    scores = scores_BxHxQxS
    if mask.softcap is not None:
        scores = softcapped(scores, mask.softcap)
    if mask.alibi:
        if slopes_H is None:
            slopes_H = jnp.asarray(alibi_slopes(scores.shape[1]), jnp.float32)
        away = jnp.abs(queries.positions[..., :, None] - keys.positions[..., None, :])
        scores = scores - slopes_H[:, None, None] * (away if away.ndim == 2 else away[:, None])
    return jnp.where(seen(queries, keys, mask), scores, -jnp.inf)


def masked_softmax(
    scores_BxHxQxS: jax.Array, queries: Places, keys: Places, mask: AttentionMask, sinks_H: jax.Array | None
) -> jax.Array:
    """Attention probabilities, float32; arguments as in `bend`. With sinks they sum to less than 1."""
    scores = bend(scores_BxHxQxS, queries, keys, mask)
    if sinks_H is None:
        return jax.nn.softmax(scores, -1)
    sinks_BxHxQx1 = jnp.broadcast_to(sinks_H[:, None, None], (*scores.shape[:3], 1))
    return jax.nn.softmax(jnp.concatenate([scores, sinks_BxHxQx1], -1), -1)[..., :-1]
