"""How layers and their gradients are sharded within a step, at each stage of ZeRO (1910.02054).

Parameters and optimizer state are sharded in the same way at every stage. At stage 3 a layer's matrices are gathered
when it is computed; at the others the step begins by gathering whole copies of them at the compute precision. At
stage 1 the gradients are whole, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from scaling.accounting.layout import Parts, computed_parts
from scaling.families import Tensor
from scaling.families.declare import LAYERS
from scaling.parallel.parts import beyond, by_parts, gathered, joined, parameter_split, scattered
from scaling.parallel.sharding import active_mesh, as_spec, seen

_stage: ContextVar[int] = ContextVar("zero", default=3)


@contextmanager
def zero_stage(stage: int | None) -> Iterator[None]:
    """Sets the ZeRO stage while layers are traced; None: stage 3, the default."""
    token = _stage.set(stage or 3)
    try:
        yield
    finally:
        _stage.reset(token)


def used_split(axes: tuple[str, ...], shape: tuple[int, ...]) -> Parts:
    """How a layer's matrix is split when the layer receives it. axes: logical ones."""
    return parameter_split(axes, shape) if _stage.get() == 3 else _computed_split(axes, shape)


def gradient_split(axes: tuple[str, ...], shape: tuple[int, ...]) -> Parts:
    """How the gradient of a layer's matrix is split. axes: logical ones."""
    return parameter_split(axes, shape) if _stage.get() > 1 else _computed_split(axes, shape)


def _computed_split(axes: tuple[str, ...], shape: tuple[int, ...]) -> Parts:
    mesh = active_mesh()
    return ((),) * len(axes) if mesh is None else computed_parts(axes, shape, seen(mesh))


def copied(w: jax.Array, tensor: Tensor, dtype: Any) -> jax.Array:
    """A parameter as a step computes with it: for a parameter of the layers, below stage 3, a gathered copy at its
    precision; otherwise unchanged."""
    if active_mesh() is None or _stage.get() == 3 or tensor.depth != LAYERS:
        return w
    whole, stored = (split(tensor.axes, tensor.shape) for split in (used_split, parameter_split))
    more, precision = beyond(whole, stored), dtype if tensor.precision == "compute" else w.dtype
    if not any(more):
        return w
    return by_parts(lambda w: gathered(w.astype(precision), more), (joined(whole, more),), whole, w)


def laid_out(gradient: jax.Array, tensor: Tensor) -> jax.Array:
    """The gradient of the result of `copied`, in float32 and sharded as the ZeRO stage requires."""
    mesh = active_mesh()
    if mesh is None or _stage.get() == 3:
        return gradient
    split = parameter_split if tensor.depth != LAYERS else gradient_split
    layout = NamedSharding(mesh, as_spec(split(tensor.axes, tensor.shape)))
    return jax.lax.with_sharding_constraint(gradient.astype(jnp.float32), layout)


def scattering(w: jax.Array, lies: Parts, more: Parts) -> tuple[jax.Array, Parts]:
    """(array, split) to pass to `by_parts`: split as `lies`, but with the devices' gradients reduce-scattered by
    `more`, so that the sum is not whole on each device."""
    mesh = active_mesh()
    if mesh is None or not any(more):
        return w, lies
    others = tuple(name for name, size in seen(mesh).items() if size > 1 and not any(name in part for part in lies))
    return _each_its_own(w, lies, others, more), ((*others, *lies[0]), *lies[1:])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _each_its_own(w: jax.Array, lies: Parts, others: tuple[str, ...], more: Parts) -> jax.Array:
    """The parts repeated along the first axis, one copy for each index along `others`."""
    return by_parts(lambda w: w, (lies,), ((*others, *lies[0]), *lies[1:]), w)


def _forward(w: jax.Array, lies: Parts, others: tuple[str, ...], more: Parts) -> tuple[jax.Array, None]:
    return _each_its_own(w, lies, others, more), None


def _backward(lies: Parts, others: tuple[str, ...], more: Parts, _: None, dw: jax.Array) -> tuple[jax.Array]:
    rest = tuple(name for name in others if not any(name in part for part in more))

    def summed(dw: jax.Array) -> jax.Array:
        dw = scattered(dw, more)
        return jax.lax.psum(dw, rest) if rest else dw

    return (by_parts(summed, (((*others, *lies[0]), *lies[1:]),), joined(lies, more), dw),)


_each_its_own.defvjp(_forward, _backward)
