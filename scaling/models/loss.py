"""Cross-entropy in pieces, so that the logits of a large vocabulary never exist all at once in float32."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from scaling.accounting import loss_chunk
from scaling.models.layer import NOTHING, Aux
from scaling.models.matmul import matmul
from scaling.parallel.sharding import constrain, ways


class LossSums(NamedTuple):
    """float32 sums over tokens; divided by `objective.count(batch)` they are means."""

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

    What a device has of the windows is cut along their length into pieces of about `chunk` tokens; the backward pass
    computes each piece's logits again. With one piece there is nothing to compute again.
    """
    batch, whole, _ = hidden_BxLxD.shape
    parts = ways("sequence") if whole % ways("sequence") == 0 else 1
    length = whole // parts

    def piece(hidden: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = constrain(logits_of(hidden, head_DxV, softcap), "batch", "sequence", "vocab")
        log_z = jax.nn.logsumexp(logits, -1)
        return log_z - jnp.take_along_axis(logits, targets[..., None], -1)[..., 0], log_z

    tokens, windows = loss_chunk(chunk, head_DxV.shape[1]), -(-batch // ways("batch"))
    pieces = -(-length // max(1, tokens // windows))
    if pieces == 1:
        return piece(hidden_BxLxD, targets_BxL)
    size = -(-length // pieces)
    padding = pieces * size - length

    def cut(x: jax.Array) -> jax.Array:
        """[pieces, B, parts · size, …]"""
        x = x.reshape(batch, parts, length, *x.shape[2:])
        x = jnp.pad(x, ((0, 0), (0, 0), (0, padding), *((0, 0),) * (x.ndim - 3)))
        x = jnp.moveaxis(x.reshape(batch, parts, pieces, size, *x.shape[3:]), 2, 0)
        return x.reshape(pieces, batch, parts * size, *x.shape[4:])

    def joined(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x.reshape(pieces, batch, parts, size), 0, 2)
        return x.reshape(batch, parts, -1)[:, :, :length].reshape(batch, whole)

    nll, log_z = jax.lax.map(lambda xs: jax.checkpoint(piece)(*xs), (cut(hidden_BxLxD), cut(targets_BxL)))
    return joined(nll), joined(log_z)
