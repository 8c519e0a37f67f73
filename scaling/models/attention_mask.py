"""Which keys a query sees and how scores are bent before the softmax."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from scaling.families import Mask
from scaling.models.positions import alibi_slopes


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
    """whether a query sees only keys up to its own position, or those on either side of it"""


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with each element zeroed with probability `rate` and the rest scaled to keep the mean; no key: `x`."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


def bend(scores_BxHxQxS: jax.Array, queries: jax.Array, keys: jax.Array, mask: AttentionMask) -> jax.Array:
    """Scaled scores of the keys at positions `keys` [S] for the queries at `queries` [Q], as the softmax takes them.

    What a query does not see scores −∞; every query must see at least one of the keys.
    """
    scores = scores_BxHxQxS
    if mask.softcap is not None:
        scores = mask.softcap * jnp.tanh(scores / mask.softcap)
    distance_QxS = queries[:, None] - keys[None, :]
    if mask.kind == "full":
        distance_QxS = jnp.abs(distance_QxS)
    if mask.alibi:
        slopes_H = jnp.asarray(alibi_slopes(scores.shape[1]), jnp.float32)
        scores = scores - slopes_H[:, None, None] * distance_QxS
    visible_QxS = (distance_QxS >= 0) & (distance_QxS < mask.window)
    return jnp.where(visible_QxS, scores, -jnp.inf)


def masked_softmax(scores_BxHxQxS: jax.Array, queries: jax.Array, keys: jax.Array, mask: AttentionMask) -> jax.Array:
    """Probabilities, float32; arguments as of `bend`."""
    return jax.nn.softmax(bend(scores_BxHxQxS, queries, keys, mask), -1)
