"""Programs in which every device says what it computes on its parts of arrays, and what it sends.

For what the compiler would split in a worse way by itself. A split (`Parts`) names the mesh axes of each axis of an
array, as in `accounting.layout`.
"""

from collections.abc import Callable
from functools import partial
from math import prod

import jax
import jax.numpy as jnp

from scaling.accounting.layout import Parts, activation_parts, parameter_parts
from scaling.parallel.sharding import active_mesh, as_spec, seen


def by_parts(f: Callable[..., jax.Array], taken: tuple[Parts, ...], given: Parts, *arrays: jax.Array) -> jax.Array:
    """`f(*arrays)` computed by every device on its parts; `f` itself without a mesh or on one device.

    taken: the split of each array; the gradient of what a device takes whole is summed over the devices. given: the
    split of the result.
    """
    mesh = active_mesh()
    if mesh is None:
        return f(*arrays)
    specs = tuple(map(as_spec, taken))
    return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=as_spec(given), check_vma=False)(*arrays)


def activation_split(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> Parts:
    """How the active mesh splits an activation, by axes of several devices. axes: logical ones."""
    mesh = active_mesh()
    if mesh is None:
        return ((),) * len(axes)
    parts = activation_parts(axes, shape, seen(mesh))
    return tuple(tuple(name for name in part if mesh.shape[name] > 1) for part in parts)


def parameter_split(axes: tuple[str, ...], shape: tuple[int, ...]) -> Parts:
    """How the active mesh splits a parameter. axes: logical ones."""
    mesh = active_mesh()
    return ((),) * len(axes) if mesh is None else parameter_parts(axes, shape, seen(mesh))


def beyond(parts: Parts, more: Parts) -> Parts:
    """The mesh axes of `more`, axis by axis, that are nowhere in `parts`."""
    taken = {name for part in parts for name in part}
    return tuple(tuple(name for name in part if name not in taken) for part in more)


def joined(parts: Parts, more: Parts) -> Parts:
    """Split by `parts` and, within them, by `more`."""
    return tuple(first + second for first, second in zip(parts, more, strict=True))


Step = tuple[int, tuple[str, ...], tuple[tuple[int, ...], ...] | None]
"""of a sum over devices: array axis to scatter along, mesh axes, and which places along these sum; None for all"""


def gathered(x: jax.Array, parts: Parts) -> jax.Array:
    """Inside `by_parts`: the whole of what devices have parts of; its gradient is `scattered`."""
    return _gathered(x, parts, _steps(parts))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: jax.Array, parts: Parts, back: tuple[Step, ...]) -> jax.Array:
    for axis, names in enumerate(parts):
        if names:
            x = jax.lax.all_gather(x, names, axis=axis, tiled=True)
    return x


def _gathered_forward(x: jax.Array, parts: Parts, back: tuple[Step, ...]) -> tuple[jax.Array, None]:
    return _gathered(x, parts, back), None


def _gathered_backward(parts: Parts, back: tuple[Step, ...], _: None, dx: jax.Array) -> tuple[jax.Array]:
    # the barrier: libtpu 0.0.42 fails when it moves such a sum out of the loop over microbatches
    return (jax.lax.optimization_barrier(_summed(dx, back)),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def scattered(x: jax.Array, parts: Parts) -> jax.Array:
    """Inside `by_parts`: the sum over devices, of which each gets its part."""
    return _summed(x, _steps(parts))


def _summed(x: jax.Array, steps: tuple[Step, ...]) -> jax.Array:
    for axis, names, groups in steps:
        count = len(groups[0]) if groups else jax.lax.axis_size(names)
        # in front, so that they lie apart: of parts of the columns libtpu (0.0.42) sums up the whole on every chip
        # where it has fewer than 256 for one, twice the bytes
        parts = jnp.moveaxis(x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), axis, 0)
        x = jax.lax.psum_scatter(parts, names, scatter_dimension=0, axis_index_groups=groups)
    return x


def _steps(parts: Parts) -> tuple[Step, ...]:
    """The sums that follow one another where an array is scattered."""
    return tuple((axis, *one) for axis, names in enumerate(parts) for one in _along(names))


def _along(names: tuple[str, ...]) -> list[tuple[tuple[str, ...], tuple[tuple[int, ...], ...] | None]]:
    """One sum, but over all chips of a TPU slice: of that libtpu (0.0.42) makes an all-reduce and a slice, twice the
    bytes and the whole array on every chip. There it is axis by axis, or along the last side of the torus after the
    others."""
    mesh = active_mesh()
    if not names or mesh is None:
        return []
    size, first = prod(mesh.shape[name] for name in names), mesh.devices.flat[0]
    if size < mesh.size or first.platform != "tpu":
        return [(names, None)]
    if len(names) > 1:
        return [((name,), None) for name in names]
    sides = [len(set(places)) for places in zip(*(chip.coords for chip in mesh.devices.flat), strict=True)]
    inner = next((side for side in reversed(sides) if side > 1), size)
    outer = size // inner
    apart = tuple(tuple(i * inner + j for i in range(outer)) for j in range(inner))
    along = tuple(tuple(i * inner + j for j in range(inner)) for i in range(outer))
    return [(names, groups) for groups in (apart, along) if len(groups[0]) > 1]
