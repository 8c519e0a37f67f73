"""Experts applied to the tokens that were sent to them, and to no others: dropless, sorted into blocks.

The pairs of a token and its expert are sorted by expert; each expert's are padded to whole blocks, and the blocks
that are in use are computed one after the other with their expert's matrices. `lax.ragged_dot` costs as much as all
experts on a CPU, and a batched product would copy the matrices for every block. Accelerators run the same loop,
slowly: they want a grouped product.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Expert = Callable[[jax.Array, Any], jax.Array]
"""(tokens [n, D], the parameters of one expert) → [n, D]"""
LEAST, MOST = 8, 256
"""rows of a block"""


class Blocks(NamedTuple):
    """How pairs [T·K] of a token and an expert lie in blocks of `rows`."""

    expert: jax.Array
    """[blocks], whose each is"""
    used: jax.Array
    """how many blocks hold a pair"""
    token: jax.Array
    """[blocks · rows], the token in each row; beyond the last token in a row that pads"""
    row: jax.Array
    """[T·K], where each pair is"""


def apply_experts(
    expert: Expert, parameters: Any, x_TxD: jax.Array, chosen_TxK: jax.Array, weights_TxK: jax.Array
) -> jax.Array:
    """Σ_k weight · expert_k(x) of every token, [T, D].

    parameters: a tree of arrays with the experts in front.
    """
    tokens, k = chosen_TxK.shape
    experts = jax.tree.leaves(parameters)[0].shape[0]
    blocks, rows = make_blocks(chosen_TxK, experts)
    sent = _sent(x_TxD, blocks.token, blocks.row).reshape(-1, rows, x_TxD.shape[-1])
    said = _computed(expert, sent, parameters, blocks.expert, blocks.used).reshape(-1, x_TxD.shape[-1])
    said_TxKxD = _returned(said, blocks.token, blocks.row, k).reshape(tokens, k, -1)
    return jnp.sum(said_TxKxD * weights_TxK[..., None].astype(said.dtype), 1)


def make_blocks(chosen_TxK: jax.Array, experts: int) -> tuple[Blocks, int]:
    """The blocks of these pairs, and their rows: about a quarter of what an expert gets where the load is even."""
    tokens, k = chosen_TxK.shape
    pairs = tokens * k
    rows = min(MOST, max(LEAST, 1 << max(pairs // (2 * experts), 1).bit_length() - 1))
    count = (pairs + experts * (rows - 1)) // rows
    of_pair = chosen_TxK.reshape(-1)
    order = jnp.argsort(of_pair, stable=True)
    counts = jnp.sum(jax.nn.one_hot(of_pair, experts, dtype=jnp.int32), 0)
    needed = -(-counts // rows)
    ends = jnp.cumsum(needed)
    first_block, first_pair = ends - needed, jnp.cumsum(counts) - counts
    expert = jnp.minimum(jnp.searchsorted(ends, jnp.arange(count), side="right"), experts - 1)
    place = jnp.arange(count * rows) - jnp.repeat(first_block[expert] * rows, rows)
    there = place < jnp.repeat(counts[expert], rows)
    pair = order[jnp.clip(jnp.repeat(first_pair[expert], rows) + place, 0, pairs - 1)]
    token = jnp.where(there, pair // k, tokens)
    row = first_block[of_pair] * rows + jnp.argsort(order) - first_pair[of_pair]
    return Blocks(expert, ends[-1], token, row), rows


@jax.custom_vjp
def _sent(x_TxD: jax.Array, token: jax.Array, row: jax.Array) -> jax.Array:
    """The tokens in their rows; rows that pad are 0. Its transpose gathers as well, where autodiff would scatter."""
    return x_TxD.at[token].get(mode="fill", fill_value=0)


def _sent_forward(x_TxD: jax.Array, token: jax.Array, row: jax.Array) -> Any:
    return _sent(x_TxD, token, row), (row, x_TxD.shape[0])


def _sent_backward(saved: Any, dy: jax.Array) -> Any:
    row, tokens = saved
    return dy[row].reshape(tokens, -1, dy.shape[-1]).sum(1), None, None


_sent.defvjp(_sent_forward, _sent_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _returned(said: jax.Array, token: jax.Array, row: jax.Array, k: int) -> jax.Array:
    """[T·K, D]: what was said of each pair."""
    return said[row]


def _returned_forward(said: jax.Array, token: jax.Array, row: jax.Array, k: int) -> Any:
    return _returned(said, token, row, k), (row, said.shape[0])


def _returned_backward(k: int, saved: Any, dy: jax.Array) -> Any:
    row, rows = saved
    return jnp.zeros((rows, dy.shape[-1]), dy.dtype).at[row].set(dy, unique_indices=True), None, None


_returned.defvjp(_returned_forward, _returned_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _computed(expert: Expert, sent: jax.Array, parameters: Any, owner: jax.Array, used: jax.Array) -> jax.Array:
    """Every block in use by its expert; the others stay 0."""

    def compute(i: jax.Array, said: jax.Array) -> jax.Array:
        return _put(said, expert(_at(sent, i), _at(parameters, owner[i])), i)

    return jax.lax.fori_loop(0, used, compute, jnp.zeros_like(sent))


def _computed_forward(expert: Expert, sent: jax.Array, parameters: Any, owner: jax.Array, used: jax.Array) -> Any:
    return _computed(expert, sent, parameters, owner, used), (sent, parameters, owner, used)


def _computed_backward(expert: Expert, saved: Any, dy: jax.Array) -> Any:
    """Each block is computed again, so nothing of its inside is kept."""
    sent, parameters, owner, used = saved

    def compute(i: jax.Array, grads: Any) -> Any:
        d_sent, d_parameters = grads
        _, transpose = jax.vjp(expert, _at(sent, i), _at(parameters, owner[i]))
        d_block, d_own = transpose(_at(dy, i))
        summed = jax.tree.map(
            lambda total, own: _put(total, _at(total, owner[i]) + own, owner[i]), d_parameters, d_own
        )
        return _put(d_sent, d_block, i), summed

    zero = jnp.zeros_like(sent), jax.tree.map(jnp.zeros_like, parameters)
    return *jax.lax.fori_loop(0, used, compute, zero), None, None


_computed.defvjp(_computed_forward, _computed_backward)


def _at(tree: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), tree)


def _put(x: jax.Array, value: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, value, index, 0)
