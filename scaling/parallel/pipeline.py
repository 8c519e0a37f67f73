"""Pipeline parallelism: stages hold their own layers and pass microbatches on to each other.

All stages are one program under `vmap`, whose axis is sharded over the mesh axis `pipeline`. In a tick each stage
computes a chunk of its layers and sends the output to the next stage (GPipe, 1811.06965). With several chunks per
stage, groups of S microbatches go around the stages once per chunk (interleaved, Megatron 2104.04473): M microbatches
over S stages of R chunks each take M·R + S − 1 ticks, in M·R of which a given device works. The backward pass is that
of the loop, after all forward passes.

Before and after the stages, the devices of a pipeline split the windows as those of `fsdp` do; for layers there see
`ends`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from math import gcd
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.accounting.layout import PIPELINE, Parts, activation_parts, in_stage, window_ways
from scaling.families import Tensor
from scaling.parallel.parts import by_parts
from scaling.parallel.sharding import active_mesh, one_stage, seen
from scaling.parallel.zero import used_split

# S stages, R chunks of layers on each, M microbatches of b windows

Stage = Callable[[Any, jax.Array, jax.Array, jax.Array, Any, Any], tuple[jax.Array, Any]]
"""(weights [layers of a chunk, R, …], which of the R chunks, its index among all chunks, stream [b, L, D], other
arrays of these windows, key) → (stream, `Aux`)"""


class Item(NamedTuple):
    """The microbatches that the stages work on: every array with S in front."""

    x: jax.Array
    extras: Any
    """tokens, marks and positions of the same windows"""
    key: Any
    """key data of the microbatch; None without randomness"""
    real: jax.Array
    """whether this is a microbatch rather than filler before the first or after the last one"""
    repeat: jax.Array
    """how often the microbatch has been around the stages"""


class Row(NamedTuple):
    """The arguments of `pipelined`: consecutive layers and what they are applied to."""

    stage: Stage
    weights: Any
    """of all layers, stacked, float32"""
    declared: Any
    """their declarations"""
    repeats: int
    """chunks per stage; more than 1: the number of microbatches is a multiple of the stages, see `RunConfig`"""
    x_BxLxD: jax.Array
    extras: Any
    """arrays [B, L] that travel with their windows"""
    keys: Any
    """one per microbatch, where row i of the batch belongs to microbatch i mod M; None without randomness"""
    nothing: Any
    """losses and counts of all of its layers, as zeros"""
    bounds: Any
    """which layers of each stack of the model are in stages, see `ends.apart`"""


Through = Callable[[Row], tuple[jax.Array, Any]]
_through: ContextVar[Through | None] = ContextVar("through", default=None)


@contextmanager
def through(other: Through) -> Iterator[None]:
    """While tracing, `pipelined` calls `other` instead of running the stages."""
    token = _through.set(other)
    try:
        yield
    finally:
        _through.reset(token)


def instead() -> Through | None:
    """The function that replaces the stages, see `through`; None if nothing does."""
    return _through.get()


def stages() -> int:
    """Number of pipeline stages to split layers into; 1 inside a stage and without a mesh."""
    mesh = active_mesh()
    return 1 if mesh is None else seen(mesh).get(PIPELINE, 1)


def pipelined(row: Row, requested: int) -> tuple[jax.Array, Any]:
    """The stream after all chunks of layers, with summed losses and the counts by layer.

    requested: number of microbatches; if it does not divide the batch, as in an evaluation, the number of stages.
    """
    if (other := instead()) is not None:
        return other(row)
    number, repeats, microbatches = stages(), row.repeats, microbatches_of(row, requested)
    enters = partial(_entering, microbatches=microbatches)
    new = Item(
        enters(row.x_BxLxD),
        jax.tree.map(enters, row.extras),
        None if row.keys is None else jnp.repeat(jax.random.key_data(row.keys)[:, None], number, 1),
        jnp.ones((microbatches, number), jnp.bool_),
        jnp.zeros((microbatches, number), jnp.int32),
    )
    run = in_one_view(partial(_run, row.stage, number, repeats))
    done, (losses, counts) = run(by_stage(row.weights, row.declared, repeats), new)
    return _left(done), (losses, counts)


def microbatches_of(row: Row, requested: int) -> int:
    """Number of microbatches that a batch is split into, see `pipelined`."""
    mesh = active_mesh()
    assert mesh is not None
    return requested if row.x_BxLxD.shape[0] % (requested * window_ways(in_stage(mesh.shape))) == 0 else stages()


def by_stage(weights: Any, declared: Any, repeats: int) -> Any:
    """Weights [N, …] of all layers in the layout of the stages, see `_by_stage`. declared: their declarations."""

    def laid(tensor: Tensor, w: jax.Array) -> jax.Array:
        parts = used_split(tensor.axes, w.shape)
        return _by_stage(w, ((PIPELINE,), *parts[1:]), repeats)

    return jax.tree.map(laid, declared, weights, is_leaf=lambda x: isinstance(x, Tensor))


def _run(stage: Stage, number: int, repeats: int, weights: Any, new: Item) -> tuple[jax.Array, Any]:
    """(outputs, arriving at the first stage from the last, [M, S, b, L, D]; losses and counts). new: [M, S, …]."""
    at = jnp.arange(number)
    first = at == 0

    def stage_step(weights: Any, at: jax.Array, item: Item) -> tuple[jax.Array, Any]:
        key = None if item.key is None else jax.random.wrap_key_data(item.key)
        repeat = jnp.minimum(item.repeat, repeats - 1)
        x, aux = stage(weights, repeat, repeat * number + at, item.x, item.extras, key)
        return x, jax.tree.map(lambda y: jnp.where(item.real, y, 0), aux)

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(first.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    def tick(item: Item, new: Item | None) -> tuple[Item, Any]:
        arrived = item.x
        item = item if new is None else jax.tree.map(chosen, new, item)
        x, aux = jax.vmap(stage_step, (1, 0, 0), spmd_axis_name=PIPELINE)(weights, at, item)
        repeat_S = jnp.where(item.real, item.repeat, repeats)
        item = jax.tree.map(_passed_on, item._replace(x=x))
        return item._replace(repeat=item.repeat + first), (arrived if new is not None else None, (repeat_S, aux))

    def group(item: Item, new: Item) -> tuple[Item, Any]:
        item, (arrived, auxes) = jax.lax.scan(tick, item, new)
        if repeats == 1:
            return item, (arrived, [auxes])
        item, (_, more) = jax.lax.scan(lambda item, _: tick(item, None), item, None, length=(repeats - 1) * number)
        return item, (arrived, [auxes, more])

    nothing = jax.tree.map(lambda x: jnp.zeros((number - 1, *x.shape[1:]), x.dtype), new)
    item = jax.tree.map(lambda x: jnp.zeros_like(x[0]), new)
    if repeats == 1:
        item, (arrived, auxes) = group(item, jax.tree.map(lambda *x: jnp.concatenate(x), new, nothing))
    else:
        cut = jax.tree.map(lambda x: x.reshape(-1, number, *x.shape[1:]), new)
        item, (arrived, auxes) = jax.lax.scan(group, item, cut)
        arrived, auxes = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (arrived, auxes))
        item, (last, more) = jax.lax.scan(tick, item, nothing)
        arrived, auxes = jnp.concatenate([arrived, last]), [*auxes, more]
    done = jnp.concatenate([arrived[number:], item.x[None]])
    return done, _summed(auxes, repeats)


def _summed(auxes: list[tuple[jax.Array, Any]], repeats: int) -> tuple[Any, Any]:
    """(summed losses, counts in the order of layers). auxes: (repeat, `Aux`) by tick and stage."""
    repeat_TxS, aux = jax.tree.map(lambda *x: jnp.concatenate(x), *auxes)
    repeat_TxSxR = jax.nn.one_hot(repeat_TxS, repeats, dtype=jnp.float32)  # all zeros for filler

    def by_layer(x_TxSxN: jax.Array) -> jax.Array:
        x_RxSxN = jnp.einsum("tsr,ts...->rs...", repeat_TxSxR, x_TxSxN, precision="highest")
        return x_RxSxN.reshape(-1, *x_RxSxN.shape[3:])

    return jax.tree.map(jnp.sum, aux.losses), jax.tree.map(by_layer, aux.counts)


def in_one_view(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, traced with RULES that see the mesh of one stage, in the backward pass as well."""

    @jax.custom_vjp
    def viewed(*arrays: Any) -> Any:
        with one_stage():
            return run(*arrays)

    def forward(*arrays: Any) -> Any:
        with one_stage():
            return jax.vjp(run, *arrays)

    def backward(pull: Any, gradients: Any) -> Any:
        with one_stage():
            return pull(gradients)

    viewed.defvjp(forward, backward)
    return viewed


def along(x: Any, whole: bool) -> Parts:
    """How [b, L, …] is split: over the whole mesh, or within one stage."""
    mesh = active_mesh()
    assert mesh is not None
    shape = mesh.shape if whole else in_stage(mesh.shape)
    axes = ("batch", "sequence", *(None,) * (x.ndim - 2))[: x.ndim]
    parts = activation_parts(axes, x.shape, shape)
    return tuple(tuple(name for name in part if shape[name] > 1) for part in parts)


def mapped(f: Callable[..., jax.Array], back: Callable[..., jax.Array], taken: Parts, given: Parts, x: Any) -> Any:
    """`by_parts(f)` with gradient `by_parts(back)`: no sum over devices that hold the same values."""

    @jax.custom_vjp
    def there(x: jax.Array) -> jax.Array:
        return by_parts(f, (taken,), given, x)

    there.defvjp(lambda x: (there(x), None), lambda _, dy: (by_parts(back, (given,), taken, dy),))
    return there(x) if jnp.issubdtype(x.dtype, jnp.floating) else by_parts(f, (taken,), given, x)


def _passed_on(x: jax.Array) -> jax.Array:
    """[S, b, L, …] or [S, …], rotated by one stage: each part moves to the next stage, the last one to the first."""
    parts = staged(x)
    return mapped(partial(_rotated, by=1), partial(_rotated, by=-1), parts, parts, x)


def moved(x: jax.Array, by: int) -> jax.Array:
    """`x` rotated by `by` stages, −1 for the previous one; without a gradient."""
    return by_parts(partial(_rotated, by=by), (staged(x),), staged(x), x)


def staged(x: Any) -> Parts:
    """How [S, b, L, …] or [S, …] is split."""
    return ((PIPELINE,), *(along(x[0], whole=False) if x.ndim > 2 else ((),) * (x.ndim - 1)))


def _rotated(x: jax.Array, by: int) -> jax.Array:
    """Inside `by_parts`: the part of the stage `by` places before this one."""
    number = jax.lax.axis_size(PIPELINE)
    return jax.lax.ppermute(x, PIPELINE, [(i, (i + by) % number) for i in range(number)])


def _entering(x: jax.Array, microbatches: int) -> jax.Array:
    """[B, L, …] as [M, S, b, L, …]: the inputs of the first stage; every stage gets a copy."""

    def there(x: jax.Array) -> jax.Array:
        return cut(jax.lax.all_gather(x, PIPELINE, tiled=True), microbatches)[:, None]

    def back(dy: jax.Array) -> jax.Array:
        return jax.lax.psum_scatter(joined(dy[:, 0]), PIPELINE, tiled=True)

    split = along(x, whole=True)
    return mapped(there, back, split, ((), (PIPELINE,), *within(split)), x)


def _left(x: jax.Array) -> jax.Array:
    """[B, L, …] from the first stage's part of [M, S, b, L, …], where the outputs arrive."""
    microbatches = x.shape[0]

    def there(x: jax.Array) -> jax.Array:
        x = jnp.where(jax.lax.axis_index(PIPELINE) == 0, x[:, 0], 0)
        return jax.lax.psum_scatter(joined(x), PIPELINE, tiled=True)

    def back(dy: jax.Array) -> jax.Array:
        dx = cut(jax.lax.all_gather(dy, PIPELINE, tiled=True), microbatches)[:, None]
        return jnp.where(jax.lax.axis_index(PIPELINE) == 0, dx, 0)

    whole = jax.ShapeDtypeStruct((x.shape[0] * x.shape[2], *x.shape[3:]), x.dtype)
    given = along(whole, whole=True)
    return mapped(there, back, ((), (PIPELINE,), *within(given)), given, x)


def within(parts: Parts) -> Parts:
    """The split of windows within a stage, from their split over the whole mesh."""
    return tuple(tuple(name for name in part if name != PIPELINE) for part in parts)


def cut(x: jax.Array, microbatches: int) -> jax.Array:
    """[rows, …] as [M, b, …], row i in microbatch i mod M."""
    return jnp.swapaxes(x.reshape(-1, microbatches, *x.shape[1:]), 0, 1)


def joined(x: jax.Array) -> jax.Array:
    """The reverse of `cut`."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def _by_stage(w: jax.Array, parts: Parts, repeats: int) -> jax.Array:
    """[N, …] as [S, N/(S·R), R, …], where stage s computes the chunks s, S + s, 2·S + s, … of N/(S·R) layers each.

    They are stored in layer order, so that each device stores R consecutive chunks. In each of R rounds every device
    sends one of them to the device that computes it.
    """

    def there(w: jax.Array) -> jax.Array:
        chunks = w.reshape(repeats, -1, *w.shape[1:])
        return jnp.swapaxes(_exchanged(chunks, back=False), 0, 1)[:, None]

    def back(dw: jax.Array) -> jax.Array:
        chunks = _exchanged(jnp.swapaxes(dw[:, 0], 0, 1), back=True)
        return chunks.reshape(-1, *chunks.shape[2:])

    given = ((), (PIPELINE,), (), *parts[1:])
    return mapped(there, back, parts, given, w)


def _exchanged(chunks: jax.Array, *, back: bool) -> jax.Array:
    """Exchange the chunks [R, …] that a device stores for those that it computes, or `back`."""
    repeats = chunks.shape[0]
    if repeats == 1:
        return chunks
    number, here, found = jax.lax.axis_size(PIPELINE), jax.lax.axis_index(PIPELINE), jnp.zeros_like(chunks)
    for moves in rounds(number, repeats):
        moves = [(target, theirs, source, own) for source, own, target, theirs in moves] if back else moves
        takes, gives = [0] * number, [0] * number
        for source, own, target, theirs in moves:
            gives[source], takes[target] = own, theirs
        chunk = jax.lax.dynamic_index_in_dim(chunks, jnp.asarray(gives)[here], keepdims=False)
        chunk = jax.lax.ppermute(chunk, PIPELINE, [(source, target) for source, _, target, _ in moves])
        found = jax.lax.dynamic_update_index_in_dim(found, chunk, jnp.asarray(takes)[here], 0)
    return found


def rounds(number: int, repeats: int) -> list[list[tuple[int, int, int, int]]]:
    """Rounds of (stage, index among its stored chunks, stage that computes the chunk, index there): in each round a
    stage sends one chunk and receives one.

    Stage s stores the chunks s·R + j, j < R, and chunk c is computed by stage c mod S. With g the greatest common
    divisor of R and S, s·R mod S is the same for g stages, so each of these begins with a different j.
    """
    same = number // gcd(number, repeats)
    found = []
    for k in range(repeats):
        chunks = [(s, (k + s // same) % repeats) for s in range(number)]
        found.append([(s, j, (s * repeats + j) % number, (s * repeats + j) // number) for s, j in chunks])
    return found
