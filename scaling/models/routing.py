"""Routing: which experts a token goes to, with what weights, and the auxiliary losses. E experts, K per token.

Everything is computed within a window or over the whole batch, so that neither mesh nor microbatches change it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.families.moe import MoE
from scaling.parallel.parts import activation_split, by_parts

HASH = 2654435761
"""about 2³² over the golden ratio: sends neighbouring token ids far apart (Knuth, vol. 3, 6.4)"""


class Pairs(NamedTuple):
    """Token-expert pairs, S per window. If every token has K pairs, those of a token are adjacent."""

    expert_BxS: jax.Array
    """expert index; E for a dropped pair"""
    token_BxS: jax.Array
    """position of the token in the window"""
    weight_BxS: jax.Array
    """float32 weight of the expert's output"""
    seed_BxS: jax.Array | None = None
    """uint32 seed for dropout of hidden units; None without dropout"""


class Routing(NamedTuple):
    """Where the tokens of a batch of windows go."""

    pairs: Pairs
    balance: jax.Array
    """Σ over tokens of the load-balance loss of their window, or of the batch (1 for an even load)"""
    z: jax.Array
    """Σ over tokens of log² Z"""
    tokens_E: jax.Array
    """number of tokens routed to each expert, including those then dropped"""
    dropped: jax.Array
    """Σ over tokens of the dropped share of their pairs"""
    confidence: jax.Array
    """Σ over tokens of the largest score's share of the total"""


def route(part: MoE, logits_BxLxE: jax.Array, bias_E: jax.Array | None, load_E: jax.Array | None = None) -> Routing:
    """Route each token to its highest-scoring experts, or let each expert choose its highest-scoring tokens.

    logits_BxLxE: float32. bias_E: added to the scores for selection only. load_E: tokens per expert, up to a constant
    factor, in the whole batch that these windows are a part of; None or zeros: these windows are the whole batch.
    """
    length = logits_BxLxE.shape[1]
    scores = jax.nn.softmax(logits_BxLxE) if part.scores == "softmax" else jax.nn.sigmoid(logits_BxLxE)
    shares = scores / jnp.maximum(scores.sum(-1, keepdims=True), 1e-20)
    if part.routing == "expert_choice":
        pairs = _tokens_of_experts(part, scores)
    else:
        ranked = scores if bias_E is None else scores + jax.lax.stop_gradient(bias_E)
        chosen = _largest(_within_groups(part, ranked), part.top_k, "sequence")
        weights = jnp.take_along_axis(scores, chosen, -1)
        if part.normalise:
            weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-20)
        pairs = _pairs(chosen, weights * part.scale)
    tokens_BxE = jax.nn.one_hot(pairs.expert_BxS, part.experts, dtype=jnp.float32).sum(1)
    if part.balance_over == "batch":
        balance = _over_batch(tokens_BxE.sum(0), load_E, shares)
    else:
        balance = part.experts * length * jnp.sum(tokens_BxE / pairs.expert_BxS.shape[1] * shares.mean(1))
    z = jnp.sum(jnp.square(jax.nn.logsumexp(logits_BxLxE, -1)))
    pairs, dropped = _within_capacity(part, pairs, length)
    return Routing(pairs, balance, z, tokens_BxE.sum(0), dropped, jnp.sum(shares.max(-1)))


def _over_batch(tokens_E: jax.Array, load_E: jax.Array | None, shares_BxLxE: jax.Array) -> jax.Array:
    """Σ over the tokens of these windows of experts · Σ_e f_e · (their score share of e), where f_e is expert e's
    share of all pairs of the whole batch. Summed over the microbatches it is the number of tokens in the batch times
    experts · Σ_e f_e · (mean score share of e)."""
    load_E = tokens_E if load_E is None else jnp.where(load_E.sum() > 0, load_E, tokens_E)
    return load_E.size * jnp.sum(load_E / load_E.sum() * shares_BxLxE.sum((0, 1)))


def _largest(scores: jax.Array, k: int, second: str | None = None) -> jax.Array:
    """Indices of the k largest along the last axis. Each device computes those of its own tokens, where the compiler
    would have every device compute them for all tokens. second: logical name of the axis after the batch axis."""
    split = activation_split(("batch", second, *(None,) * (scores.ndim - 2)), scores.shape)
    return by_parts(lambda x: jax.lax.top_k(x, k)[1], (split,), split, jax.lax.stop_gradient(scores))


def by_hash(part: MoE, tokens_BxL: jax.Array) -> Routing:
    """Route each token by its id alone, with equal weights (hash layers, Roller et al. 2021, 2106.04426)."""
    apart = jnp.arange(part.top_k, dtype=jnp.uint32) * (part.experts // part.top_k)
    first = (tokens_BxL.astype(jnp.uint32) * jnp.uint32(HASH)) >> 8
    chosen = ((first[..., None] % part.experts + apart) % part.experts).astype(jnp.int32)
    pairs = _pairs(chosen, jnp.full(chosen.shape, part.scale / part.top_k, jnp.float32))
    tokens_E = jax.nn.one_hot(pairs.expert_BxS, part.experts, dtype=jnp.float32).sum((0, 1))
    pairs, dropped = _within_capacity(part, pairs, tokens_BxL.shape[1])
    zero = jnp.zeros((), jnp.float32)
    return Routing(pairs, zero, zero, tokens_E, dropped, jnp.float32(tokens_BxL.size))


def seeded(pairs: Pairs, seed_BxL: jax.Array) -> Pairs:
    """The pairs with a seed each, derived from the token's seed and the expert, so that the dropout mask does not
    depend on where a pair is computed."""
    seed_BxS = jnp.take_along_axis(seed_BxL, pairs.token_BxS, 1)
    return pairs._replace(seed_BxS=seed_BxS + pairs.expert_BxS.astype(jnp.uint32) * jnp.uint32(HASH))


def _pairs(chosen_BxLxK: jax.Array, weights_BxLxK: jax.Array) -> Pairs:
    batch, length, k = chosen_BxLxK.shape
    token = jnp.broadcast_to(jnp.arange(length * k) // k, (batch, length * k))
    return Pairs(chosen_BxLxK.reshape(batch, -1), token, weights_BxLxK.reshape(batch, -1))


def _tokens_of_experts(part: MoE, scores_BxLxE: jax.Array) -> Pairs:
    """Expert choice: each expert picks the same number of tokens (Zhou et al. 2022, 2202.09368)."""
    batch, length, experts = scores_BxLxE.shape
    scores_BxExL = jnp.swapaxes(scores_BxLxE, 1, 2)
    token = _largest(scores_BxExL, part.slots(length))
    weights = jnp.take_along_axis(scores_BxExL, token, -1)
    expert = jnp.broadcast_to(jnp.arange(experts)[:, None], token.shape)
    return Pairs(*(x.reshape(batch, -1) for x in (expert, token, weights * part.scale)))


def _within_capacity(part: MoE, pairs: Pairs, length: int) -> tuple[Pairs, jax.Array]:
    """The pairs with those beyond an expert's capacity marked as dropped, and Σ over tokens of the dropped share.

    Slots are assigned in text order, so that whether a pair is dropped does not depend on later tokens.
    """
    if part.capacity is None or part.routing == "expert_choice":
        return pairs, jnp.zeros((), jnp.float32)
    assigned = jax.nn.one_hot(pairs.expert_BxS, part.experts, dtype=jnp.int32)
    place_BxS = jnp.sum((jnp.cumsum(assigned, 1) - 1) * assigned, -1)
    dropped = place_BxS >= part.slots(length)
    expert = jnp.where(dropped, part.experts, pairs.expert_BxS)
    return pairs._replace(expert_BxS=expert), jnp.sum(dropped, dtype=jnp.float32) / part.top_k


def _within_groups(part: MoE, scores: jax.Array) -> jax.Array:
    """Scores, −∞ for experts outside a token's best groups, see `MoE.group_score`."""
    if part.groups is None or part.top_groups is None:
        return scores
    by_group = scores.reshape(*scores.shape[:-1], part.groups, -1)
    counted = 1 if part.group_score == "best" else min(2, by_group.shape[-1])
    leading = _largest(by_group, counted, "sequence")
    best = _largest(jnp.take_along_axis(by_group, leading, -1).sum(-1), part.top_groups, "sequence")
    there = jax.nn.one_hot(best, part.groups, dtype=jnp.bool_).any(-2)
    return jnp.where(there[..., None], by_group, -jnp.inf).reshape(scores.shape)
