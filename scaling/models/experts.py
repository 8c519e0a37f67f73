"""Experts applied to the tokens that were sent to them, and to no others: dropless, rows sorted by expert."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.models.grouped import all_experts, by_blocks, by_gmm, rows_of_block
from scaling.models.mlp import mlp
from scaling.parallel.sharding import target_platform


class Sent(NamedTuple):
    """Pairs of a token and an expert on one device, P of them."""

    expert_P: jax.Array
    """E for none: such a pair is not computed"""
    token_P: jax.Array
    """its row"""
    weight_P: jax.Array
    """float32"""
    each: int | None
    """pairs of each token, those of one after each other; None where tokens have any number"""


def apply_experts(
    parameters: Any, x_TxD: jax.Array, sent: Sent, activation: str, way: str, interpret: bool = False
) -> jax.Array:
    """Σ over a token's pairs of weight · expert(x), [T, D].

    parameters: of an MLP, every array with the experts in front. way: a name in `dispatch.EXPERTS`.
    """
    if way == "dense":
        return all_experts(partial(mlp, activation=activation), parameters, x_TxD, *sent[:3])
    experts, tokens = jax.tree.leaves(parameters)[0].shape[0], x_TxD.shape[0]
    pairs = sent.expert_P.size
    order = jnp.argsort(sent.expert_P, stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(pairs, dtype=order.dtype), unique_indices=True)
    sizes = jnp.zeros(experts, jnp.int32).at[sent.expert_P].add(1, mode="drop")
    block = rows_of_block(pairs, experts, target_platform())
    rows = jnp.pad(sent.token_P[order], (0, block), constant_values=tokens)
    sorted_RxD = _sent(x_TxD, rows, rank, sent.each)
    if way == "gmm":
        said_RxD = by_gmm(parameters, sorted_RxD, sizes, activation, interpret)
    else:
        said_RxD = by_blocks(partial(mlp, activation=activation), block, parameters, sorted_RxD, sizes)
    there = sent.expert_P < experts
    said_PxD = jnp.where(there[:, None], _returned(said_RxD, order, rank), 0)
    said_PxD = said_PxD.astype(jnp.float32) * jnp.where(there, sent.weight_P, 0.0)[:, None]
    return summed(said_PxD, sent, tokens).astype(x_TxD.dtype)


def summed(said_PxD: jax.Array, sent: Sent, tokens: int) -> jax.Array:
    """What was said of each token's pairs together."""
    if sent.each is not None:
        return said_PxD.reshape(tokens, sent.each, -1).sum(1)
    return jnp.zeros((tokens, said_PxD.shape[-1]), said_PxD.dtype).at[sent.token_P].add(said_PxD)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _sent(x_TxD: jax.Array, rows: jax.Array, rank: jax.Array, each: int | None) -> jax.Array:
    """The tokens in their rows; rows that pad are 0. Its transpose gathers as well, where autodiff would scatter."""
    return x_TxD.at[rows].get(mode="fill", fill_value=0)


def _sent_forward(x_TxD: jax.Array, rows: jax.Array, rank: jax.Array, each: int | None) -> Any:
    return _sent(x_TxD, rows, rank, each), (rows, rank, x_TxD.shape[0])


def _sent_backward(each: int | None, saved: Any, dy: jax.Array) -> Any:
    rows, rank, tokens = saved
    if each is None:
        return jnp.zeros((tokens, dy.shape[-1]), dy.dtype).at[rows].add(dy, mode="drop"), None, None
    return dy[rank].reshape(tokens, each, -1).sum(1), None, None


_sent.defvjp(_sent_forward, _sent_backward)


@jax.custom_vjp
def _returned(said_RxD: jax.Array, order: jax.Array, rank: jax.Array) -> jax.Array:
    """[P, D]: what was said of each pair."""
    return said_RxD[rank]


def _returned_forward(said_RxD: jax.Array, order: jax.Array, rank: jax.Array) -> Any:
    return _returned(said_RxD, order, rank), (order, said_RxD.shape[0])


def _returned_backward(saved: Any, dy: jax.Array) -> Any:
    order, rows = saved
    return jnp.pad(dy[order], ((0, rows - order.size), (0, 0))), None, None


_returned.defvjp(_returned_forward, _returned_backward)
