"""Experts spread over the devices of a mesh: each computes its own, and tokens come to them and go back.

On every device lie tokens of its own windows (T of them) and, along the mesh axis `expert`, experts of its own, each
split along `tensor`. What is sent is bounded by the most that can come, so no token is dropped.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.config.run import Placement
from scaling.families.dispatch import choose_experts, choose_transport
from scaling.models.experts import Sent, apply_experts, summed
from scaling.models.routing import Pairs
from scaling.parallel.sharding import on_each_device, target_platform, ways

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
    leaves, structure = jax.tree.flatten(parameters)
    names = [tuple(None if axis == "embed" else axis for axis in own) for own in axes]
    split = ways("mlp") if parameters["down"]["kernel"].shape[1] % ways("mlp") == 0 else 1

    def local(x_BxLxD: jax.Array, expert: jax.Array, token: jax.Array, weight: jax.Array, *leaves: Any) -> jax.Array:
        own = jax.tree.unflatten(structure, leaves)
        batch, length, width = x_BxLxD.shape
        if ways("sequence") > 1 and along == "sequence":
            token = token - jax.lax.axis_index("context") * length
        rows = token + jnp.arange(batch)[:, None] * length
        sent = Sent(expert.reshape(-1), rows.reshape(-1), weight.reshape(-1), experts.each)
        compute = partial(_compute, experts.activation, way, split)
        x_TxD = x_BxLxD.reshape(-1, width)
        if ways("experts") == 1:
            return compute(own, x_TxD, sent).reshape(x_BxLxD.shape)
        if transport == "gather":
            return _gathered(compute, own, x_TxD, sent, experts.number).reshape(x_BxLxD.shape)
        here = experts.number // ways("experts")
        most = min(batch * here * experts.most, batch * length * min(experts.each or here, here))
        return _exchanged(compute, own, x_TxD, sent, here, most, transport).reshape(x_BxLxD.shape)

    along = None if experts.each is None else "sequence"  # a device's tokens have the pairs that lie there
    of_pairs = ("batch", along)
    arrays = (x_BxLxD, pairs.expert_BxS, pairs.token_BxS, pairs.weight_BxS, *leaves)
    return on_each_device(local, (("batch", along, None), of_pairs, of_pairs, of_pairs, *names), *arrays)


def _compute(activation: str, way: str, split: int, parameters: Any, x_TxD: jax.Array, sent: Sent) -> jax.Array:
    """By experts that are here, of whose hidden width each of `split` devices has a part."""
    if split > 1 and "bias" in parameters["down"]:  # added on each of them
        down = parameters["down"]
        parameters = parameters | {"down": down | {"bias": down["bias"] / split}}
    said = apply_experts(parameters, x_TxD, sent, activation, way)
    return said if split == 1 else jax.lax.psum(said, "tensor")


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
    said = compute(parameters, gather(x_TxD), Sent(own, token, gather(sent.weight_P), sent.each))
    return jax.lax.psum_scatter(said, AXIS, tiled=True)


def _exchanged(
    compute: Compute, parameters: Any, x_TxD: jax.Array, sent: Sent, here: int, most: int, transport: str
) -> jax.Array:
    """Each pair's token goes to the device of its expert, at most `most` to each, and what was said comes back."""
    devices, pairs = jax.lax.axis_size(AXIS), sent.expert_P.size
    order = jnp.argsort(sent.expert_P, stable=True)  # by device and there by expert; those that are dropped come last
    to_P = sent.expert_P[order] // here
    counts = jnp.zeros(devices, jnp.int32).at[to_P].add(1, mode="drop")
    first = jnp.cumsum(counts) - counts
    there = to_P < devices
    place_P = to_P * most + jnp.arange(pairs) - first.at[to_P].get(mode="clip")
    padded = _Padded(jnp.where(there, place_P, devices * most), devices * most)
    exchange = _Ragged(counts, first, most) if transport == "ragged" else padded
    expert_R = exchange.send(sent.expert_P[order] % here, here)
    row_RxD = exchange.send(x_TxD[sent.token_P[order]], 0)
    received = Sent(expert_R, jnp.arange(expert_R.size), jnp.ones(expert_R.size, jnp.float32), 1)
    said_PxD = exchange.back(compute(parameters, row_RxD, received), pairs)
    said_PxD = jnp.where(there[:, None], said_PxD, 0).astype(jnp.float32)
    said_PxD = said_PxD * jnp.where(there, sent.weight_P[order], 0.0)[:, None]
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(pairs, dtype=order.dtype), unique_indices=True)
    return summed(said_PxD[rank], sent, x_TxD.shape[0]).astype(x_TxD.dtype)


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
