"""Experts spread over the devices of a mesh: each computes its own, and tokens come to them and go back.

On every device lie tokens of its own windows (T of them) and, along the mesh axis `expert`, experts of its own, each
split along `tensor`. What is sent is bounded by the most that can come, so no token is dropped.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.config.placement import Placement
from scaling.families.dispatch import choose_experts, choose_transport
from scaling.models.experts import Sent, apply_experts, sorted_rows, summed, taken
from scaling.models.routing import Pairs
from scaling.parallel.parts import activation_split, beyond, by_parts, gathered, joined
from scaling.parallel.sharding import target_platform, ways
from scaling.parallel.zero import gradient_split, scattering, used_split

AXIS = "expert"
Compute = Callable[[Any, jax.Array, Sent], jax.Array]
"""(parameters, rows, pairs of a row and an expert) → what was said of each row"""


class Experts(NamedTuple):
    """How the experts of a layer are applied."""

    activation: str
    number: int
    """of all devices"""
    each: int | None
    """experts that a token meets; None where tokens meet any number"""
    most: int
    """pairs of a token and one of n experts, at most, are least(tokens · each, windows · n · most)"""
    dropout: float = 0.0
    """share of the hidden units of a pair with a seed that are dropped"""


def on_the_mesh(
    experts: Experts, placement: Placement, parameters: Any, axes: Any, x_BxLxD: jax.Array, pairs: Pairs
) -> jax.Array:
    """Σ over a token's pairs of weight · expert(x), [B, L, D], on the mesh that is traced for.

    parameters: of an MLP, every array with the experts in front. axes: their logical axes.
    Raises UserError where the ways that the placement asks for cannot run on the mesh's platform.
    """
    platform = target_platform()
    way = choose_experts(placement.experts, platform)
    transport = choose_transport(placement.transport, platform)
    sent_leaves, of_sent = jax.tree.flatten(pairs)
    leaves, structure = jax.tree.flatten(parameters)
    meant = [
        activation_split(tuple(None if axis == "embed" else axis for axis in own), w.shape)
        for own, w in zip(axes, leaves, strict=True)
    ]
    shared_storage = [
        beyond(parts, used_split(own, w.shape)) for parts, own, w in zip(meant, axes, leaves, strict=True)
    ]
    lie = [joined(parts, more) for parts, more in zip(meant, shared_storage, strict=True)]
    given = [
        scattering(w, parts, beyond(parts, gradient_split(own, w.shape)))
        for w, parts, own in zip(leaves, lie, axes, strict=True)
    ]
    shared = experts.each is not None and x_BxLxD.shape[1] % ways("sequence") == 0
    along = "sequence" if shared else None  # a device's tokens have the pairs that lie there
    split = ways("mlp") if parameters["down"]["kernel"].shape[1] % ways("mlp") == 0 else 1

    def local(x_BxLxD: jax.Array, *arrays: jax.Array) -> jax.Array:
        own_pairs = jax.tree.unflatten(of_sent, arrays[: len(sent_leaves)])
        stored = arrays[len(sent_leaves) :]
        own = jax.tree.unflatten(structure, map(gathered, stored, shared_storage))
        batch, length, width = x_BxLxD.shape
        first = jax.lax.axis_index("context") * length if along and ways(along) > 1 else 0
        rows_BxS = own_pairs.token_BxS - first + jnp.arange(batch)[:, None] * length
        expert_P, token_P, weight_P, seed_P = jax.tree.map(jnp.ravel, own_pairs._replace(token_BxS=rows_BxS))
        sent = Sent(expert_P, token_P, weight_P, experts.each, seed_P)
        compute = partial(_compute, experts, way, split)
        x_TxD = x_BxLxD.reshape(-1, width)
        if ways("experts") == 1:
            return compute(own, x_TxD, sent).reshape(x_BxLxD.shape)
        if transport == "gather":
            return _gathered(compute, own, x_TxD, sent, experts.number).reshape(x_BxLxD.shape)
        here = experts.number // ways("experts")
        most = min(batch * here * experts.most, batch * length * min(experts.each or here, here))
        return _exchanged(compute, own, x_TxD, sent, here, most, transport).reshape(x_BxLxD.shape)

    of_x = activation_split(("batch", along, None), x_BxLxD.shape)
    of_pairs = [activation_split(("batch", along), x.shape) for x in sent_leaves]
    lying = (of_x, *of_pairs, *(parts for _, parts in given))
    return by_parts(local, lying, of_x, x_BxLxD, *sent_leaves, *(w for w, _ in given))


def _compute(experts: Experts, way: str, split: int, parameters: Any, x_TxD: jax.Array, sent: Sent) -> jax.Array:
    """By experts that are here, of whose hidden width each of `split` devices has a part."""
    if split > 1 and "bias" in parameters["down"]:  # added on each of them
        down = parameters["down"]
        parameters = parameters | {"down": down | {"bias": down["bias"] / split}}

    def drop(hidden: jax.Array, seed: jax.Array | None) -> jax.Array:
        return dropped(hidden, seed, experts.dropout, split)

    said = apply_experts(parameters, x_TxD, sent, experts.activation, way, drop)
    return said if split == 1 else jax.lax.psum(said, "tensor")


def dropped(hidden_RxF: jax.Array, seed_R: jax.Array | None, rate: float, split: int) -> jax.Array:
    """Hidden units, a share of them 0 by the seed of their row; a shard draws those of all and takes its own."""
    if seed_R is None:
        return hidden_RxF
    width = hidden_RxF.shape[-1]
    kept = jax.vmap(lambda seed: jax.random.bernoulli(jax.random.key(seed), 1 - rate, (split, width)))(seed_R)
    mine = kept[:, jax.lax.axis_index("tensor")] if split > 1 else kept[:, 0]
    return jnp.where(mine, hidden_RxF / (1 - rate), 0).astype(hidden_RxF.dtype)


def _gathered(compute: Compute, parameters: Any, x_TxD: jax.Array, sent: Sent, number: int) -> jax.Array:
    """All tokens of the neighbours, of which the pairs with an expert from here are computed; what was said is
    summed where each token is from."""
    devices, tokens = jax.lax.axis_size(AXIS), x_TxD.shape[0]
    here = number // devices

    def gather(x: jax.Array) -> jax.Array:
        return jax.lax.all_gather(x, AXIS, tiled=True)

    own = gather(sent.expert_P) - jax.lax.axis_index(AXIS) * here
    own = jnp.where((own >= 0) & (own < here), own, here)
    token = gather(sent.token_P + jax.lax.axis_index(AXIS) * tokens)
    seed = None if sent.seed_P is None else gather(sent.seed_P)
    said = compute(parameters, gather(x_TxD), Sent(own, token, gather(sent.weight_P), sent.each, seed))
    return jax.lax.psum_scatter(said, AXIS, tiled=True)


def _exchanged(
    compute: Compute, parameters: Any, x_TxD: jax.Array, sent: Sent, here: int, most: int, transport: str
) -> jax.Array:
    """Each pair's token goes to the device of its expert, at most `most` to each, and what was said comes back."""
    devices, pairs, tokens = jax.lax.axis_size(AXIS), sent.expert_P.size, x_TxD.shape[0]
    rows = sorted_rows(
        sent, here * devices, tokens
    )  # by device and there by expert; those that are dropped come last
    expert_P = sent.expert_P[rows.pair_R]
    to_P, there = expert_P // here, expert_P < here * devices
    counts = jnp.zeros(devices, jnp.int32).at[to_P].add(1, mode="drop")
    first = jnp.cumsum(counts) - counts
    place_P = to_P * most + jnp.arange(pairs) - first.at[to_P].get(mode="clip")
    padded = _Padded(jnp.where(there, place_P, devices * most), devices * most)
    exchange = _Ragged(counts, first, most) if transport == "ragged" else padded
    expert_R = exchange.send(expert_P % here, here)
    row_RxD = exchange.send(taken(x_TxD, rows, sent.each), 0)
    seed_R = None if sent.seed_P is None else exchange.send(sent.seed_P[rows.pair_R], 0)
    received = Sent(expert_R, jnp.arange(expert_R.size), jnp.ones(expert_R.size, jnp.float32), 1, seed_R)
    said_PxD = exchange.back(compute(parameters, row_RxD, received), pairs)
    return summed(said_PxD, sent.weight_P, rows, sent.each, tokens)


class _Padded(NamedTuple):
    """Buffers of one size for each device."""

    place_P: jax.Array
    """where each pair lies in the buffers; behind them for none"""
    size: int

    def send(self, x: jax.Array, filling: int) -> jax.Array:
        buffers = jnp.full((self.size, *x.shape[1:]), filling, x.dtype).at[self.place_P].set(x, mode="drop")
        return jax.lax.all_to_all(buffers, AXIS, 0, 0, tiled=True)

    def back(self, x: jax.Array, pairs: int) -> jax.Array:
        return jax.lax.all_to_all(x, AXIS, 0, 0, tiled=True).at[self.place_P].get(mode="fill", fill_value=0)


class _Ragged(NamedTuple):
    """Just what there is; the sizes are told beforehand."""

    counts: jax.Array
    """pairs for each device"""
    first: jax.Array
    """the first of each, in their order"""
    most: int

    def _table(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Pairs from device to device; where those from each device lie at its receiver; this device."""
        table = jax.lax.all_gather(self.counts, AXIS)
        return table, jnp.cumsum(table, 0) - table, jax.lax.axis_index(AXIS)

    def send(self, x: jax.Array, filling: int) -> jax.Array:
        table, lie, me = self._table()
        room = jnp.full((table.shape[0] * self.most, *x.shape[1:]), filling, x.dtype)
        return jax.lax.ragged_all_to_all(x, room, self.first, self.counts, lie[me], table[:, me], axis_name=AXIS)

    def back(self, x: jax.Array, pairs: int) -> jax.Array:
        table, lie, me = self._table()
        room = jnp.zeros((pairs, *x.shape[1:]), x.dtype)
        starts = jnp.cumsum(table, 1) - table
        return jax.lax.ragged_all_to_all(
            x, room, lie[:, me], table[:, me], starts[:, me], self.counts, axis_name=AXIS
        )
