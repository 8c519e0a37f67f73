"""The training state, parameters and optimizer state, created already sharded."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scaling.families import ModelConfig
from scaling.models import functional
from scaling.parallel import param_shardings, state_shardings


class TrainState(NamedTuple):
    """Everything that an update reads and writes, as a plain tree of arrays."""

    step: jax.Array
    """updates done, int32 scalar"""
    params: functional.Params
    opt_state: Any
    """for the trained parameters"""
    reference: functional.Params | None = None
    """the parameters that the run started from, if it keeps them"""


def abstract_state(model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a state, without allocating memory.

    returns: a TrainState of ShapeDtypeStruct, each with its sharding on `mesh`. Raises UserError if the mesh would
    leave large parameters replicated on every device.
    """
    shapes = jax.eval_shape(lambda: _new(model, optimizer, jax.random.key(0)))
    params = param_shardings(functional.facts(model), shapes.params, mesh)
    layout = state_shardings(shapes, params, shapes.params, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout)


def create_state(
    model: ModelConfig, optimizer: optax.GradientTransformation, seed: int, layout: TrainState
) -> TrainState:
    """The state before the first update: a function of `seed` alone, the same on every mesh.

    layout: from `abstract_state`; every array is created already sharded, never whole on one device. Since it runs
    once, it is compiled with less optimisation on a CPU: a third of the compile time, the same numbers.
    """
    shardings = jax.tree.map(lambda x: x.sharding, layout)
    device = next(iter(jax.tree.leaves(shardings)[0].device_set))
    options = {"xla_backend_optimization_level": 1} if device.platform == "cpu" else None
    create = jax.jit(lambda key: _new(model, optimizer, key), out_shardings=shardings, compiler_options=options)
    return create(jax.random.key(seed))


def _new(model: ModelConfig, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    params = functional.init(model, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
