"""Chunked cross-entropy, so that the float32 logits of a large vocabulary never exist all at once."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.accounting import loss_pieces
from scaling.accounting.layout import vocabulary_parts
from scaling.models.layer import NOTHING, Aux
from scaling.models.matmul import matmul
from scaling.parallel.parts import activation_split, by_parts, gathered, parameter_split


class LossSums(NamedTuple):
    """float32 sums over tokens. Means: divide by `objective.count(batch)`, and `aux` by the number of all tokens."""

    loss: jax.Array
    """Σ weight · −log p(target)"""
    z: jax.Array
    """Σ weight · (log Z)²"""
    aux: Aux = NOTHING


def logits_of(hidden: jax.Array, head_DxV: jax.Array, softcap: float | None) -> jax.Array:
    """float32 logits [..., V], soft-capped."""
    logits = matmul(hidden, head_DxV, jnp.float32)
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


def token_losses(
    hidden_BxLxD: jax.Array,
    head_DxV: jax.Array,
    targets_BxL: jax.Array,
    *,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(−log p(target), log Z) of every token, each [B, L] float32.

    Every device computes its own tokens over its part of the vocabulary (Megatron, 1909.08053, section 3), about
    `chunk` tokens at a time; the backward pass recomputes the logits of each chunk. Communication happens once for
    all chunks: the head is gathered over the devices that share its width, its gradient is summed over chunks before
    it is scattered, and the results of the vocabulary parts are combined at the end.
    """
    width, stored = parameter_split(("embed", "vocab"), head_DxV.shape)
    columns = vocabulary_parts(stored)
    tokens = activation_split(("batch", "sequence"), targets_BxL.shape)

    def local(hidden_BxLxD: jax.Array, head_DxV: jax.Array, targets_BxL: jax.Array) -> jax.Array:
        head_DxV = gathered(head_DxV, (width, () if columns == stored else stored))
        first = jax.lax.axis_index(columns) * head_DxV.shape[1] if columns else None
        hidden_TxD, targets_T = hidden_BxLxD.reshape(-1, hidden_BxLxD.shape[-1]), targets_BxL.reshape(-1)
        pieces = loss_pieces(len(targets_T), chunk, head_DxV.shape[1])
        parts = _in_pieces(hidden_TxD, head_DxV, targets_T, first, softcap, pieces)
        return jnp.stack(parts).reshape(2, 1, *targets_BxL.shape)

    splits = ((*tokens, ()), (width, stored), tokens)
    log_z, logit = by_parts(local, splits, ((), columns, *tokens), hidden_BxLxD, head_DxV, targets_BxL)
    log_z_BxL, logit_BxL = (jax.nn.logsumexp(log_z, 0), logit.sum(0)) if columns else (log_z[0], logit[0])
    return log_z_BxL - logit_BxL, log_z_BxL


def _in_pieces(
    hidden_TxD: jax.Array,
    head_DxV: jax.Array,
    targets_T: jax.Array,
    first: jax.Array | None,
    softcap: float | None,
    pieces: int,
) -> tuple[jax.Array, jax.Array]:
    """`_piece` for all tokens, in `pieces` sequential chunks."""
    if pieces == 1:
        return _piece(hidden_TxD, head_DxV, targets_T, first, softcap)
    tokens = len(targets_T)
    size = -(-tokens // pieces)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, pieces * size - tokens), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(pieces, size, *x.shape[1:])

    log_z, logit = _mapped(cut(hidden_TxD), head_DxV, cut(targets_T), first, softcap)
    return log_z.reshape(-1)[:tokens], logit.reshape(-1)[:tokens]


def _piece(
    hidden_TxD: jax.Array, head_DxV: jax.Array, targets_T: jax.Array, first: jax.Array | None, softcap: float | None
) -> tuple[jax.Array, jax.Array]:
    """(log Σ exp of the logits, the target's logit) of every token, [T] float32.

    first: token id of the first column if this is a part of the vocabulary; the logit of a target outside it is 0.
    """
    logits_TxV = logits_of(hidden_TxD, head_DxV, softcap)
    log_z_T = jax.nn.logsumexp(logits_TxV, -1)
    if first is None:
        return log_z_T, jnp.take_along_axis(logits_TxV, targets_T[:, None], -1)[:, 0]
    column_T = targets_T - first
    here_T = (column_T >= 0) & (column_T < logits_TxV.shape[1])
    logit_T = jnp.take_along_axis(logits_TxV, jnp.where(here_T, column_T, 0)[:, None], -1)[:, 0]
    return log_z_T, jnp.where(here_T, logit_T, 0.0)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _mapped(
    hidden_PxTxD: jax.Array,
    head_DxV: jax.Array,
    targets_PxT: jax.Array,
    first: jax.Array | None,
    softcap: float | None,
) -> tuple[jax.Array, jax.Array]:
    """`_piece` of P chunks. The gradient of the head is summed over them in float32, whatever its precision."""
    return jax.lax.map(lambda own: _piece(own[0], head_DxV, own[1], first, softcap), (hidden_PxTxD, targets_PxT))


def _mapped_forward(
    hidden: jax.Array, head: jax.Array, targets: jax.Array, first: jax.Array | None, softcap: float | None
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    return _mapped(hidden, head, targets, first, softcap), (hidden, head, targets, first)


def _mapped_backward(
    softcap: float | None, saved: Any, gradient: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, None, None]:
    hidden_PxTxD, head_DxV, targets_PxT, first = saved

    def add(total_DxV: jax.Array, own: Any) -> tuple[jax.Array, jax.Array]:
        hidden_TxD, targets_T, gradient = own
        _, pull = jax.vjp(lambda h, w: _piece(h, w, targets_T, first, softcap), hidden_TxD, head_DxV)
        hidden_TxD, head = pull(gradient)
        return total_DxV + head, hidden_TxD

    zero_DxV = jnp.zeros(head_DxV.shape, jnp.float32)
    total_DxV, hidden_PxTxD = jax.lax.scan(add, zero_DxV, (hidden_PxTxD, targets_PxT, gradient))
    return hidden_PxTxD, total_DxV.astype(head_DxV.dtype), None, None


_mapped.defvjp(_mapped_forward, _mapped_backward)
