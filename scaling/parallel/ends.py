"""The layers before and after a pipeline's stages, which do not fit into its identical chunks of layers.

They are computed next to the embedding and the head. Where all microbatches are available at once (GPipe), each
device along `pipeline` holds a copy of these layers and computes every S-th microbatch; where one is available at a
time (1F1B), the devices split its windows as those of `fsdp` do.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from scaling.accounting.layout import PIPELINE, Parts
from scaling.families import Tensor
from scaling.parallel.parts import parameter_split
from scaling.parallel.pipeline import (
    Item,
    Row,
    along,
    cut,
    in_one_view,
    instead,
    joined,
    mapped,
    microbatches_of,
    stages,
    within,
)
from scaling.parallel.sharding import active_mesh, as_spec, one_stage
from scaling.parallel.zero import used_split

# S stages, M microbatches of b windows

Bounds = tuple[int, int]
"""(first layer of a stack that is in a stage, first layer after the stages)"""


class Pieces(NamedTuple):
    """A stacked parameter split by position: float32, since its gradients are summed over microbatches; None where a
    piece has no layers."""

    before: Any
    stages: Any
    behind: Any


def is_pieces(x: Any) -> bool:
    return isinstance(x, Pieces)


def apart(params: Any, declared: Any, bounds: Mapping[str, Bounds]) -> Any:
    """Split stacks of layers [N, …] into `Pieces`; `Pieces`, None and parameters without `bounds` stay as they are.

    A stack whose layers are all in stages keeps its layout. Otherwise each piece is moved to where it is computed.
    """

    def split(name: str, tensor: Tensor, w: Any) -> Any:
        return w if w is None or is_pieces(w) or name not in bounds else _apart(tensor, w, bounds[name])

    return {
        name: jax.tree.map(partial(split, name), declared[name], w, is_leaf=lambda x: isinstance(x, Tensor))
        for name, w in params.items()
    }


def _apart(tensor: Tensor, w: jax.Array, bounds: Bounds) -> Pieces:
    first, end, w = *bounds, w.astype(jnp.float32)
    if (first, end) == (0, len(w)):
        return Pieces(None, w, None)
    per_layer = tensor.axes[1:], tensor.shape[1:]
    # first shard each layer over the devices of all stages, so that every piece is a local slice
    has = {name for part in used_split(tensor.axes, tensor.shape) for name in part} | {PIPELINE}
    shared: Parts = ((), *(tuple(name for name in part if name in has) for part in parameter_split(*per_layer)))
    w, used = lies(w, shared), ((), *used_split(*per_layer))

    def moved_slice(start: int, stop: int, parts: Parts) -> jax.Array | None:
        return lies(lies(w[start:stop], shared), parts) if start < stop else None

    in_stages = ((PIPELINE,), *used_split(tensor.axes, (end - first, *tensor.shape[1:]))[1:])
    return Pieces(moved_slice(0, first, used), moved_slice(first, end, in_stages), moved_slice(end, len(w), used))


def piece(params: Any, declared: Any, which: str) -> tuple[Any, Any]:
    """(weights, their declarations) of one of the `Pieces`, for the stacks that have it."""
    chosen = {name: jax.tree.map(lambda p: getattr(p, which), w, is_leaf=is_pieces) for name, w in params.items()}
    chosen = {name: w for name, w in chosen.items() if jax.tree.leaves(w)}
    tensors = {name: declared[name] for name in chosen}
    return chosen, jax.tree.map(
        lambda tensor, w: replace(tensor, shape=w.shape), tensors, chosen, is_leaf=lambda x: isinstance(x, Tensor)
    )


def lies(x: jax.Array, parts: Parts) -> jax.Array:
    """`x` with a sharding constraint of these parts."""
    mesh = active_mesh()
    assert mesh is not None
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, as_spec(parts)))


def at_end(row: Row, requested: int) -> tuple[jax.Array, Any]:
    """As `pipelined`, for a chunk of layers outside the stages. Without layers it returns its input."""
    if not row.weights:
        return row.x_BxLxD, ({}, {})
    if instead() is not None:
        key, chunk = None if row.keys is None else row.keys[0], jnp.zeros((), jnp.int32)
        weights = jax.tree.map(lambda w: w[:, None], row.weights)
        x, aux = row.stage(weights, chunk, chunk, row.x_BxLxD, row.extras, key)
        return x, tuple(aux)
    microbatches, number = microbatches_of(row, requested), stages()
    turns = -(-microbatches // number)
    deal = partial(_dealt, microbatches=microbatches)
    key = None if row.keys is None else _in_turns(jax.random.key_data(row.keys), number)
    real = jnp.arange(turns * number).reshape(turns, number) < microbatches
    items = Item(deal(row.x_BxLxD), jax.tree.map(deal, row.extras), key, real, jnp.zeros_like(real, jnp.int32))
    weights = jax.tree.map(_copies, row.declared, row.weights, is_leaf=lambda x: isinstance(x, Tensor))
    y, sums = in_one_view(partial(_each, row.stage))(weights, items)
    return _collected(y, microbatches), sums


def _each(stage: Any, weights: Any, items: Item) -> tuple[jax.Array, Any]:
    """(outputs of the microbatches on every stage, [T, S, b, L, D]; losses and counts)."""

    def microbatch(weights: Any, item: Item) -> tuple[jax.Array, Any]:
        key = None if item.key is None else jax.random.wrap_key_data(item.key)
        x, aux = stage(weights, item.repeat, item.repeat, item.x, item.extras, key)
        return x, jax.tree.map(lambda y: jnp.where(item.real, y, 0), aux)

    def turn(_: None, item: Item) -> tuple[None, tuple[jax.Array, Any]]:
        return None, jax.vmap(microbatch, (1, 0), spmd_axis_name=PIPELINE)(weights, item)

    _, (y, aux) = jax.lax.scan(turn, None, items)
    return y, tuple(jax.tree.map(lambda x: jnp.sum(x, (0, 1)), aux))


def _copies(tensor: Tensor, w: jax.Array) -> jax.Array:
    """Layers [n, …] as [S, n, 1, …], one copy per stage; the gradients of the copies are summed once."""
    with one_stage():
        parts = used_split(tensor.axes[1:], tensor.shape[1:])
    copies = jnp.broadcast_to(w[:, None, None], (len(w), stages(), 1, *w.shape[1:]))
    return lies(copies, ((), (PIPELINE,), (), *parts))


def _in_turns(x: jax.Array, number: int) -> jax.Array:
    """[M, …] as [T, S, …], padded with zeros."""
    more = -len(x) % number
    return jnp.pad(x, ((0, more), *((0, 0),) * (x.ndim - 1))).reshape(-1, number, *x.shape[1:])


def _deal(x: jax.Array, microbatches: int) -> jax.Array:
    """Inside `by_parts`: a device's windows, exchanged for its microbatches [T, 1, b, …]."""
    x = cut(jax.lax.all_gather(x, PIPELINE, tiled=True), microbatches)
    x = _in_turns(x, jax.lax.axis_size(PIPELINE))
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(PIPELINE), 1, axis=1)


def _collect(x: jax.Array, microbatches: int) -> jax.Array:
    """The reverse of `_deal`."""
    x = jax.lax.all_gather(x, PIPELINE, axis=1, tiled=True)
    x = joined(x.reshape(-1, *x.shape[2:])[:microbatches])
    rows = len(x) // jax.lax.axis_size(PIPELINE)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(PIPELINE) * rows, rows)


def _ways(microbatches: int) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """`_deal` and its reverse."""
    return partial(_deal, microbatches=microbatches), partial(_collect, microbatches=microbatches)


def _dealt(x: jax.Array, microbatches: int) -> jax.Array:
    """[B, L, …] as [T, S, b, L, …]: microbatch t·S + s on stage s, padded with zeros."""
    split, (there, back) = along(x, whole=True), _ways(microbatches)
    return mapped(there, back, split, ((), (PIPELINE,), *within(split)), x)


def _collected(x: jax.Array, microbatches: int) -> jax.Array:
    """The reverse of `_dealt`."""
    whole = jax.ShapeDtypeStruct((microbatches * x.shape[2], *x.shape[3:]), x.dtype)
    given, (back, there) = along(whole, whole=True), _ways(microbatches)
    return mapped(there, back, ((), (PIPELINE,), *within(given)), given, x)
