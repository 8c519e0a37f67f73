"""Attention behind one function, `attend`, and the plain form that defines what all others must give."""

import jax
import jax.numpy as jnp

from scaling.models.positions import alibi_slopes


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with each element zeroed with probability `rate` and the rest scaled to keep the mean; no key: `x`."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


def reference(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    *,
    window: int,
    softcap: float | None = None,
    alibi: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Plain attention: the whole [L, L] square of scores of every head in float32."""
    length, heads, d_head = q_BxLxHxd.shape[1:]
    groups = heads // k_BxLxKxd.shape[2]
    k_BxLxHxd, v_BxLxHxd = jnp.repeat(k_BxLxKxd, groups, 2), jnp.repeat(v_BxLxKxd, groups, 2)
    scores_BxHxLxL = jnp.einsum("bqhd,bkhd->bhqk", q_BxLxHxd, k_BxLxHxd, preferred_element_type=jnp.float32)
    scores_BxHxLxL *= d_head**-0.5
    if softcap is not None:
        scores_BxHxLxL = softcap * jnp.tanh(scores_BxHxLxL / softcap)
    distance_LxL = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    if alibi:
        scores_BxHxLxL -= jnp.asarray(alibi_slopes(heads), jnp.float32)[:, None, None] * distance_LxL
    visible_LxL = (distance_LxL >= 0) & (distance_LxL < window)
    probs_BxHxLxL = jax.nn.softmax(jnp.where(visible_LxL, scores_BxHxLxL, -jnp.inf), -1)
    probs_BxHxLxL = dropout(probs_BxHxLxL, dropout_rate, dropout_key).astype(v_BxLxHxd.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", probs_BxHxLxL, v_BxLxHxd)


def attend(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    *,
    window: int,
    softcap: float | None = None,
    alibi: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Causal attention over [B, L, heads, d]; a query sees `window` keys, itself included."""
    return reference(
        q_BxLxHxd,
        k_BxLxKxd,
        v_BxLxKxd,
        window=window,
        softcap=softcap,
        alibi=alibi,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
    )
