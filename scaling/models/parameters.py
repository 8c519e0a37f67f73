"""Parameter arrays, created from their declarations."""

from collections.abc import Iterable
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp

from scaling.families import ModelConfig, Tensor, tree

Params = dict[str, Any]
"""nested dict of float32 arrays"""


def init(model: ModelConfig, key: jax.Array) -> Params:
    """Parameters drawn from `key`, with the same values on any mesh and under `jax.jit` with `out_shardings`."""
    return draw(model.tensors(), key)


def draw(tensors: Iterable[Tensor], key: jax.Array) -> Params:
    """Normally distributed around `mean`, each tensor from its own key; constant if `std` is 0."""
    drawn = count()

    def value(tensor: Tensor) -> jax.Array:
        start = jnp.full(tensor.shape, tensor.mean, jnp.float32)
        if not tensor.std:
            return start
        own_key = jax.random.fold_in(key, next(drawn))
        return start + tensor.std * jax.random.normal(own_key, tensor.shape, jnp.float32)

    return tree(tensors, value)


def abstract(model: ModelConfig) -> Params:
    """The parameters as ShapeDtypeStruct, without allocating memory."""
    return tree(model.tensors(), lambda tensor: jax.ShapeDtypeStruct(tensor.shape, jnp.float32))


def facts(model: ModelConfig) -> dict[str, Any]:
    """The declaration of every parameter, in the structure of the parameters."""
    return tree(model.tensors())


def trained(params: Params, declared: dict[str, Any]) -> Params:
    """The parameters with None, which transformations skip, in place of those that the optimizer does not update."""
    return map_declared(lambda tensor, w: w if tensor.trained else None, declared, params)


def with_rest(trained: Params, params: Params, declared: dict[str, Any]) -> Params:
    """All parameters: those that the optimizer updates from `trained`, the others from `params`."""
    return map_declared(lambda tensor, own, w: own if tensor.trained else w, declared, trained, params)


def map_declared(f: Any, declared: Any, *trees: Any) -> Any:
    """`f(tensor, …)` over the parameters; other trees may hold a subtree, or None, in place of a parameter."""
    return jax.tree.map(f, declared, *trees, is_leaf=lambda x: isinstance(x, Tensor))


def at_precision(params: Params, declared: dict[str, Any], dtype: Any) -> Params:
    """The parameters, those declared with compute precision cast to `dtype`."""
    return jax.tree.map(lambda w, tensor: w.astype(dtype) if tensor.precision == "compute" else w, params, declared)
