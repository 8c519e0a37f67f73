"""The gradient of a pipelined loss with one forward and one backward pass per tick (1F1B).

PipeDream-Flush (2006.09503); with several chunks of layers per stage as in Megatron's interleaved schedule
(2104.04473).

In each tick every stage runs the forward pass of one microbatch and the backward pass of another. The input of a
chunk of layers is kept only between its two passes, whatever the number of microbatches, and the backward pass
recomputes the chunk. What precedes and follows the stages (embedding, head, loss) is computed in the ticks in which a
microbatch enters and leaves them.

With S stages of R chunks each, stage s is in tick t at position t − s of this sequence: S microbatches through its
first chunk, the same ones through its second, …, then the next S through its first, as in `pipeline`. The backward
sequence is the same from the last chunk to the first, and begins in tick R·S − 1, when the first microbatch ends. So
an input is kept for at most 2·R·S − 2 ticks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.accounting.layout import PIPELINE
from scaling.errors import UserError
from scaling.families import Tensor
from scaling.parallel.ends import apart, is_pieces, lies
from scaling.parallel.parts import by_parts, parameter_split
from scaling.parallel.pipeline import Row, along, by_stage, cut, moved, staged, stages, through, within
from scaling.parallel.sharding import one_stage
from scaling.parallel.zero import gradient_split

Total = Callable[[Any, Any, Any], tuple[jax.Array, Any]]
"""(trained parameters, windows, key) → (loss, auxiliary sums), both to be summed over microbatches"""


class Item(NamedTuple):
    """The inputs of the stages: every array with S in front."""

    x: jax.Array
    extras: Any
    key: Any


class Found(NamedTuple):
    """What is summed over the ticks."""

    value: Any
    ends: Any
    """gradients of the parameters outside the stages"""
    layers: Any
    """gradients of the layers, by stage"""


class State(NamedTuple):
    """The state between two ticks."""

    item: Item
    """next inputs of the forward passes"""
    kept: Item
    """inputs of the last K = 2·R·S − 1 ticks [K, S, …], those of tick t at index t mod K"""
    dx: jax.Array
    """next gradients for the backward passes"""
    aux: Any
    """losses, and counts [R, S, …], of layers since a microbatch last ended"""
    slope: Any
    """gradient of the layers' auxiliary losses"""
    found: Found


def alternated(
    total: Total, own: Any, windows: Any, key: Any, *, declared: Any, microbatches: int
) -> tuple[Any, Any]:
    """Equals `jax.value_and_grad(total, has_aux=True)(own, windows, key)`, for a `total` that calls `pipelined` once
    and is linear in the layers' losses and counts.

    own: trained parameters, None where there is no gradient; those of layers have the names that `pipelined` uses,
    and `total` must also accept them as `Pieces`. declared: their declarations. windows: arrays [B, L]. key: one for
    each of the M microbatches, where row i of the batch belongs to microbatch i mod M.
    Raises UserError if `total` goes through the layers more than once.
    """
    ticks = Ticks(total, own, windows, key, declared, microbatches)
    value, gradients = ticks.run()
    return value, ticks.together(gradients)[0]


class Ticks:
    """The schedule: what all ticks share, and the computation of one tick."""

    def __init__(self, total: Total, own: Any, windows: Any, key: Any, declared: Any, microbatches: int):
        self.total, self.declared = total, declared
        self.count, self.number, self.at = microbatches, stages(), jnp.arange(stages())
        self.windows = jax.tree.map(partial(_by_microbatch, microbatches=microbatches), windows)
        self.keys = key if key is None or key.ndim else key[None]
        self.row = self._before_layers(own, 0)
        self.repeats = self.row.repeats
        pieces = partial(apart, declared=declared, bounds=self.row.bounds)
        self.own, self.together = jax.vjp(pieces, own)
        self.ends = jax.tree.map(_at_ends, self.own, is_leaf=is_pieces)
        self.layers = {name: _in_stages(self.own[name]) for name in self.row.weights}
        self.weights = by_stage(self.row.weights, self.row.declared, self.repeats)

    def run(self) -> tuple[Any, Any]:
        """(value, gradients of the parameters in pieces)."""
        turn = self.repeats * self.number - 1  # the tick in which the first microbatch ends
        ticks = self.count * self.repeats + self.number - 1  # forward, and as many backward
        (_, pull), state = jax.vjp(self._staged, self.layers), self._start()
        for first, last, way in (
            (0, turn, (True, False)),
            (turn, ticks, (True, True)),
            (ticks, turn + ticks, (False, True)),
        ):
            state = jax.lax.scan(partial(self._tick, way=way), state, jnp.arange(first, last))[0]
        return state.found.value, _whole(state.found.ends, pull(state.found.layers)[0])

    def _tick(self, state: State, t: jax.Array, way: tuple[bool, bool]) -> tuple[State, None]:
        forward, backward = way
        if forward:
            state = self._forward(state, t)
        if forward and backward:
            state = self._turn(state, t)
        if forward:
            state = state._replace(item=jax.tree.map(partial(moved, by=1), state.item))
        return (self._backward(state, t) if backward else state), None

    def _forward(self, state: State, t: jax.Array) -> State:
        """Forward passes of all stages, whose outputs go into `item`, and the embedding of a new microbatch."""
        repeat, begun = self._place(t)
        begins = (repeat == 0) & (t < self.count * self.repeats)
        new = self._when(begins, partial(self._begun, begun))
        item = jax.tree.map(partial(_chosen, begins & (self.at == 0)), new, state.item)
        kept = jax.tree.map(lambda all, x: all.at[t % len(all)].set(x), state.kept, item)
        repeat_S, _ = self._place(t - self.at)
        x, (losses, counts) = self._through_stages(self.weights, repeat_S, item)
        real = (t >= self.at) & (t - self.at < self.count * self.repeats)
        losses = jax.tree.map(lambda x: jnp.sum(jnp.where(real, x, 0)), losses)
        which = (jnp.arange(self.repeats)[:, None] == repeat_S) & real

        def by_repeat(x: jax.Array) -> jax.Array:
            return jnp.where(which.reshape(*which.shape, *(1,) * (x.ndim - 1)), x, 0)

        aux = jax.tree.map(jnp.add, state.aux, (losses, jax.tree.map(by_repeat, counts)))
        return state._replace(item=item._replace(x=x), kept=kept, aux=aux)

    def _turn(self, state: State, t: jax.Array) -> State:
        """The end of a microbatch: its loss, including the layers' auxiliary sums, and the gradients that start its
        backward pass."""
        place = t - self.number + 1
        repeat, ended = self._place(place)
        ends = (repeat == self.repeats - 1) & (place < self.count * self.repeats)
        more, dends, dx, slope = self._when(ends, partial(self._ended, ended), state.item.x, state.aux)
        dx = _chosen(ends & (self.at == self.number - 1), dx, state.dx)
        found = state.found._replace(
            value=jax.tree.map(jnp.add, state.found.value, more), ends=self._added(state.found.ends, dends)
        )
        aux, slope = (
            jax.tree.map(partial(jnp.where, ends), *both)
            for both in ((jax.tree.map(jnp.zeros_like, state.aux), state.aux), (slope, state.slope))
        )
        return state._replace(dx=dx, aux=aux, slope=slope, found=found)

    def _backward(self, state: State, t: jax.Array) -> State:
        """Backward passes of all stages, recomputing them, and that of the embedding."""
        place = t - (self.repeats * self.number - 1) - (self.number - 1 - self.at)
        repeat_S, begun = self._place(place)
        repeat_S = self.repeats - 1 - repeat_S
        real = (place >= 0) & (place < self.count * self.repeats)
        group = place // (self.number * self.repeats)
        since = (group * self.repeats + repeat_S) * self.number + place % self.number + self.at
        item = jax.tree.map(partial(_picked, at=since), state.kept)
        trained = self._trained(self.weights)

        def again(trained: Any, x: jax.Array) -> Any:
            weights = jax.tree.map(lambda w, own: w if own is None else own, self.weights, trained)
            x, (losses, _) = self._through_stages(weights, repeat_S, item._replace(x=x))
            return x, losses

        slope = jax.tree.map(lambda d: jnp.where(real, d, 0), state.slope)
        with one_stage():
            _, pull = jax.vjp(again, trained, item.x)
            dtrained, dx = pull((_chosen(real, state.dx, jnp.zeros_like(state.dx)), slope))
        found = state.found._replace(layers=jax.tree.map(jnp.add, state.found.layers, self._laid(dtrained)))
        began = (repeat_S[0] == 0) & real[0]
        dends = self._when(began, partial(self._back_to_tokens, begun[0]), dx)
        found = found._replace(ends=self._added(found.ends, dends))
        return state._replace(dx=moved(dx, -1), found=found)

    def _begun(self, microbatch: Any) -> Item:
        """The input of a microbatch for the first stage; every stage gets a copy."""
        row = self._before_layers(self.own, microbatch)
        key = None if row.keys is None else jnp.repeat(jax.random.key_data(row.keys), self.number, 0)
        return Item(_to_stages(row.x_BxLxD), jax.tree.map(_to_stages, row.extras), key)

    def _ended(self, microbatch: Any, y: jax.Array, aux: Any) -> tuple[Any, Any, jax.Array, Any]:
        """(value, gradient of the ends, of the last stage's output, copied to every stage, and of losses)."""
        losses, counts = aux
        counts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), counts)

        def behind(ends: Any, x: jax.Array, losses: Any) -> tuple[jax.Array, Any]:
            with through(lambda row: (x, (losses, counts))):
                return self.total(_whole(ends, self.layers), *self._inputs(microbatch))

        loss, pull, more = jax.vjp(behind, self.ends, _from_stage(y, self.number - 1), losses, has_aux=True)
        dends, dx, slope = pull(jnp.ones_like(loss))
        return (loss, more), dends, _to_stages(dx), slope

    def _back_to_tokens(self, microbatch: jax.Array, dx: jax.Array) -> Any:
        """The gradients of the ends through the input of the first stage."""
        _, pull = jax.vjp(lambda ends: self._before_layers(_whole(ends, self.layers), microbatch).x_BxLxD, self.ends)
        return pull(_from_stage(dx, 0))[0]

    def _before_layers(self, own: Any, microbatch: Any) -> Row:
        met = []

        def meet(row: Row) -> tuple[jax.Array, Any]:
            met.append(row)
            return row.x_BxLxD, row.nothing

        with through(meet):
            self.total(own, *self._inputs(microbatch))
        if len(met) != 1:
            raise UserError(
                f"placement.pipeline_schedule=1f1b needs an objective that runs the layers once, but this one runs "
                f"them {len(met)} times; use gpipe"
            )
        return met[0]

    def _through_stages(self, weights: Any, repeat_S: jax.Array, item: Item) -> tuple[jax.Array, tuple[Any, Any]]:
        def stage(weights: Any, at: jax.Array, repeat: jax.Array, item: Item) -> Any:
            key = None if item.key is None else jax.random.wrap_key_data(item.key)
            x, aux = self.row.stage(weights, repeat, repeat * self.number + at, item.x, item.extras, key)
            return x, (aux.losses, aux.counts)

        with one_stage():
            return jax.vmap(stage, (1, 0, 0, 0), spmd_axis_name=PIPELINE)(weights, self.at, repeat_S, item)

    def _place(self, place: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(which of a stage's chunks, microbatch) at a position of the sequence."""
        group, within = place // (self.number * self.repeats), place % self.number
        return place // self.number % self.repeats, group * self.number + within

    def _inputs(self, microbatch: Any) -> tuple[Any, Any]:
        """Windows and key of a microbatch, its index clipped to the valid range."""
        at = jnp.clip(microbatch, 0, self.count - 1)
        return jax.tree.map(lambda x: x[at], self.windows), None if self.keys is None else self.keys[at]

    def _when(self, now: jax.Array, f: Callable[..., Any], *arrays: Any) -> Any:
        """`f(*arrays)` if `now`, else zeros. With one chunk per stage few ticks do not need it, so it is always
        computed, on inputs that do not count."""
        if self.repeats == 1:
            return f(*arrays)
        made = jax.eval_shape(f, *arrays)
        return jax.lax.cond(now, f, lambda *_: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), made), *arrays)

    def _staged(self, layers: Any) -> Any:
        """The trained weights, by stage."""
        weights = self._before_layers(_whole(self.ends, layers), 0).weights
        return self._trained(by_stage(weights, self.row.declared, self.repeats))

    def _trained(self, weights: Any) -> Any:
        """The trained weights, None in place of the others."""
        return jax.tree.map(lambda w, own: None if own is None else w, weights, self.layers)

    def _laid(self, dweights: Any) -> Any:
        """Gradients by stage, sharded as the ZeRO stage requires."""

        def laid(tensor: Tensor, d: Any) -> Any:
            return d if d is None else lies(d, ((), (PIPELINE,), (), *gradient_split(tensor.axes, tensor.shape)[1:]))

        return jax.tree.map(laid, self.row.declared, dweights, is_leaf=lambda x: isinstance(x, Tensor))

    def _added(self, total: Any, more: Any) -> Any:
        """Sum of gradients of the ends, in the layout of the parameters."""

        def add(tensor: Tensor, total: Any, more: Any) -> Any:
            if is_pieces(total):  # those of layers
                parts = ((), *gradient_split(tensor.axes[1:], tensor.shape[1:]))
            else:
                parts = parameter_split(tensor.axes, tensor.shape)
            return jax.tree.map(lambda a, b: lies(a + b, parts), total, more)

        return jax.tree.map(add, self.declared, total, more, is_leaf=lambda x: isinstance(x, Tensor))

    def _start(self) -> State:
        item = self._begun(0)
        kept = 2 * self.repeats * self.number - 1
        losses, counts = self.row.nothing
        runs = (self.repeats, self.number)
        counts = jax.tree.map(
            lambda x: jnp.zeros((*runs, len(x) // self.repeats // self.number, *x.shape[1:])), counts
        )
        zeros = partial(jax.tree.map, jnp.zeros_like)
        value = jax.eval_shape(partial(self._ended, 0), item.x, (losses, counts))[0]
        value = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), value)
        found = Found(value, zeros(self.ends), self._laid(zeros(self._trained(self.weights))))
        many = jax.tree.map(lambda x: lies(jnp.zeros((kept, *x.shape), x.dtype), ((), *staged(x))), item)
        return State(zeros(item), many, jnp.zeros_like(item.x), (losses, counts), losses, found)


def _chosen(which: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`new` on the stages where `which`, else `old`."""
    return jnp.where(which.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


def _at_ends(w: Any) -> Any:
    """A parameter without the piece in the stages."""
    return w._replace(stages=None) if is_pieces(w) else w


def _in_stages(own: Any) -> Any:
    """The pieces in the stages."""
    return jax.tree.map(lambda w: w.stages, own, is_leaf=is_pieces)


def _whole(ends: Any, layers: Any) -> Any:
    """Parameters in pieces, from the ends and from the layers in stages."""
    joined = {
        name: jax.tree.map(lambda w, own: w._replace(stages=own), ends[name], own, is_leaf=is_pieces)
        for name, own in layers.items()
    }
    return ends | joined


def _picked(kept: jax.Array, at: jax.Array) -> jax.Array:
    """From [K, S, …], for each stage s the entry at[s] mod K."""

    def local(kept: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(kept, at[0] % len(kept), keepdims=False)

    lies = staged(kept[0])
    return by_parts(local, (((), *lies), ((PIPELINE,),)), lies, kept, at)


def _by_microbatch(x: jax.Array, microbatches: int) -> jax.Array:
    """[B, …] as [M, b, …], row i in microbatch i mod M."""
    split = along(x, whole=True)
    shared = PIPELINE in split[0]

    def local(x: jax.Array) -> jax.Array:
        return cut(jax.lax.all_gather(x, PIPELINE, tiled=True) if shared else x, microbatches)

    return by_parts(local, (split,), ((), *within(split)), x)


def _to_stages(x: jax.Array) -> jax.Array:
    """[b, L, …] as [S, b, L, …], a copy on each stage."""
    split = along(x, whole=True)
    shared = PIPELINE in split[0]

    def local(x: jax.Array) -> jax.Array:
        return (jax.lax.all_gather(x, PIPELINE, tiled=True) if shared else x)[None]

    return by_parts(local, (split,), ((PIPELINE,), *within(split)), x)


def _from_stage(x: jax.Array, at: int) -> jax.Array:
    """[b, L, …] of stage `at` from [S, b, L, …], its windows split over all stages if they divide."""
    given = along(x[0], whole=True)
    shared = PIPELINE in given[0]

    def local(x: jax.Array) -> jax.Array:
        x = jnp.where(jax.lax.axis_index(PIPELINE) == at, x[0], 0)
        return jax.lax.psum_scatter(x, PIPELINE, tiled=True) if shared else jax.lax.psum(x, PIPELINE)

    return by_parts(local, (((PIPELINE,), *within(given)),), given, x)
