"""Which keys a query sees and how scores are bent before the softmax."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.families import Mask
from scaling.families.kernels import looks_ahead
from scaling.models.positions import alibi_slopes

MARKED: tuple[Mask, ...] = ("prefix", "document")
"""masks that depend on the text: they are made of a batch's marks"""


@dataclass(frozen=True)
class AttentionMask:
    """Attention over a window of keys."""

    window: int
    """keys a query sees, itself included"""
    softcap: float | None = None
    """scores become cap·tanh(scores/cap)"""
    alibi: bool = False
    """scores fall linearly with the distance (Press et al. 2021)"""
    dropout: float = 0.0
    """share of probabilities that is dropped in training"""
    kind: Mask = "causal"
    """which keys of the window a query may see"""


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with each element zeroed with probability `rate` and the rest scaled to keep the mean; no key: `x`."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


class Places(NamedTuple):
    """Where queries or keys are in their text."""

    positions: jax.Array
    """integers [L], or [B, L] where windows differ: documents that count from 0 again, or a cache that has rolled on.
    A key at a negative one is not there, as in a slot of a cache that nothing is in yet."""
    marks_BxL: jax.Array | None = None
    """what the mask is made of, where it depends on the text: see `objectives.Batch`"""


def places(within: slice, marks_BxL: jax.Array | None) -> Places:
    """Those `within` windows whose positions count from 0. marks_BxL: of whole windows."""
    return Places(jnp.arange(within.start, within.stop), None if marks_BxL is None else marks_BxL[:, within])


def seen(queries: Places, keys: Places, mask: AttentionMask) -> jax.Array:
    """Whether queries at these places see keys at those: bool [Q, S], or [B, 1, Q, S] where windows differ.

    Raises ValueError where the mask is made of marks and there are none.
    """
    distance = _distance(queries, keys)
    after = -mask.window if looks_ahead(mask.kind) else -1
    allowed = (distance > after) & (distance < mask.window) & (keys.positions >= 0)[..., None, :]
    if mask.kind in MARKED:
        if queries.marks_BxL is None or keys.marks_BxL is None:
            raise ValueError(f"a {mask.kind} mask needs the marks of the batch")
        own_BxQx1, other_Bx1xS = queries.marks_BxL[:, :, None], keys.marks_BxL[:, None, :]
        allowed &= own_BxQx1 == other_Bx1xS if mask.kind == "document" else (distance >= 0) | (other_Bx1xS > 0)
    return allowed if allowed.ndim == 2 else allowed[:, None]


def _distance(queries: Places, keys: Places) -> jax.Array:
    return queries.positions[..., :, None] - keys.positions[..., None, :]


def bend(scores_BxHxQxS: jax.Array, queries: Places, keys: Places, mask: AttentionMask) -> jax.Array:
    """Scaled scores of keys for queries, as the softmax takes them.

    What a query does not see scores −∞; every query must see at least one of the keys.
    """
    scores = scores_BxHxQxS
    if mask.softcap is not None:
        scores = mask.softcap * jnp.tanh(scores / mask.softcap)
    if mask.alibi:
        slopes_H = jnp.asarray(alibi_slopes(scores.shape[1]), jnp.float32)
        away = jnp.abs(_distance(queries, keys))
        scores = scores - slopes_H[:, None, None] * (away if away.ndim == 2 else away[:, None])
    return jnp.where(seen(queries, keys, mask), scores, -jnp.inf)


def masked_softmax(
    scores_BxHxQxS: jax.Array, queries: Places, keys: Places, mask: AttentionMask, sinks_H: jax.Array | None
) -> jax.Array:
    """Probabilities of the keys, float32; arguments as of `bend`. With sinks they add up to less than 1."""
    scores = bend(scores_BxHxQxS, queries, keys, mask)
    if sinks_H is None:
        return jax.nn.softmax(scores, -1)
    sinks_BxHxQx1 = jnp.broadcast_to(sinks_H[:, None, None], (*scores.shape[:3], 1))
    return jax.nn.softmax(jnp.concatenate([scores, sinks_BxHxQx1], -1), -1)[..., :-1]
