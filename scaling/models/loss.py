"""Cross-entropy in pieces, so that the logits of a large vocabulary never exist all at once in float32."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.accounting import loss_chunk
from scaling.models.layer import NOTHING, Aux
from scaling.models.matmul import matmul
from scaling.parallel.sharding import constrain


class LossSums(NamedTuple):
    """float32 sums over tokens; divided by `objective.count(batch)` they are means, aux by all tokens."""

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

    Windows are cut along their length into pieces of about `chunk` tokens in all; the backward pass computes each
    piece's logits again. With one piece there is nothing to compute again.
    """
    batch, length, d_model = hidden_BxLxD.shape

    def piece(hidden: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = constrain(logits_of(hidden, head_DxV, softcap), "batch", "sequence", "vocab")
        log_z = jax.nn.logsumexp(logits, -1)
        return log_z - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0], log_z

    tokens = loss_chunk(chunk, head_DxV.shape[1])
    pieces = -(-length // max(1, tokens // batch))
    if pieces == 1:
        return piece(hidden_BxLxD, targets_BxL)
    size = -(-length // pieces)
    padding = pieces * size - length
    hidden = jnp.pad(hidden_BxLxD, ((0, 0), (0, padding), (0, 0))).reshape(batch, pieces, size, d_model)
    targets = jnp.pad(targets_BxL, ((0, 0), (0, padding))).reshape(batch, pieces, size)
    out = jax.lax.map(lambda xs: jax.checkpoint(piece)(*xs), (hidden.swapaxes(0, 1), targets.swapaxes(0, 1)))
    nll_BxL, log_z_BxL = (jnp.swapaxes(x, 0, 1).reshape(batch, -1)[:, :length] for x in out)
    return nll_BxL, log_z_BxL
