"""What training changes from step to step: parameters and optimizer state, created where they will lie."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scaling.families import ModelConfig
from scaling.models import functional
from scaling.parallel import param_shardings, state_shardings


class TrainState(NamedTuple):
    """All that an update reads and writes: a plain tree of arrays."""

    step: jax.Array
    """updates done, int32 scalar"""
    params: functional.Params
    opt_state: Any
    """of the parameters that are trained"""
    reference: functional.Params | None = None
    """the parameters that the run began with, where it keeps them"""


def abstract_state(model: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and layouts of a state; no memory is taken.

    returns: a TrainState of ShapeDtypeStruct, each with its sharding on `mesh`. Raises UserError where the mesh
    would leave large parameters whole on every device.
    """
    shapes = jax.eval_shape(lambda: _new(model, optimizer, jax.random.key(0)))
    params = param_shardings(functional.facts(model), shapes.params, mesh)
    layout = state_shardings(shapes, params, shapes.params, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout)


def create_state(
    model: ModelConfig, optimizer: optax.GradientTransformation, seed: int, layout: TrainState
) -> TrainState:
    """The state before the first update: a function of `seed` alone, the same on every mesh.

    layout: from `abstract_state`; each array is created in its place, none is ever whole on one device. It runs once,
    so on a CPU it is compiled in a third of the time, to the same numbers.
    """
    shardings = jax.tree.map(lambda x: x.sharding, layout)
    device = next(iter(jax.tree.leaves(shardings)[0].device_set))
    options = {"xla_backend_optimization_level": 1} if device.platform == "cpu" else None
    create = jax.jit(lambda key: _new(model, optimizer, key), out_shardings=shardings, compiler_options=options)
    return create(jax.random.key(seed))


def _new(model: ModelConfig, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    params = functional.init(model, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
