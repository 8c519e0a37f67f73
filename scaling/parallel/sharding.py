"""Logical axes to mesh axes: how parameters, optimizer state, batches and activations are sharded."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scaling.accounting.layout import RULES, Parts, activation_parts, in_stage, parameter_parts, refuse_whole, rule
from scaling.accounting.layout import ways as ways_of

_mesh: ContextVar[Mesh | None] = ContextVar("mesh", default=None)
_staged: ContextVar[bool] = ContextVar("staged", default=False)


class HasAxes(Protocol):
    """What sharding needs to know about a parameter: the logical names of its axes."""

    @property
    def axes(self) -> tuple[str, ...]: ...


@contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
    """Sets the mesh that `constrain` uses while a function is traced.

    Enter it inside the jitted function: jit does not retrace when only this mesh changes.
    """
    token = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(token)


@contextmanager
def one_stage() -> Iterator[None]:
    """For tracing one pipeline stage, which `vmap` maps over all: RULES do not see the pipeline axis."""
    token = _staged.set(True)
    try:
        yield
    finally:
        _staged.reset(token)


def seen(mesh: Mesh) -> Mapping[str, int]:
    """Sizes of the mesh axes that RULES see in the current trace."""
    return in_stage(mesh.shape) if _staged.get() else mesh.shape


def target_platform() -> str:
    """`cpu`, `gpu` or `tpu`: the platform that the traced program will run on, from the active mesh or else JAX's
    default backend."""
    mesh = _mesh.get()
    name = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
    """`x` sharded over the active mesh by RULES; `x` itself without a mesh or on one device.

    logical_axes: a name for each axis of `x`, None for one that is not split. An axis whose size is not divisible is
    left whole.
    """
    mesh = active_mesh()
    if mesh is None:
        return x
    if len(logical_axes) != x.ndim:
        raise ValueError(f"{len(logical_axes)} axis names {logical_axes} for an array of shape {x.shape}")
    spec = as_spec(activation_parts(logical_axes, x.shape, seen(mesh)))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def active_mesh() -> Mesh | None:
    """The mesh of the current trace; None if there is none or it has one device."""
    mesh = _mesh.get()
    return None if mesh is None or mesh.size == 1 else mesh


def ways(logical_axis: str) -> int:
    """Number of devices over which RULES split a logical axis on the active mesh; 1 without a mesh."""
    mesh = _mesh.get()
    return 1 if mesh is None else ways_of(rule(logical_axis), seen(mesh))


def on_each_device(
    f: Callable[..., jax.Array], axes: tuple[tuple[str | None, ...], ...], *arrays: jax.Array
) -> jax.Array:
    """`f(*arrays)` computed by every device on its own shards; plain `f` without a mesh or on one device.

    For kernels that the compiler cannot partition. `f` must not mix data across axes that RULES split.
    axes: the logical axes of each array; the result is sharded like the first.
    """
    mesh = active_mesh()
    if mesh is None:
        return f(*arrays)
    specs = tuple(
        as_spec(activation_parts(names, x.shape, seen(mesh))) for names, x in zip(axes, arrays, strict=True)
    )
    return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays [batch, ...] split by windows."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def param_shardings(metadata: Any, shapes: Any, mesh: Mesh) -> Any:
    """The layout of each parameter on `mesh`.

    metadata: nested dict whose leaves have `.axes`, the logical names of a parameter's axes.
    shapes: the same nested dict of arrays or shapes (anything with `.shape`).
    returns: the same nested dict of NamedSharding.

    See `accounting.layout.parameter_parts`. Raises UserError as `accounting.layout.refuse_whole` does.
    """

    def spec(facts: HasAxes, x: Any) -> PartitionSpec:
        return as_spec(parameter_parts(facts.axes, x.shape, mesh.shape))

    specs = jax.tree.map(spec, metadata, shapes, is_leaf=_has_axes)
    facts = jax.tree.leaves(metadata, is_leaf=_has_axes)
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    refuse_whole(
        [(".".join(_dict_keys(path)), fact.axes, x.shape) for (path, x), fact in zip(leaves, facts, strict=True)],
        mesh.shape,
    )
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def state_shardings(state: Any, shardings: Any, shapes: Any, mesh: Mesh) -> Any:
    """The layout of a training state: whatever mirrors a parameter is sharded like the parameter.

    state: any tree of arrays or shapes that holds the parameters or trees like them (moments) as nested dicts.
    shardings, shapes: those of the parameters, from `param_shardings`.
    returns: the tree of `state` with NamedSharding leaves. A leaf whose path ends in a parameter's keys and that has
    its shape gets its layout; everything else (counters, factored moments) is replicated.
    """
    by_keys = {
        _dict_keys(path): (x.shape, sharding)
        for (path, x), sharding in zip(
            jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True
        )
    }

    def layout(path: tuple[Any, ...], x: Any) -> NamedSharding:
        keys = _dict_keys(path)
        for start in range(len(keys)):  # a parameter's keys come last, after those of the enclosing trees
            shape, sharding = by_keys.get(keys[start:], (None, None))
            if sharding is not None and shape == x.shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(layout, state)


def as_spec(parts: Parts) -> PartitionSpec:
    return PartitionSpec(*(part or None for part in parts)) if any(parts) else PartitionSpec()


def _dict_keys(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The dict keys at the end of a tree path: a parameter's name, wherever it is in the state."""
    keys: list[str] = []
    for entry in reversed(path):
        if not isinstance(entry, jax.tree_util.DictKey):
            break
        keys.append(str(entry.key))
    return tuple(reversed(keys))


def _has_axes(x: Any) -> bool:
    return hasattr(x, "axes")


def _is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)
