"""Applying stacked layers: by `scan` on accelerators, unrolled on a CPU, with a policy for what is computed again."""

import math
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from scaling.config.model import ModelConfig
from scaling.config.run import Placement
from scaling.models.block import Block, Rope
from scaling.models.linear import PRODUCT

Apply = Callable[[Any, jax.Array, jax.Array | None], jax.Array]


def group_size(config: ModelConfig) -> int:
    """Neighbouring layers after which windows and sharing repeat: what one step of a scan applies."""
    windows = config.windows
    period = next(p for p in range(1, len(windows) + 1) if windows == (windows[:p] * len(windows))[: len(windows)])
    return math.lcm(period, config.layer_sharing)


def unstack(tree: Any, count: int) -> list[Any]:
    """The first `count` slices of every array's leading axis.

    `split` and not indexing: its transpose is one concatenation, that of `x[i]` a padded sum of `count` arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    parts = [[p[0] for p in jax.lax.split(x, (1,) * x.shape[0])] for x in leaves]
    return [jax.tree.unflatten(structure, [part[i] for part in parts]) for i in range(count)]


def apply_layers(
    block: Block,
    config: ModelConfig,
    placement: Placement,
    x_BxLxD: jax.Array,
    rope: Rope,
    *,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """All layers of the model, whose parameters are stacked in `block`, one after the other."""
    graph, state = nnx.split(block)
    weights = jax.tree.map(lambda w: w.astype(x_BxLxD.dtype) if w.ndim == 3 else w, nnx.to_pure_dict(state))
    scan = placement.layers == "scan" or (placement.layers == "auto" and jax.default_backend() != "cpu")
    size, sharing = group_size(config), config.layer_sharing
    groups = config.layers // size if scan else 0
    keys = None if dropout_key is None else jax.random.split(dropout_key, config.layers)

    def layer(window: int) -> Apply:
        def apply(w: Any, x: jax.Array, key: jax.Array | None) -> jax.Array:
            bound = nnx.merge(graph, w)
            return bound(x, rope, window=window, implementation=placement.attention, dropout_key=key)

        return rematerialised(apply, placement.remat, in_scan=groups > 1)

    def run(x: jax.Array, slices: list[Any], windows: tuple[int, ...], keys: Any) -> jax.Array:
        for i, window in enumerate(windows):
            x = layer(window)(slices[i // sharing], x, None if keys is None else keys[i])
        return x

    if groups < 2:
        return run(x_BxLxD, unstack(weights, config.unique_layers), config.windows, keys)

    scanned, unique = groups * size, groups * size // sharing

    def step(x: jax.Array, xs: Any) -> tuple[jax.Array, None]:
        w, group_keys = xs
        return run(x, unstack(w, size // sharing), config.windows[:size], group_keys), None

    grouped = jax.tree.map(lambda w: w[:unique].reshape(groups, -1, *w.shape[1:]), weights)
    group_keys = None if keys is None else keys[:scanned].reshape(groups, size)
    x_BxLxD, _ = jax.lax.scan(step, x_BxLxD, (grouped, group_keys))
    if scanned == config.layers:
        return x_BxLxD
    rest = unstack(jax.tree.map(lambda w: w[unique:], weights), config.unique_layers - unique)
    return run(x_BxLxD, rest, config.windows[scanned:], None if keys is None else keys[scanned:])


def rematerialised(apply: Apply, policy: str, *, in_scan: bool) -> Apply:
    """`apply` with its backward pass computing again what the policy says."""
    if policy == "none":
        return apply
    saved = jax.checkpoint_policies.save_only_these_names(PRODUCT) if policy == "dots" else None
    return jax.checkpoint(apply, policy=saved, prevent_cse=not in_scan)
