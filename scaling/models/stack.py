"""Applying stacked layers: by `scan` on accelerators, unrolled on a CPU, with a policy for what is computed again."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from scaling.config.run import Placement
from scaling.families import Mask, TransformerConfig, tree
from scaling.models.block import Block
from scaling.models.layer import Aux, LayerContext, Rope, total
from scaling.models.linear import PRODUCT
from scaling.models.parameters import Params, at_precision
from scaling.parallel.sharding import target_platform

Apply = Callable[[Any, jax.Array, jax.Array | None], tuple[jax.Array, Aux]]


def group_size(config: TransformerConfig) -> int:
    """Neighbouring layers after which windows, sharing and kinds repeat: what one step of a scan applies."""
    parts = config.parts
    kinds = [(window, parts[i // config.layer_sharing]) for i, window in enumerate(config.windows)]
    period = next(p for p in range(1, len(kinds) + 1) if kinds == (kinds[:p] * len(kinds))[: len(kinds)])
    return math.lcm(period, config.layer_sharing)


def unstack(tree: Any, count: int) -> list[Any]:
    """The first `count` slices of every array's leading axis.

    `split` and not indexing: its transpose is one concatenation, that of `x[i]` a padded sum of `count` arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    parts = [[p[0] for p in jax.lax.split(x, (1,) * x.shape[0])] for x in leaves]
    return [jax.tree.unflatten(structure, [part[i] for part in parts]) for i in range(count)]


class Layers:
    """All layers of a transformer over their parameters, of which each kind of layer has a stack."""

    def __init__(self, config: TransformerConfig, placement: Placement, mask: Mask, params: Params, dtype: Any):
        self.config, self.placement, self.mask = config, placement, mask
        stacks = {stack.name: stack for stack in config.stacks}
        declared = tree(tensor for tensor in config.tensors() if tensor.path[0] in stacks)
        self.weights = at_precision({name: params[name] for name in stacks}, declared, dtype)
        self.stack_of = {i: stack for stack in stacks.values() for i in stack.members}
        self.windows = config.windows

    def __call__(
        self, x_BxLxD: jax.Array, rope: Rope, marks_BxL: jax.Array | None, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        """The stream after the last layer, and what the layers add to the training loss."""
        config, asked = self.config, self.placement.layers
        scan = asked == "scan" or (asked == "auto" and target_platform() != "cpu")
        size, sharing = group_size(config), config.layer_sharing
        groups = config.layers // size if scan else 0
        keys = None if dropout_key is None else jax.random.split(dropout_key, config.layers)

        def run(x: jax.Array, weights: Params, first: int, count: int, keys: Any) -> tuple[jax.Array, Aux]:
            """`count` layers from `first` on; `weights` are theirs."""
            slices, told = self._slices(weights, first // sharing, count // sharing), list[Aux]()
            for i in range(count):
                apply = self._layer(first + i, rope, marks_BxL, in_scan=groups > 1)
                x, aux = apply(slices[i // sharing], x, None if keys is None else keys[i])
                told.append(aux)
            return x, self._together(told, first // sharing)

        if groups < 2:
            return run(x_BxLxD, self.weights, 0, config.layers, keys)
        scanned = groups * size
        cut = {stack.name: sum(i < scanned // sharing for i in stack.members) for stack in config.stacks}

        def step(x: jax.Array, xs: Any) -> tuple[jax.Array, Aux]:
            weights, group_keys = xs
            return run(x, weights, 0, size, group_keys)

        grouped = {
            name: jax.tree.map(lambda w, n=cut[name]: w[:n].reshape(groups, -1, *w.shape[1:]), stacked)
            for name, stacked in self.weights.items()
            if cut[name]
        }
        group_keys = None if keys is None else keys[:scanned].reshape(groups, size)
        x_BxLxD, by_group = jax.lax.scan(step, x_BxLxD, (grouped, group_keys))
        losses = jax.tree.map(jnp.sum, by_group.losses)
        counts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), by_group.counts)
        if scanned == config.layers:
            return x_BxLxD, Aux(losses, counts)
        rest = {name: jax.tree.map(lambda w, n=cut[name]: w[n:], w) for name, w in self.weights.items()}
        rest_keys = None if keys is None else keys[scanned:]
        x_BxLxD, aux = run(x_BxLxD, rest, scanned, config.layers - scanned, rest_keys)
        return x_BxLxD, Aux(total([losses, aux.losses]), _behind(counts, aux.counts))

    def _together(self, told: list[Aux], first: int) -> Aux:
        """Losses of layers in a row added; counts stacked for each kind of layer, those of a shared one added.

        first: the one that the row begins with, of those with own parameters.
        """
        sharing, counts = self.config.layer_sharing, dict[str, list[Any]]()
        for i in range(0, len(told), sharing):
            own = jax.tree.map(lambda *x: sum(x[1:], x[0]), *(aux.counts for aux in told[i : i + sharing]))
            counts.setdefault(self.stack_of[first + i // sharing].name, []).append(own)
        stacked = {name: jax.tree.map(lambda *x: jnp.stack(x), *layers) for name, layers in counts.items()}
        return Aux(total(aux.losses for aux in told), stacked)

    def _slices(self, weights: Params, first: int, count: int) -> list[Params]:
        """The parameters of each of `count` layers with own ones from `first` on, of stacks that hold just those."""
        names = [self.stack_of[first + i].name for i in range(count)]
        parts = {name: iter(unstack(weights[name], names.count(name))) for name in dict.fromkeys(names)}
        return [next(parts[name]) for name in names]

    def _layer(self, layer: int, rope: Rope, marks_BxL: jax.Array | None, *, in_scan: bool) -> Apply:
        context = LayerContext(rope, self.windows[layer], self.mask, marks_BxL, self.placement.attention)
        stack = self.stack_of[layer // self.config.layer_sharing]

        def apply(w: Params, x: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Aux]:
            return Block(self.config, stack, w)(x, context, key)

        return rematerialised(apply, self.placement.remat, in_scan=in_scan)


def _behind(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Counts by kind of layer, those of later layers behind."""
    both = first.keys() & second.keys()
    joined = {name: jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first[name], second[name]) for name in both}
    return first | second | joined


def rematerialised(apply: Apply, policy: str, *, in_scan: bool) -> Apply:
    """`apply` with its backward pass computing again what the policy says."""
    if policy == "none":
        return apply
    saved = jax.checkpoint_policies.save_only_these_names(PRODUCT) if policy == "dots" else None
    return jax.checkpoint(apply, policy=saved, prevent_cse=not in_scan)
