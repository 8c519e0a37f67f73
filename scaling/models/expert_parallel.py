"""Expert parallelism: each device computes its own experts, and tokens travel to them and back.

Every device holds the T tokens of its own windows and, along the mesh axis `expert`, its own experts, each split
along `tensor`. Buffers are sized for the most tokens that can arrive, so none is dropped.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.config.placement import Placement
from scaling.families.dispatch import choose_experts, choose_transport
from scaling.models.experts import Sent, apply_experts, combine, gather_rows, sorted_rows
from scaling.models.routing import Pairs
from scaling.parallel.parts import activation_split, beyond, by_parts, gathered, joined
from scaling.parallel.sharding import target_platform, ways
from scaling.parallel.zero import gradient_split, scattering, used_split

AXIS = "expert"
Compute = Callable[[Any, jax.Array, Sent], jax.Array]
"""(parameters, rows, row-expert pairs) → the output of each row"""


class Experts(NamedTuple):
    """How the experts of a layer are applied."""

    activation: str
    number: int
    """number of experts on all devices together"""
    each: int | None
    """experts per token; None where the number varies between tokens"""
    most: int
    """at most min(tokens · each, windows · n · most) pairs have one of n given experts"""
    dropout: float = 0.0
    """dropout rate of hidden units, for pairs with a seed"""


def on_the_mesh(
    experts: Experts, placement: Placement, parameters: Any, axes: Any, x_BxLxD: jax.Array, pairs: Pairs
) -> jax.Array:
    """Σ over a token's pairs of weight · expert(x), [B, L, D], on the active mesh.

    parameters: those of an MLP, every array with a leading expert axis. axes: their logical axes.
    Raises UserError if the placement's `experts` or `transport` cannot run on the mesh's platform.
    """
    platform = target_platform()
    way = choose_experts(placement.experts, platform)
    transport = choose_transport(placement.transport, platform)
    sent_leaves, of_sent = jax.tree.flatten(pairs)
    leaves, structure = jax.tree.flatten(parameters)
    unshared = [
        activation_split(tuple(None if axis == "embed" else axis for axis in own), w.shape)
        for own, w in zip(axes, leaves, strict=True)
    ]
    shared_storage = [
        beyond(parts, used_split(own, w.shape)) for parts, own, w in zip(unshared, axes, leaves, strict=True)
    ]
    layouts = [joined(parts, more) for parts, more in zip(unshared, shared_storage, strict=True)]
    given = [
        scattering(w, parts, beyond(parts, gradient_split(own, w.shape)))
        for w, parts, own in zip(leaves, layouts, axes, strict=True)
    ]
    shared = experts.each is not None and x_BxLxD.shape[1] % ways("sequence") == 0
    along = "sequence" if shared else None  # pairs are split like their tokens
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
    """Apply this device's experts, whose hidden width is split over `split` devices."""
    if split > 1 and "bias" in parameters["down"]:  # each of the devices adds it
        down = parameters["down"]
        parameters = parameters | {"down": down | {"bias": down["bias"] / split}}

    def drop(hidden: jax.Array, seed: jax.Array | None) -> jax.Array:
        return dropped(hidden, seed, experts.dropout, split)

    y_TxD = apply_experts(parameters, x_TxD, sent, experts.activation, way, drop)
    return y_TxD if split == 1 else jax.lax.psum(y_TxD, "tensor")


def dropped(hidden_RxF: jax.Array, seed_R: jax.Array | None, rate: float, split: int) -> jax.Array:
    """Dropout of hidden units, seeded per row; each shard draws the mask of the whole width and uses its own part."""
    if seed_R is None:
        return hidden_RxF
    width = hidden_RxF.shape[-1]
    kept = jax.vmap(lambda seed: jax.random.bernoulli(jax.random.key(seed), 1 - rate, (split, width)))(seed_R)
    kept_here = kept[:, jax.lax.axis_index("tensor")] if split > 1 else kept[:, 0]
    return jnp.where(kept_here, hidden_RxF / (1 - rate), 0).astype(hidden_RxF.dtype)


def _gathered(compute: Compute, parameters: Any, x_TxD: jax.Array, sent: Sent, number: int) -> jax.Array:
    """Gather the tokens of all devices along the axis, compute the pairs whose expert is here, and sum the outputs on
    each token's own device (reduce-scatter)."""
    devices, tokens = jax.lax.axis_size(AXIS), x_TxD.shape[0]
    here = number // devices

    def gather(x: jax.Array) -> jax.Array:
        return jax.lax.all_gather(x, AXIS, tiled=True)

    own = gather(sent.expert_P) - jax.lax.axis_index(AXIS) * here
    own = jnp.where((own >= 0) & (own < here), own, here)
    token = gather(sent.token_P + jax.lax.axis_index(AXIS) * tokens)
    seed = None if sent.seed_P is None else gather(sent.seed_P)
    y_TxD = compute(parameters, gather(x_TxD), Sent(own, token, gather(sent.weight_P), sent.each, seed))
    return jax.lax.psum_scatter(y_TxD, AXIS, tiled=True)


def _exchanged(
    compute: Compute, parameters: Any, x_TxD: jax.Array, sent: Sent, here: int, most: int, transport: str
) -> jax.Array:
    """Send each pair's token to the device of its expert, at most `most` to each, and return the outputs."""
    devices, pairs, tokens = jax.lax.axis_size(AXIS), sent.expert_P.size, x_TxD.shape[0]
    rows = sorted_rows(sent, here * devices, tokens)  # by device, then by expert; dropped pairs come last
    expert_P = sent.expert_P[rows.pair_R]
    to_P, there = expert_P // here, expert_P < here * devices
    counts = jnp.zeros(devices, jnp.int32).at[to_P].add(1, mode="drop")
    first = jnp.cumsum(counts) - counts
    place_P = to_P * most + jnp.arange(pairs) - first.at[to_P].get(mode="clip")
    padded = _Padded(jnp.where(there, place_P, devices * most), devices * most)
    exchange = _Ragged(counts, first, most) if transport == "ragged" else padded
    expert_R = exchange.send(expert_P % here, here)
    row_RxD = exchange.send(gather_rows(x_TxD, rows, sent.each), 0)
    seed_R = None if sent.seed_P is None else exchange.send(sent.seed_P[rows.pair_R], 0)
    received = Sent(expert_R, jnp.arange(expert_R.size), jnp.ones(expert_R.size, jnp.float32), 1, seed_R)
    y_PxD = exchange.back(compute(parameters, row_RxD, received), pairs)
    return combine(y_PxD, sent.weight_P, rows, sent.each, tokens)


class _Padded(NamedTuple):
    """All-to-all of buffers of one size for each device."""

    place_P: jax.Array
    """index of each pair in the buffers; past their end for a dropped pair"""
    size: int

    def send(self, x: jax.Array, filling: int) -> jax.Array:
        buffers = jnp.full((self.size, *x.shape[1:]), filling, x.dtype).at[self.place_P].set(x, mode="drop")
        return jax.lax.all_to_all(buffers, AXIS, 0, 0, tiled=True)

    def back(self, x: jax.Array, pairs: int) -> jax.Array:
        return jax.lax.all_to_all(x, AXIS, 0, 0, tiled=True).at[self.place_P].get(mode="fill", fill_value=0)


class _Ragged(NamedTuple):
    """Ragged all-to-all of exactly the pairs there are, after an exchange of their counts."""

    counts: jax.Array
    """pairs for each device"""
    first: jax.Array
    """index of the first pair for each device"""
    most: int

    def _table(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(pairs from device to device, offset of those pairs at the receiver, index of this device)."""
        table = jax.lax.all_gather(self.counts, AXIS)
        return table, jnp.cumsum(table, 0) - table, jax.lax.axis_index(AXIS)

    def send(self, x: jax.Array, filling: int) -> jax.Array:
        table, offsets, me = self._table()
        room = jnp.full((table.shape[0] * self.most, *x.shape[1:]), filling, x.dtype)
        return jax.lax.ragged_all_to_all(x, room, self.first, self.counts, offsets[me], table[:, me], axis_name=AXIS)

    def back(self, x: jax.Array, pairs: int) -> jax.Array:
        table, offsets, me = self._table()
        room = jnp.zeros((pairs, *x.shape[1:]), x.dtype)
        starts = jnp.cumsum(table, 1) - table
        return jax.lax.ragged_all_to_all(
            x, room, offsets[:, me], table[:, me], starts[:, me], self.counts, axis_name=AXIS
        )
