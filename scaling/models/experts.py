"""Dropless application of experts to the tokens routed to them, with rows sorted by expert."""

from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from scaling.families.dispatch import GROUPED, keeps_hidden
from scaling.models.grouped import TILE, Expert, all_experts, by_blocks, by_products, rows_of_blocks
from scaling.models.matmul import matmul
from scaling.models.mlp import from_hidden, to_hidden
from scaling.parallel.sharding import target_platform


class Drop(Protocol):
    """Dropout of hidden units [R, F], drawn from the seeds of their rows."""

    def __call__(self, hidden: jax.Array, seed: jax.Array | None) -> jax.Array: ...


class Sent(NamedTuple):
    """The token-expert pairs to compute on one device, P of them."""

    expert_P: jax.Array
    """expert index; E for none: such a pair is not computed"""
    token_P: jax.Array
    """row of the token"""
    weight_P: jax.Array
    """float32"""
    each: int | None
    """pairs per token, those of a token adjacent; None where the number varies between tokens"""
    seed_P: jax.Array | None = None
    """seeds for dropout of hidden units; None without dropout"""


def apply_experts(
    parameters: Any,
    x_TxD: jax.Array,
    sent: Sent,
    activation: str,
    way: str,
    drop: Drop = lambda hidden, seed: hidden,
    interpret: bool = False,
) -> jax.Array:
    """Σ over a token's pairs of weight · expert(x), [T, D].

    parameters: those of an MLP, every array with a leading expert axis. way: a name in `dispatch.EXPERTS`. drop:
    applied to hidden units.
    """

    def expert(product: Any) -> Expert:
        def second(hidden: Any, seed: jax.Array | None, w: Any) -> jax.Array:
            return from_hidden(hidden, w, activation, product, drop=partial(drop, seed=seed))

        return Expert(partial(to_hidden, product=product), second)

    if way == "dense":
        return all_experts(
            expert(jnp.matmul), parameters, x_TxD, sent.expert_P, sent.token_P, sent.weight_P, sent.seed_P
        )
    experts, tokens = jax.tree.leaves(parameters)[0].shape[0], x_TxD.shape[0]
    pairs = sent.expert_P.size
    sizes = jnp.zeros(experts, jnp.int32).at[sent.expert_P].add(1, mode="drop")
    platform = target_platform()
    blocks = rows_of_blocks(pairs, experts, platform)
    rows = sorted_rows(sent, experts, tokens, -pairs % TILE if way in GROUPED else blocks[-1])
    sorted_RxD = gather_rows(x_TxD, rows, sent.each)
    seed_R = None if sent.seed_P is None else sent.seed_P[rows.pair_R]
    if way in GROUPED:
        dropped = partial(drop, seed=seed_R)
        y_RxD = by_products(way, parameters, sorted_RxD, sizes, activation, dropped, interpret)
    else:
        y_RxD = by_blocks(expert(matmul), blocks, keeps_hidden(way, platform), parameters, sorted_RxD, seed_R, sizes)
    return combine(y_RxD, sent.weight_P, rows, sent.each, tokens)


class Rows(NamedTuple):
    """Pairs sorted by expert, then pairs without an expert, then padding: R rows in all."""

    pair_R: jax.Array
    token_R: jax.Array
    """row of the token; one past the last for padding and for pairs that are not computed"""
    rank_P: jax.Array
    """row of each pair in the sorted order"""


def sorted_rows(sent: Sent, experts: int, tokens: int, padding: int = 0) -> Rows:
    """Sort pairs by expert. experts: indices from this on mean no expert. padding: rows after the last pair."""
    pairs = sent.expert_P.size
    order = jnp.argsort(sent.expert_P, stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(pairs, dtype=order.dtype), unique_indices=True)
    token = jnp.where(sent.expert_P < experts, sent.token_P, tokens)[order]
    return Rows(jnp.pad(order, (0, padding)), jnp.pad(token, (0, padding), constant_values=tokens), rank)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def gather_rows(x_TxD: jax.Array, rows: Rows, each: int | None) -> jax.Array:
    """The tokens gathered into sorted rows, 0 in empty ones. Its transpose gathers, where autodiff would scatter."""
    return x_TxD.at[rows.token_R].get(mode="fill", fill_value=0)


def _gather_rows_forward(x_TxD: jax.Array, rows: Rows, each: int | None) -> Any:
    return gather_rows(x_TxD, rows, each), (rows, x_TxD.shape[0])


def _gather_rows_backward(each: int | None, saved: Any, dy_RxD: jax.Array) -> Any:
    rows, tokens = saved
    ones = jnp.ones(rows.rank_P.size, jnp.float32)
    return _sums(dy_RxD, ones, rows, each, tokens).astype(dy_RxD.dtype), None


gather_rows.defvjp(_gather_rows_forward, _gather_rows_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def combine(y_RxD: jax.Array, weight_P: jax.Array, rows: Rows, each: int | None, tokens: int) -> jax.Array:
    """Σ over a token's pairs of weight · expert output, [T, D], summed in float32.

    For the backward pass it keeps the outputs at their own precision, and no product of outputs and weights.
    """
    return _sums(y_RxD, weight_P, rows, each, tokens).astype(y_RxD.dtype)


def _combine_forward(y_RxD: jax.Array, weight_P: jax.Array, rows: Rows, each: int | None, tokens: int) -> Any:
    return combine(y_RxD, weight_P, rows, each, tokens), (y_RxD, weight_P, rows)


def _combine_backward(each: int | None, tokens: int, saved: Any, dy_TxD: jax.Array) -> Any:
    y_RxD, weight_P, rows = saved
    dy_RxD = dy_TxD.at[rows.token_R].get(mode="fill", fill_value=0).astype(jnp.float32)
    dy_weighted_RxD = (dy_RxD * weight_P[rows.pair_R][:, None]).astype(y_RxD.dtype)
    there = (rows.token_R < tokens)[:, None]
    dweight_R = jnp.sum(jnp.where(there, y_RxD, 0).astype(jnp.float32) * dy_RxD, -1)
    return dy_weighted_RxD, dweight_R[rows.rank_P], None


combine.defvjp(_combine_forward, _combine_backward)


def _sums(x_RxD: jax.Array, weight_P: jax.Array, rows: Rows, each: int | None, tokens: int) -> jax.Array:
    """Σ over the rows of each token of weight · x, [T, D] float32."""
    if each is None:
        weighed = x_RxD.astype(jnp.float32) * weight_P[rows.pair_R][:, None]
        return jnp.zeros((tokens, x_RxD.shape[-1]), jnp.float32).at[rows.token_R].add(weighed, mode="drop")
    rank_KxT = rows.rank_P.reshape(tokens, each).T
    total = jnp.zeros((tokens, x_RxD.shape[-1]), jnp.float32)
    for rank_T, weight_T in zip(rank_KxT, weight_P.reshape(tokens, each).T, strict=True):  # never [P, D] at once
        there = (rows.token_R[rank_T] < tokens)[:, None]
        total += jnp.where(there, x_RxD[rank_T], 0).astype(jnp.float32) * weight_T[:, None]
    return total
