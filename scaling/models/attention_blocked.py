"""Heads-major attention in blocks of queries: the fast implementation on a CPU.

It is fast there for three reasons. Heads are the leading axis, so that each head is one dense matrix product; an
einsum with heads in the middle is several times slower. A block of queries computes scores only for the keys that its
mask may let it see, which saves half of the square, more with a sliding window. And the backward pass is explicit
(see `_backward`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from scaling.families.attention_mask import AttentionMask, blocks
from scaling.families.kernels import BLOCK, TILED_FROM
from scaling.models.attention_mask import bend, dropout, masked_softmax, places
from scaling.models.attention_tiled import tiled

Blocks = list[tuple[slice, slice]]


def blocked(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    marks_BxL: jax.Array | None = None,
    key: jax.Array | None = None,
    sinks_H: jax.Array | None = None,
) -> jax.Array:
    """See `attend`. Long windows without dropout use `attention_tiled`."""
    drops = mask.dropout > 0 and key is not None
    if q_BxLxHxd.shape[1] >= TILED_FROM and not drops:
        return tiled(q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, mask, marks_BxL, sinks_H)
    heads, d_head = q_BxLxHxd.shape[2:]
    groups = heads // k_BxLxKxd.shape[2]
    q_BxHxLxd = jnp.swapaxes(q_BxLxHxd, 1, 2) * jnp.asarray(d_head**-0.5, q_BxLxHxd.dtype)
    k_BxHxLxd = jnp.repeat(jnp.swapaxes(k_BxLxKxd, 1, 2), groups, 1)
    v_BxHxLxd = jnp.repeat(jnp.swapaxes(v_BxLxKxd, 1, 2), groups, 1)
    if mask.softcap is None and not drops:
        out_BxHxLxd = _attend(q_BxHxLxd, k_BxHxLxd, v_BxHxLxd, marks_BxL, sinks_H, mask)
    else:
        out_BxHxLxd = _bent(q_BxHxLxd, k_BxHxLxd, v_BxHxLxd, mask, marks_BxL, key, sinks_H)
    return jnp.swapaxes(out_BxHxLxd, 1, 2)


def _scores(q_BxHxQxd: jax.Array, k_BxHxSxd: jax.Array) -> jax.Array:
    return jnp.einsum("bhqd,bhkd->bhqk", q_BxHxQxd, k_BxHxSxd, preferred_element_type=jnp.float32)


def _bent(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    marks_BxL: jax.Array | None,
    key: jax.Array | None,
    sinks_H: jax.Array | None,
) -> jax.Array:
    """With soft-capped scores or dropout of probabilities; its backward pass is left to autodiff."""
    out = []
    for queries, keys in blocks(q.shape[2], mask, BLOCK):
        scores_BxHxQxS = _scores(q[:, :, queries], k[:, :, keys])
        own, other = (places(part, marks_BxL, mask.restart) for part in (queries, keys))
        probs_BxHxQxS = masked_softmax(scores_BxHxQxS, own, other, mask, sinks_H)
        own_key = None if key is None else jax.random.fold_in(key, queries.start)
        probs_BxHxQxS = dropout(probs_BxHxQxS, mask.dropout, own_key).astype(v.dtype)
        out.append(jnp.einsum("bhqk,bhkd->bhqd", probs_BxHxQxS, v[:, :, keys]))
    return jnp.concatenate(out, 2)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q_BxHxLxd: jax.Array,
    k_BxHxLxd: jax.Array,
    v_BxHxLxd: jax.Array,
    marks_BxL: jax.Array | None,
    sinks_H: jax.Array | None,
    mask: AttentionMask,
) -> jax.Array:
    """Softmax of q·k times v, without soft-cap and dropout."""
    return _forward(q_BxHxLxd, k_BxHxLxd, v_BxHxLxd, marks_BxL, sinks_H, mask)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    marks_BxL: jax.Array | None,
    sinks_H: jax.Array | None,
    mask: AttentionMask,
) -> tuple[jax.Array, Any]:
    """Saves exp(scores − maximum) of every block and the reciprocal of its sum, without multiplying them; for sinks,
    their probability under every query."""
    outs, weights, scales, sunk = [], [], [], []
    for queries, keys in blocks(q.shape[2], mask, BLOCK):
        scores_BxHxQxS = _scores(q[:, :, queries], k[:, :, keys])
        own, other = (places(part, marks_BxL, mask.restart) for part in (queries, keys))
        scores_BxHxQxS = bend(scores_BxHxQxS, own, other, mask)
        top_BxHxQx1 = jnp.max(scores_BxHxQxS, -1, keepdims=True)
        if sinks_H is not None:
            top_BxHxQx1 = jnp.maximum(top_BxHxQx1, sinks_H[:, None, None])
        weights_BxHxQxS = jnp.exp(scores_BxHxQxS - top_BxHxQx1)
        sum_BxHxQx1 = jnp.sum(weights_BxHxQxS, -1, keepdims=True)
        if sinks_H is not None:
            sink_BxHxQx1 = jnp.exp(sinks_H[:, None, None] - top_BxHxQx1)
            sum_BxHxQx1 = sum_BxHxQx1 + sink_BxHxQx1
            sunk.append(sink_BxHxQx1 / sum_BxHxQx1)
        scale_BxHxQx1 = 1 / sum_BxHxQx1
        out_BxHxQxd = jnp.einsum("bhqk,bhkd->bhqd", weights_BxHxQxS.astype(v.dtype), v[:, :, keys])
        outs.append((out_BxHxQxd * scale_BxHxQx1).astype(q.dtype))
        weights.append(weights_BxHxQxS.astype(v.dtype))
        scales.append(scale_BxHxQx1)
    out = jnp.concatenate(outs, 2)
    return out, (q, k, v, out, weights, scales, sunk)


def _backward(mask: AttentionMask, saved: Any, dout: jax.Array) -> tuple[jax.Array | None, ...]:
    """Gradients of q, k, v and sinks.

    Explicit for two reasons. Σ p·dp over keys equals the output times its gradient, a sum of d_head numbers instead
    of one over a block's keys (Dao et al. 2022, 2205.14135, section B.4). And gradients of keys and values are
    computed as [d, S]: on a CPU, XLA's fast matmul wants the contracted axis last on the left, and the other order
    took 2 to 3 times as long. The barriers keep XLA from fusing those transpositions into the loops that use them.
    """
    q, k, v, out, weights, scales, sunk = saved
    barrier = jax.lax.optimization_barrier
    dout = barrier(dout)
    delta_BxHxLx1 = jnp.sum((out * dout).astype(jnp.float32), -1, keepdims=True)
    q_BxHxdxL = barrier(jnp.swapaxes(q, 2, 3))
    dqs, dks, dvs = [], [], []
    cut = blocks(q.shape[2], mask, BLOCK)
    for (queries, keys), weights_BxHxQxS, scale_BxHxQx1 in zip(cut, weights, scales, strict=True):
        dout_BxHxQxd = (dout[:, :, queries] * scale_BxHxQx1).astype(dout.dtype)
        dout_BxHxdxQ = barrier(jnp.swapaxes(dout_BxHxQxd, 2, 3))
        shift_BxHxQx1 = delta_BxHxLx1[:, :, queries] * scale_BxHxQx1
        dscores_BxHxQxS = weights_BxHxQxS * (_scores(dout_BxHxQxd, v[:, :, keys]) - shift_BxHxQx1)
        dscores_BxHxQxS = barrier(dscores_BxHxQxS.astype(q.dtype))
        dqs.append(jnp.einsum("bhqk,bhkd->bhqd", dscores_BxHxQxS, k[:, :, keys]))
        dks.append(jnp.einsum("bhdq,bhqk->bhdk", q_BxHxdxL[..., queries], dscores_BxHxQxS))
        dvs.append(jnp.einsum("bhdq,bhqk->bhdk", dout_BxHxdxQ, weights_BxHxQxS))
    dsinks = -jnp.sum(jnp.concatenate(sunk, 2) * delta_BxHxLx1, (0, 2, 3)) if sunk else None  # a sink has no value
    return jnp.concatenate(dqs, 2), _sum_over_blocks(dks, cut), _sum_over_blocks(dvs, cut), None, dsinks


def _sum_over_blocks(parts: list[jax.Array], cut: Blocks) -> jax.Array:
    """[B, H, L, d] from each block's contribution [B, H, d, S] to the keys that it sees."""
    sums = []
    for own, _ in cut:
        shares = [
            part[..., own.start - keys.start : own.stop - keys.start]
            for part, (_, keys) in zip(parts, cut, strict=True)
            if keys.start <= own.start and own.stop <= keys.stop
        ]
        sums.append(sum(shares[1:], shares[0]))
    return jnp.swapaxes(jnp.concatenate(sums, 3), 2, 3)


_attend.defvjp(_forward, _backward)
