"""Per-device programs (`shard_map`) with explicit communication, for what the compiler would partition badly.

A split (`Parts`) names the mesh axes of each array axis, as in `accounting.layout`.
"""

from collections.abc import Callable
from functools import partial
from math import prod

import jax
import jax.numpy as jnp

from scaling.accounting.layout import Parts, activation_parts, parameter_parts
from scaling.parallel.sharding import active_mesh, as_spec, seen


def by_parts(f: Callable[..., jax.Array], taken: tuple[Parts, ...], given: Parts, *arrays: jax.Array) -> jax.Array:
    """`f(*arrays)` computed by every device on its parts; plain `f` without a mesh or on one device.

    taken: the split of each array; gradients of arrays that are whole on each device are summed over the devices.
    given: the split of the result.
    """
    mesh = active_mesh()
    if mesh is None:
        return f(*arrays)
    specs = tuple(map(as_spec, taken))
    return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=as_spec(given), check_vma=False)(*arrays)


def activation_split(axes: tuple[str | None, ...], shape: tuple[int, ...]) -> Parts:
    """How the active mesh splits an activation, omitting mesh axes of size 1. axes: logical ones."""
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
    """The mesh axes of `more`, axis by axis, that do not occur in `parts`."""
    used = {name for part in parts for name in part}
    return tuple(tuple(name for name in part if name not in used) for part in more)


def joined(parts: Parts, more: Parts) -> Parts:
    """Split by `parts` and, within them, by `more`."""
    return tuple(first + second for first, second in zip(parts, more, strict=True))


Step = tuple[int, tuple[str, ...], tuple[tuple[int, ...], ...] | None]
"""one reduce-scatter: array axis to scatter along, mesh axes, and groups of indices along these; None for all"""


def gathered(x: jax.Array, parts: Parts) -> jax.Array:
    """Inside `by_parts`: all-gather an array split by `parts`; its gradient is `scattered`."""
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
    # the barrier is needed because libtpu 0.0.42 fails when it moves such a sum out of the loop over microbatches
    return (jax.lax.optimization_barrier(_summed(dx, back)),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def scattered(x: jax.Array, parts: Parts) -> jax.Array:
    """Inside `by_parts`: the sum over devices, scattered by `parts` (reduce-scatter)."""
    return _summed(x, _steps(parts))


def _summed(x: jax.Array, steps: tuple[Step, ...]) -> jax.Array:
    for axis, names, groups in steps:
        count = len(groups[0]) if groups else jax.lax.axis_size(names)
        # parts go in front to be contiguous: for parts of the columns libtpu (0.0.42) sums the whole array on every
        # chip if a chip's part has fewer than 256 columns, twice the bytes
        parts = jnp.moveaxis(x.reshape(*x.shape[:axis], count, -1, *x.shape[axis + 1 :]), axis, 0)
        x = jax.lax.psum_scatter(parts, names, scatter_dimension=0, axis_index_groups=groups)
    return x


def _steps(parts: Parts) -> tuple[Step, ...]:
    """The sequence of reduce-scatters that scatters an array by `parts`."""
    return tuple((axis, *step) for axis, names in enumerate(parts) for step in _along(names))


def _along(names: tuple[str, ...]) -> list[tuple[tuple[str, ...], tuple[tuple[int, ...], ...] | None]]:
    """One sum, except over all chips of a TPU slice, where libtpu (0.0.42) would use an all-reduce and a slice: twice
    the bytes and the whole array on every chip. There it is done per mesh axis or, for a single mesh axis, over the
    other sides of the torus and then along its last side."""
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
