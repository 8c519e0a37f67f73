"""Which keys a query sees and how scores are bent before the softmax."""

from dataclasses import dataclass

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


def seen(queries: slice, keys: slice, mask: AttentionMask, marks_BxL: jax.Array | None) -> jax.Array:
    """Whether queries at these positions see keys at those: bool [Q, S], or [B, 1, Q, S] where `marks_BxL` tell it.

    marks_BxL: see `objectives.Batch`. Raises ValueError where the mask needs them and there are none.
    """
    distance_QxS = _distance(queries, keys)
    after = -mask.window if looks_ahead(mask.kind) else -1
    near_QxS = (distance_QxS > after) & (distance_QxS < mask.window)
    if mask.kind not in MARKED:
        return near_QxS
    if marks_BxL is None:
        raise ValueError(f"a {mask.kind} mask needs the marks of the batch")
    own_BxQx1, other_Bx1xS = marks_BxL[:, queries, None], marks_BxL[:, None, keys]
    allowed_BxQxS = own_BxQx1 == other_Bx1xS if mask.kind == "document" else (distance_QxS >= 0) | (other_Bx1xS > 0)
    return (near_QxS & allowed_BxQxS)[:, None]


def _distance(queries: slice, keys: slice) -> jax.Array:
    return jnp.arange(queries.start, queries.stop)[:, None] - jnp.arange(keys.start, keys.stop)[None, :]


def bend(
    scores_BxHxQxS: jax.Array, queries: slice, keys: slice, mask: AttentionMask, marks_BxL: jax.Array | None
) -> jax.Array:
    """Scaled scores of the keys at positions `keys` for the queries at `queries`, as the softmax takes them.

    What a query does not see scores −∞; every query must see at least one of the keys.
    """
    scores = scores_BxHxQxS
    if mask.softcap is not None:
        scores = mask.softcap * jnp.tanh(scores / mask.softcap)
    if mask.alibi:
        slopes_H = jnp.asarray(alibi_slopes(scores.shape[1]), jnp.float32)
        scores = scores - slopes_H[:, None, None] * jnp.abs(_distance(queries, keys))
    return jnp.where(seen(queries, keys, mask, marks_BxL), scores, -jnp.inf)


def masked_softmax(
    scores_BxHxQxS: jax.Array,
    queries: slice,
    keys: slice,
    mask: AttentionMask,
    marks_BxL: jax.Array | None,
    sinks_H: jax.Array | None,
) -> jax.Array:
    """Probabilities of the keys, float32; arguments as of `bend`. With sinks they add up to less than 1."""
    scores = bend(scores_BxHxQxS, queries, keys, mask, marks_BxL)
    if sinks_H is None:
        return jax.nn.softmax(scores, -1)
    sinks_BxHxQx1 = jnp.broadcast_to(sinks_H[:, None, None], (*scores.shape[:3], 1))
    return jax.nn.softmax(jnp.concatenate([scores, sinks_BxHxQx1], -1), -1)[..., :-1]
