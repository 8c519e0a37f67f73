"""Applying stacked layers: with `scan` or unrolled, under a rematerialisation policy."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from scaling.config.placement import Placement
from scaling.families import TransformerConfig, tree
from scaling.families.rope import Rope
from scaling.families.transformer import Stack
from scaling.models.block import Block
from scaling.models.layer import Aux, LayerContext, total
from scaling.models.linear import PRODUCT
from scaling.models.parameters import Params, at_precision
from scaling.models.positions import query_scale, rope_tables
from scaling.parallel.ends import apart, at_end, piece
from scaling.parallel.host import HOST
from scaling.parallel.pipeline import Row, pipelined, stages
from scaling.parallel.sharding import target_platform

Tables = dict[tuple[int, Rope], tuple[jax.Array, jax.Array]]
Apply = Callable[[Any, jax.Array, jax.Array | None], tuple[jax.Array, Aux]]
Extend = Callable[[jax.Array, LayerContext, list[Any]], tuple[jax.Array, list[Any]]]
INPUT = "layer_input"
"""checkpoint name of a layer's input, which `remat: full` keeps"""
SELECTING = ("slice", "dynamic_slice", "gather", "squeeze", "reshape", "convert_element_type")
"""primitives that take a layer's weights out of those of several chunks"""


def grouping(config: TransformerConfig, first: int = 0, end: int | None = None) -> tuple[int, int]:
    """(layers before the scan, layers per scan step): the period after which masks, positions, sharing and kinds
    repeat. Of all valid pairs, the one that leaves the fewest layers to compile individually.

    first, end: consider only layers `first` to `end`, exclusive; unset: all."""
    sharing, kinds = config.layer_sharing, config.kinds[first:end]

    def size(lead: int) -> int:
        rest = kinds[lead:]
        period = next(p for p in range(1, len(rest) + 1) if rest == (rest[:p] * len(rest))[: len(rest)])
        return math.lcm(period, sharing)

    def compiled(lead: int) -> int:
        own = size(lead)
        return lead + own + (len(kinds) - lead) % own

    lead = min(range(0, len(kinds), sharing), key=compiled)
    return lead, size(lead)


def unstack(tree: Any, count: int, axis: int = 0) -> list[Any]:
    """The first `count` slices along an axis that every array has.

    Uses `split` rather than indexing: its transpose is one concatenation, whereas that of `x[i]` is a padded sum of
    `count` arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    parts = [[p.squeeze(axis) for p in jax.lax.split(x, (1,) * x.shape[axis], axis)] for x in leaves]
    return [jax.tree.unflatten(structure, [part[i] for part in parts]) for i in range(count)]


class Layers:
    """All layers of a transformer over their parameters, which are stacked per kind of layer."""

    def __init__(self, config: TransformerConfig, placement: Placement, params: Params, dtype: Any):
        self.config, self.placement = config, placement
        stacks = {stack.name: stack for stack in config.stacks}
        self.declared = tree(tensor for tensor in config.tensors() if tensor.path[0] in stacks)
        self.params, self.dtype = {name: params[name] for name in stacks}, dtype
        self.stack_of = {i: stack for stack in stacks.values() for i in stack.members}
        self.masks, self.ropes = config.attention_masks("causal"), config.ropes

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        """The residual stream after the last layer, and the layers' auxiliary losses and counts.

        context: shared by all layers; window and rotary tables are set per layer. dropout_key: one key; in a pipeline
        one for each of the M microbatches, where row i of the batch belongs to microbatch i mod M.
        """
        positions = jnp.arange(x_BxLxD.shape[1]) if context.positions is None else context.positions
        context = replace(context, positions=positions)
        if stages() > 1:
            return self._pipelined(x_BxLxD, context, dropout_key)
        keys = None if dropout_key is None else jax.random.split(dropout_key, self.config.layers)
        weights = at_precision(self.params, self.declared, self.dtype)
        return self._applied(x_BxLxD, weights, range(self.config.layers), context, keys)

    def _pipelined(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_keys: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        """As `__call__`, with chunks of layers, identical except for their parameters, on the stages of a pipeline,
        and the layers before and after them at its ends."""
        config, repeats = self.config, self.placement.pipeline_repeats
        staged = config.staged(stages() * repeats)
        assert staged is not None
        bounds = {name: self._members(name, 0, staged.first, staged.end) for name in self.params}
        pieces = apart(self.params, self.declared, bounds)
        extras = {name: getattr(context, name) for name in ("marks_BxL", "tokens_BxL", "positions")}
        extras = {name: x for name, x in extras.items() if x is not None and x.ndim == 2}
        dropout_keys = dropout_keys if dropout_keys is None or dropout_keys.ndim else dropout_keys[None]
        requested = self.placement.pipeline_microbatches or max(1, self.placement.accumulate)

        def row(x: jax.Array, which: str, layers: range) -> Row:
            """layers: those of the first chunk."""

            def stage(
                weights: Params, repeat: jax.Array, chunk: jax.Array, x: jax.Array, extras: Params, key: Any
            ) -> tuple[jax.Array, Aux]:
                keys = None if key is None else jax.random.split(key, config.layers)
                start = layers.start + chunk * len(layers)
                keys = None if keys is None else jax.lax.dynamic_slice_in_dim(keys, start, len(layers))
                return self._applied(x, weights, layers, replace(context, **extras), keys, repeat)

            weights, declared = piece(pieces, self.declared, which)
            return Row(stage, weights, declared, repeats, x, extras, dropout_keys, self._zero_aux(weights), bounds)

        x_BxLxD, before = at_end(row(x_BxLxD, "before", range(staged.first)), requested)
        first = range(staged.first, staged.first + staged.size)
        x_BxLxD, sums = pipelined(row(x_BxLxD, "stages", first), requested)
        x_BxLxD, behind = at_end(row(x_BxLxD, "behind", range(staged.end, config.layers)), requested)
        return x_BxLxD, _concatenated([Aux(*before), Aux(*sums), Aux(*behind)])

    def _applied(
        self, x_BxLxD: jax.Array, params: Params, layers: range, context: LayerContext, keys: Any, repeat: Any = None
    ) -> tuple[jax.Array, Aux]:
        """`layers`, or others of the same kinds, applied with the given parameters.

        repeat: in a pipeline stage, which of its chunks to apply; chunks are the second axis of every parameter."""
        config, tables = self.config, self._tables(jnp.asarray(context.positions))
        (lead, size), sharing = grouping(config, layers.start, layers.stop), config.layer_sharing
        groups = (len(layers) - lead) // size if self.placement.scans(target_platform()) else 0

        def run(x: jax.Array, weights: list[Params], first: int, keys: Any) -> tuple[jax.Array, Aux]:
            """Apply the layers from `first` on, one per entry of `weights`."""
            auxes = list[Aux]()
            for i in range(len(weights) * sharing):
                apply = self._layer(first + i, context, tables, in_scan=groups > 1, repeat=repeat)
                x, aux = apply(weights[i // sharing], x, None if keys is None else keys[i])
                auxes.append(aux)
            return x, self._stacked(auxes, first // sharing)

        def part(start: int, stop: int) -> tuple[Params, Any]:
            """Parameters and keys of the layers `start` to `stop`, exclusive."""
            bounds = {name: self._members(name, layers.start, start, stop) for name in params}
            own = {n: jax.tree.map(lambda w, n=n: w[slice(*bounds[n])], w) for n, w in params.items()}
            there = {name: w for name, w in own.items() if bounds[name][0] < bounds[name][1]}
            return there, None if keys is None else keys[start - layers.start : stop - layers.start]

        def unrolled(x: jax.Array, start: int, stop: int) -> tuple[jax.Array, Aux]:
            weights, own_keys = part(start, stop)
            return run(x, self._slices(weights, start // sharing, (stop - start) // sharing), start, own_keys)

        if groups < 2:
            return unrolled(x_BxLxD, layers.start, layers.stop)
        auxes, first = list[Aux](), layers.start + lead
        end = first + groups * size
        if lead:
            x_BxLxD, aux = unrolled(x_BxLxD, layers.start, first)
            auxes.append(aux)
        weights, own_keys = part(first, end)
        own_keys = None if own_keys is None else own_keys.reshape(groups, -1, *own_keys.shape[1:])
        # sliced outside the scan: slices made inside a scan step would be saved a second time for the backward pass
        own = self._by_group(weights, first // sharing, size // sharing, groups), own_keys
        x_BxLxD, by_group = jax.lax.scan(lambda x, own: run(x, own[0], first, own[1]), x_BxLxD, own)
        losses = jax.tree.map(jnp.sum, by_group.losses)
        auxes.append(Aux(losses, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), by_group.counts)))
        if end < layers.stop:
            x_BxLxD, aux = unrolled(x_BxLxD, end, layers.stop)
            auxes.append(aux)
        return x_BxLxD, _concatenated(auxes)

    def _zero_aux(self, params: Params) -> tuple[Any, Any]:
        """Zeros in the structure of the losses and counts of layers with these parameters."""
        own = {stack.name: stack for stack in self.config.stacks if stack.name in params}
        parts = [part for stack in own.values() for part in stack.parts.values()]
        losses = dict.fromkeys((name for part in parts for name in part.LOSSES), jnp.zeros((), jnp.float32))
        counts = {name: len(jax.tree.leaves(params[name])[0]) for name in own}
        return losses, {
            name: {
                key: {what: jnp.zeros((counts[name], *shape)) for what, shape in part.counts(self.config).items()}
                for key, part in stack.parts.items()
            }
            for name, stack in own.items()
        }

    def _members(self, name: str, first: int, start: int, end: int) -> tuple[int, int]:
        """The slice of a stack that holds layers `start` to `end`, exclusive, if it begins at layer `first`."""
        sharing = self.config.layer_sharing
        members = next(stack.members for stack in self.config.stacks if stack.name == name)
        before, upto, until = (sum(i < layer // sharing for i in members) for layer in (first, start, end))
        return upto - before, until - before

    def extending(self, length: int) -> Extend:
        """A function that applies all layers to further tokens of a text of up to `length`: see `Block.extend`.

        Weights are sliced and rotary tables built once here, not for every token.
        """
        sharing, tables = self.config.layer_sharing, self._tables(jnp.arange(length))
        weights = at_precision(self.params, self.declared, self.dtype)
        own = self._slices(weights, 0, self.config.unique_layers)
        blocks = [Block(self.config, self.stack_of[i], w) for i, w in enumerate(own)]

        def extend(x_BxTxD: jax.Array, context: LayerContext, caches: list[Any]) -> tuple[jax.Array, list[Any]]:
            at_BxT, after = jnp.minimum(jnp.asarray(context.positions), length - 1), []
            here = {key: (cos[at_BxT], sin[at_BxT]) for key, (cos, sin) in tables.items()}
            for layer, cache in enumerate(caches):
                in_layer = self._context(layer, context, here)
                x_BxTxD, cache = blocks[layer // sharing].extend(x_BxTxD, in_layer, cache)
                after.append(cache)
            return x_BxTxD, after

        return extend

    def _stacked(self, auxes: list[Aux], first: int) -> Aux:
        """Sum the losses of consecutive layers; stack counts by kind of layer, summing those of a shared layer.

        first: index of the first of them among the layers with their own parameters.
        """
        sharing, counts = self.config.layer_sharing, dict[str, list[Any]]()
        for i in range(0, len(auxes), sharing):
            own = jax.tree.map(lambda *x: sum(x[1:], x[0]), *(aux.counts for aux in auxes[i : i + sharing]))
            counts.setdefault(self.stack_of[first + i // sharing].name, []).append(own)
        stacked = {name: jax.tree.map(lambda *x: jnp.stack(x), *layers) for name, layers in counts.items()}
        return Aux(total(aux.losses for aux in auxes), stacked)

    def _by_group(self, weights: Params, first: int, size: int, groups: int) -> list[Params]:
        """The parameters [groups, …] of each of the `size` unique layers of a group, of which `first` is the first.

        Those of one layer stay as they are: under `vmap` over stages a reshape would copy them."""
        if size == 1:
            return list(weights.values())
        grouped = jax.tree.map(lambda w: w.reshape(groups, -1, *w.shape[1:]), weights)
        return self._slices(grouped, first, size, axis=1)

    def _slices(self, weights: Params, first: int, count: int, axis: int = 0) -> list[Params]:
        """The parameters of each of the `count` unique layers from `first` on, which are all that `weights` holds
        along `axis`."""
        names = [self.stack_of[first + i].name for i in range(count)]
        parts = {name: iter(unstack(weights[name], names.count(name), axis)) for name in dict.fromkeys(names)}
        return [next(parts[name]) for name in names]

    def _width(self, layer: int) -> int:
        """Number of features that RoPE rotates in a layer; 0 without RoPE."""
        mixer = self.stack_of[layer // self.config.layer_sharing].mixer
        return self.ropes[layer].width(mixer.rope_width(self.config)) if self.config.position == "rope" else 0

    def _tables(self, positions: jax.Array) -> Tables:
        """cos and sin for each kind of RoPE in use: [L, pairs] or [B, L, pairs] for `positions` [L] or [B, L]."""
        config, length = self.config, positions.shape[-1]
        found: Tables = {}
        for layer, rope in enumerate(self.ropes):
            width = self._width(layer)
            if width and (width, rope) not in found:
                tables = rope_tables(length, width, rope.theta or config.rope_theta, rope.scaling, config.context)
                found[width, rope] = tables if positions.ndim == 1 else (tables[0][positions], tables[1][positions])
        return found

    def _layer(
        self, layer: int, context: LayerContext, tables: Tables, *, in_scan: bool, repeat: Any = None
    ) -> Apply:
        stack, context = self.stack_of[layer // self.config.layer_sharing], self._context(layer, context, tables)

        def apply(w: Params, x: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Aux]:
            w = w if repeat is None else self._repeat_weights(w, stack, repeat)
            return Block(self.config, stack, w)(x, context, key)

        placement, staged = self.placement, repeat is not None
        return rematerialised(
            apply, placement.remat, in_scan=in_scan or staged, offload=placement.offload_activations, staged=staged
        )

    def _repeat_weights(self, weights: Params, stack: Stack, repeat: jax.Array) -> Params:
        """A layer's parameters in chunk `repeat` of this stage; the backward pass selects them again."""
        own = jax.tree.map(lambda w: w[0] if w.shape[0] == 1 else w[repeat], weights)
        return at_precision(own, self.declared[stack.name], self.dtype)

    def _context(self, layer: int, context: LayerContext, tables: Tables) -> LayerContext:
        """The context of one layer, from the context shared by all."""
        mask, rope = self.masks[layer], self.ropes[layer]
        return replace(
            context,
            window=mask.window,
            chunk=mask.chunk,
            global_tokens=mask.global_tokens,
            rope=tables.get((self._width(layer), rope)),
            query_scale=query_scale(rope, self.config.context, context.positions),
        )


def _concatenated(auxes: list[Aux]) -> Aux:
    """The losses summed and the counts concatenated of layers that follow each other."""
    return Aux(total(aux.losses for aux in auxes), reduce(_append_counts, (aux.counts for aux in auxes)))


def _append_counts(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Counts by kind of layer, those of `second` appended to those of `first`."""

    def joined(name: str) -> Any:
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first[name], second[name])

    return first | {name: joined(name) if name in first else own for name, own in second.items()}


def rematerialised(apply: Apply, policy: str, *, in_scan: bool, offload: bool = False, staged: bool = False) -> Apply:
    """`apply` under a rematerialisation policy.

    offload: keep saved activations in host memory. staged: `apply` selects its weights from arrays that are kept
    anyway, so they are recomputed too."""
    if policy == "none":
        return _selecting_again(apply) if staged else apply

    def named(w: Any, x: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Aux]:
        return apply(w, checkpoint_name(x, INPUT), key)

    kept, policies = (PRODUCT if policy == "dots" else INPUT), jax.checkpoint_policies
    if offload:
        saved = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[], names_which_can_be_offloaded=[kept], offload_src="device", offload_dst=HOST
        )
    else:
        saved = policies.save_only_these_names(PRODUCT) if policy == "dots" else None
    return jax.checkpoint(named if offload else apply, policy=saved, prevent_cse=not in_scan)


def _selecting_again(apply: Apply) -> Apply:
    """`apply` that keeps all for the backward pass but the weights that it selects from those of several chunks, of
    which a loop over ticks would keep some for every tick.

    A name on them would not do: what it is given is kept in its place."""

    def applied(w: Any, x: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Aux]:
        whole = {leaf.shape for leaf in jax.tree.leaves(w)}
        shapes = {kept for shape in whole for kept in (shape, (1, *shape[1:]), shape[1:])}

        def kept(primitive: Any, *taken: Any, **_: Any) -> bool:
            return primitive.name not in SELECTING or taken[0].shape[1:] not in shapes  # with stages in front

        return jax.checkpoint(apply, policy=kept, prevent_cse=False)(w, x, key)

    return applied
