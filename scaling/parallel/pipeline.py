"""The stages of a pipeline: devices that have layers of their own and hand microbatches on to each other.

All stages are one program under `vmap`, whose axis lies on the mesh's `pipeline`; in a tick each computes a run of
its layers, and what it made goes to the next one (GPipe, 1811.06965). Where there are several runs to a device,
microbatches go around in groups of as many as there are stages, as often as that (interleaved, Megatron 2104.04473):
M microbatches over S stages with R runs each take M·R + S − 1 ticks, of which each device works in M·R. The backward
pass is that of the loop, after all of it.

Before and behind the stages the devices of a pipeline compute windows of their own, as those of `fsdp` do; of layers
there see `ends`.
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

# S stages, R runs of layers on each, M microbatches of b windows

Stage = Callable[[Any, jax.Array, jax.Array, jax.Array, Any, Any], tuple[jax.Array, Any]]
"""(weights [layers of a run, R, …], which of R, number of the run among all, stream [b, L, D], what else is told of
these windows, key) → (stream, `Aux`)"""


class Item(NamedTuple):
    """What the stages are at: every array with S in front."""

    x: jax.Array
    told: Any
    """of the same windows: tokens, marks, positions"""
    key: Any
    """key data of the microbatch; None where nothing is drawn"""
    real: jax.Array
    """whether it is a microbatch, and not what a stage computes before the first and after the last one"""
    trip: jax.Array
    """how often it has been around"""


class Row(NamedTuple):
    """Layers in a row and what they are applied to, as `pipelined` is given them."""

    stage: Stage
    weights: Any
    """of all layers, stacked, float32"""
    declared: Any
    """their tensors"""
    repeats: int
    x_BxLxD: jax.Array
    told: Any
    """arrays [B, L] that travel with their windows"""
    keys: Any
    """of each microbatch, row i of the batch being of microbatch i mod M; None where nothing is drawn"""
    nothing: Any
    """losses and counts of all of its layers, as zeros"""
    bounds: Any
    """by stack of the model, which of its layers are in stages, see `ends.apart`"""


Through = Callable[[Row], tuple[jax.Array, Any]]
_through: ContextVar[Through | None] = ContextVar("through", default=None)


@contextmanager
def through(other: Through) -> Iterator[None]:
    """What is traced has `other` in the place of its stages."""
    token = _through.set(other)
    try:
        yield
    finally:
        _through.reset(token)


def instead() -> Through | None:
    """What is in the place of the stages; None where these are."""
    return _through.get()


def stages() -> int:
    """Devices along `pipeline` where layers are to be cut into stages; 1 within one and without a mesh."""
    mesh = active_mesh()
    return 1 if mesh is None else seen(mesh).get(PIPELINE, 1)


def pipelined(row: Row, asked: int) -> tuple[jax.Array, Any]:
    """The stream after all runs of layers, and what they told: losses added up, counts by layer.

    asked: microbatches; as many as there are stages where these do not divide the batch, as in an evaluation.
    """
    if (other := instead()) is not None:
        return other(row)
    number, repeats, microbatches = stages(), row.repeats, microbatches_of(row, asked)
    groups = 1 if repeats == 1 else microbatches // number
    if microbatches % groups:
        raise ValueError(f"{microbatches} microbatches do not come in groups of {number} stages")
    enters = partial(_entering, microbatches=microbatches)
    new = Item(
        enters(row.x_BxLxD),
        jax.tree.map(enters, row.told),
        None if row.keys is None else jnp.repeat(jax.random.key_data(row.keys)[:, None], number, 1),
        jnp.ones((microbatches, number), jnp.bool_),
        jnp.zeros((microbatches, number), jnp.int32),
    )
    run = in_one_view(partial(_run, row.stage, number, repeats, groups))
    done, (losses, counts) = run(by_stage(row.weights, row.declared, repeats), new)
    return _left(done), (losses, counts)


def microbatches_of(row: Row, asked: int) -> int:
    """Those that a batch is cut into, see `pipelined`."""
    mesh = active_mesh()
    assert mesh is not None
    return asked if row.x_BxLxD.shape[0] % (asked * window_ways(in_stage(mesh.shape))) == 0 else stages()


def by_stage(weights: Any, declared: Any, repeats: int) -> Any:
    """Weights [N, …] of all layers as each stage computes with them, see `_by_stage`. declared: their tensors."""

    def laid(tensor: Tensor, w: jax.Array) -> jax.Array:
        parts = used_split(tensor.axes, w.shape)
        return _by_stage(w, ((PIPELINE,), *parts[1:]), repeats)

    return jax.tree.map(laid, declared, weights, is_leaf=lambda x: isinstance(x, Tensor))


def _run(stage: Stage, number: int, repeats: int, groups: int, weights: Any, new: Item) -> tuple[jax.Array, Any]:
    """(what arrived at the first stage behind the last, [M, S, b, L, D]; losses and counts). new: [M, S, …]."""
    at = jnp.arange(number)
    first = at == 0

    def one(weights: Any, at: jax.Array, item: Item) -> tuple[jax.Array, Any]:
        key = None if item.key is None else jax.random.wrap_key_data(item.key)
        trip = jnp.minimum(item.trip, repeats - 1)
        x, aux = stage(weights, trip, trip * number + at, item.x, item.told, key)
        return x, jax.tree.map(lambda y: jnp.where(item.real, y, 0), aux)

    def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(first.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    def tick(item: Item, new: Item | None) -> tuple[Item, Any]:
        arrived = item.x
        item = item if new is None else jax.tree.map(chosen, new, item)
        x, aux = jax.vmap(one, spmd_axis_name=PIPELINE)(weights, at, item)
        trips = jnp.where(item.real, item.trip, repeats)
        item = jax.tree.map(_passed_on, item._replace(x=x))
        return item._replace(trip=item.trip + first), (arrived if new is not None else None, (trips, aux))

    def group(item: Item, new: Item) -> tuple[Item, Any]:
        item, (arrived, told) = jax.lax.scan(tick, item, new)
        if repeats == 1:
            return item, (arrived, [told])
        item, (_, more) = jax.lax.scan(lambda item, _: tick(item, None), item, None, length=(repeats - 1) * number)
        return item, (arrived, [told, more])

    nothing = jax.tree.map(lambda x: jnp.zeros((number - 1, *x.shape[1:]), x.dtype), new)
    item = jax.tree.map(lambda x: jnp.zeros_like(x[0]), new)
    if repeats == 1:
        item, (arrived, told) = group(item, jax.tree.map(lambda *x: jnp.concatenate(x), new, nothing))
    else:
        cut = jax.tree.map(lambda x: x.reshape(groups, number, *x.shape[1:]), new)
        item, (arrived, told) = jax.lax.scan(group, item, cut)
        arrived, told = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (arrived, told))
        item, (last, more) = jax.lax.scan(tick, item, nothing)
        arrived, told = jnp.concatenate([arrived, last]), [*told, more]
    done = jnp.concatenate([arrived[number:], item.x[None]])
    return done, _summed(told, repeats)


def _summed(told: list[tuple[jax.Array, Any]], repeats: int) -> tuple[Any, Any]:
    """Losses added up; counts by layer, in their order. told: by tick and stage, and which trip each was of."""
    trips, aux = jax.tree.map(lambda *x: jnp.concatenate(x), *told)
    trips_TxSxR = jax.nn.one_hot(trips, repeats, dtype=jnp.float32)  # of what is not real it is none

    def by_layer(x_TxSxN: jax.Array) -> jax.Array:
        x_RxSxN = jnp.einsum("tsr,ts...->rs...", trips_TxSxR, x_TxSxN, precision="highest")
        return x_RxSxN.reshape(-1, *x_RxSxN.shape[3:])

    return jax.tree.map(jnp.sum, aux.losses), jax.tree.map(by_layer, aux.counts)


def in_one_view(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, in which RULES see the mesh of one stage, also where its backward pass is traced."""

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
    """How [b, L, …] lies: with the windows of all stages, or within one."""
    mesh = active_mesh()
    assert mesh is not None
    shape = mesh.shape if whole else in_stage(mesh.shape)
    axes = ("batch", "sequence", *(None,) * (x.ndim - 2))[: x.ndim]
    parts = activation_parts(axes, x.shape, shape)
    return tuple(tuple(name for name in part if shape[name] > 1) for part in parts)


def mapped(f: Callable[..., jax.Array], back: Callable[..., jax.Array], taken: Parts, given: Parts, x: Any) -> Any:
    """`by_parts(f)`, whose gradient is `by_parts(back)`: nothing is summed over devices that have the same."""

    @jax.custom_vjp
    def there(x: jax.Array) -> jax.Array:
        return by_parts(f, (taken,), given, x)

    there.defvjp(lambda x: (there(x), None), lambda _, dy: (by_parts(back, (given,), taken, dy),))
    return there(x) if jnp.issubdtype(x.dtype, jnp.floating) else by_parts(f, (taken,), given, x)


def _passed_on(x: jax.Array) -> jax.Array:
    """[S, b, L, …] or [S, …], each stage's at the next one, and the last one's at the first."""
    parts = staged(x)
    return mapped(partial(_sent, by=1), partial(_sent, by=-1), parts, parts, x)


def moved(x: jax.Array, by: int) -> jax.Array:
    """The same, or with `by` −1 at the one before; without a gradient."""
    return by_parts(partial(_sent, by=by), (staged(x),), staged(x), x)


def staged(x: Any) -> Parts:
    """How [S, b, L, …] or [S, …] lies."""
    return ((PIPELINE,), *(along(x[0], whole=False) if x.ndim > 2 else ((),) * (x.ndim - 1)))


def _sent(x: jax.Array, by: int) -> jax.Array:
    """Inside `by_parts`: what the stage has that comes so many before."""
    number = jax.lax.axis_size(PIPELINE)
    return jax.lax.ppermute(x, PIPELINE, [(i, (i + by) % number) for i in range(number)])


def _entering(x: jax.Array, microbatches: int) -> jax.Array:
    """[B, L, …] as [M, S, b, L, …]: what enters the first stage, though each has a copy."""

    def there(x: jax.Array) -> jax.Array:
        return cut(jax.lax.all_gather(x, PIPELINE, tiled=True), microbatches)[:, None]

    def back(dy: jax.Array) -> jax.Array:
        return jax.lax.psum_scatter(joined(dy[:, 0]), PIPELINE, tiled=True)

    taken = along(x, whole=True)
    return mapped(there, back, taken, ((), (PIPELINE,), *within(taken)), x)


def _left(x: jax.Array) -> jax.Array:
    """[B, L, …] of what has come around to the first of [M, S, b, L, …]."""
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
    """The split of windows within a stage, of that over all of them."""
    return tuple(tuple(name for name in part if name != PIPELINE) for part in parts)


def cut(x: jax.Array, microbatches: int) -> jax.Array:
    """[rows, …] as [M, b, …], row i in microbatch i mod M."""
    return jnp.swapaxes(x.reshape(-1, microbatches, *x.shape[1:]), 0, 1)


def joined(x: jax.Array) -> jax.Array:
    """The reverse."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def _by_stage(w: jax.Array, parts: Parts, repeats: int) -> jax.Array:
    """[N, …] as [S, N/(S·R), R, …], where device s has the runs s, S + s, 2·S + s, … of N/(S·R) layers each.

    They are stored in a row, so that each device has R runs which follow each other. In each of R rounds every device
    sends one of them to where it is computed.
    """

    def there(w: jax.Array) -> jax.Array:
        runs = w.reshape(repeats, -1, *w.shape[1:])
        return jnp.swapaxes(_exchanged(runs, back=False), 0, 1)[None]

    def back(dw: jax.Array) -> jax.Array:
        runs = _exchanged(jnp.swapaxes(dw[0], 0, 1), back=True)
        return runs.reshape(-1, *runs.shape[2:])

    given = ((PIPELINE,), (), (), *parts[1:])
    return mapped(there, back, parts, given, w)


def _exchanged(runs: jax.Array, *, back: bool) -> jax.Array:
    """The runs [R, …] that a device computes, of those that it stores; or the reverse."""
    repeats = runs.shape[0]
    if repeats == 1:
        return runs
    number, here, found = jax.lax.axis_size(PIPELINE), jax.lax.axis_index(PIPELINE), jnp.zeros_like(runs)
    for moves in rounds(number, repeats):
        moves = [(target, theirs, source, own) for source, own, target, theirs in moves] if back else moves
        takes, gives = [0] * number, [0] * number
        for source, own, target, theirs in moves:
            gives[source], takes[target] = own, theirs
        sent = jax.lax.dynamic_index_in_dim(runs, jnp.asarray(gives)[here], keepdims=False)
        sent = jax.lax.ppermute(sent, PIPELINE, [(source, target) for source, _, target, _ in moves])
        found = jax.lax.dynamic_update_index_in_dim(found, sent, jnp.asarray(takes)[here], 0)
    return found


def rounds(number: int, repeats: int) -> list[list[tuple[int, int, int, int]]]:
    """Rounds of (stage, which of its stored runs, stage that computes it, which of those): in each round a stage
    sends one run and gets one.

    Stage s stores the runs s·R + j, j < R, and run c is computed by stage c mod S. With g the greatest common divisor
    of R and S, s·R mod S is the same for g stages; these begin with another j each.
    """
    same = number // gcd(number, repeats)
    found = []
    for k in range(repeats):
        runs = [(s, (k + s // same) % repeats) for s in range(number)]
        found.append([(s, j, (s * repeats + j) % number, (s * repeats + j) // number) for s, j in runs])
    return found
