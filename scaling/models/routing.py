"""Which experts a token goes to, with what weights, and what that adds to the loss. E experts, K of them a token."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.families.moe import MoE


class Routing(NamedTuple):
    """Where the tokens of a batch of windows go."""

    chosen_BxLxK: jax.Array
    """experts, the best first"""
    weights_BxLxK: jax.Array
    """float32, of what they say"""
    balance: jax.Array
    """Σ over tokens of the load-balance loss of their window (1 where the load is even)"""
    z: jax.Array
    """Σ over tokens of log² Z"""
    tokens_E: jax.Array
    """tokens that each expert gets"""
    confidence: jax.Array
    """Σ over tokens of the largest score's share of all"""


def route(part: MoE, logits_BxLxE: jax.Array, bias_E: jax.Array | None) -> Routing:
    """Send each token to the experts of its largest scores.

    logits_BxLxE: float32. bias_E: added to the scores where experts are chosen and nowhere else.
    """
    scores = jax.nn.softmax(logits_BxLxE) if part.scores == "softmax" else jax.nn.sigmoid(logits_BxLxE)
    ranked = scores if bias_E is None else scores + jax.lax.stop_gradient(bias_E)
    chosen = jax.lax.top_k(_within_groups(part, ranked), part.top_k)[1]
    weights = jnp.take_along_axis(scores, chosen, -1)
    if part.normalise:
        weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-20)
    shares = scores / jnp.maximum(scores.sum(-1, keepdims=True), 1e-20)
    tokens_BxE = jax.nn.one_hot(chosen, part.experts, dtype=jnp.float32).sum((1, 2))
    length = logits_BxLxE.shape[1]
    load_BxE = tokens_BxE / (length * part.top_k)
    balance = part.experts * length * jnp.sum(load_BxE * shares.mean(1))
    z = jnp.sum(jnp.square(jax.nn.logsumexp(logits_BxLxE, -1)))
    return Routing(chosen, weights * part.scale, balance, z, tokens_BxE.sum(0), jnp.sum(shares.max(-1)))


def _within_groups(part: MoE, scores: jax.Array) -> jax.Array:
    """Scores, those of experts outside a token's best groups at −∞; a group is as good as its two best experts."""
    if part.groups is None or part.top_groups is None:
        return scores
    by_group = scores.reshape(*scores.shape[:-1], part.groups, -1)
    worth = jax.lax.top_k(by_group, min(2, by_group.shape[-1]))[0].sum(-1)
    best = jax.lax.top_k(worth, part.top_groups)[1]
    there = jax.nn.one_hot(best, part.groups, dtype=jnp.bool_).any(-2)
    return jnp.where(there[..., None], by_group, -jnp.inf).reshape(scores.shape)
