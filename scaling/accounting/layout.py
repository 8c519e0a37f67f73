"""Logical axes to mesh axes: over which devices an array is split. Pure arithmetic, for real and planned meshes."""

from collections.abc import Collection, Mapping
from functools import lru_cache
from math import prod
from types import MappingProxyType

from scaling.config import MeshConfig
from scaling.errors import UserError
from scaling.numbers import divisors

STORE = ("fsdp", "expert", "context", "pipeline")
"""mesh axes that share the storage of what they do not share the work of; stages, of what is not of their layers"""

RULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # those of fsdp and expert store together, and compute their own windows; so do stages, but in their layers
        "batch": ("data", "fsdp", "expert", "pipeline"),
        "sequence": ("context",),
        "layers": (
            "pipeline",
        ),  # each stage has its own; split otherwise, a scan would fetch every step from one device
        "embed": STORE,  # a matrix is gathered where it is used (ZeRO stage 3, 1910.02054)
        "vocab": ("tensor",),
        "heads": ("tensor",),  # column-parallel in, row-parallel out: one sum per block (Megatron, 1909.08053)
        "kv_heads": ("tensor",),
        "spread_heads": ("tensor", "context"),  # of whole windows: each device attends for some heads (2309.14509)
        "latent": STORE,  # as `embed`; computed whole, by each device for its own heads
        "mlp": ("tensor",),
        "experts": ("expert",),
        "gates": (),  # all gates of a cell are where the cell is
        "cells": ("tensor",),
        "head_dim": (),
        "position": (),
    }
)
"""Logical axis to the mesh axes that it is split over.

Within one array a mesh axis is used by the first logical axis that names it: activations [batch, sequence, embed] are
split by batch, parameters [embed, mlp] by embed and mlp.
"""

PIPELINE = "pipeline"

STORED = ("embed", "latent")
"""logical axes along which parameters are split only for storage"""

LARGE = 1 << 20
"""elements of a parameter from which it must not be replicated on every device by accident ..."""
LARGE_SHARE = 0.02
"""... if it also is more than this share of all parameters"""

Parts = tuple[tuple[str, ...], ...]
"""the mesh axes that each axis of an array is split over"""


def mesh_shape(config: MeshConfig, n_devices: int, key: str = "mesh", what: str = "device") -> dict[str, int]:
    """Devices along each axis over `n_devices`, with `data: 0` filled in. Raises UserError where they do not fit.

    key: of the placement, and `what` is counted, both for the error."""
    inner = config.inner
    data = config.data or n_devices // inner
    if data * inner == n_devices and data:
        return config.model_dump() | {"data": data}
    requested = f"data={config.data} × {config.inner_text}"
    there = f"there {'is 1' if n_devices == 1 else f'are {n_devices}'}"
    if config.data == 0:
        needs = f"a multiple of {inner} {what}s"
    else:
        needs = f"{config.data * inner} {what}{'s' if config.data * inner > 1 else ''}"
    raise UserError(f"placement.{key}: {requested} needs {needs}, {there}; {_what_fits(config, n_devices)}")


def _what_fits(config: MeshConfig, n_devices: int) -> str:
    if n_devices % config.inner == 0:
        return f"set data to {n_devices // config.inner}, or to 0 for all the rest"
    axes = " × ".join(axis for axis in type(config).model_fields if axis != "data")
    return f"{axes} must divide {n_devices}: one of {', '.join(map(str, divisors(n_devices)))}"


def rule(axis: str | None) -> tuple[str, ...]:
    if axis is None:
        return ()
    if axis not in RULES:
        raise ValueError(f"unknown logical axis {axis!r}; known: {', '.join(RULES)}")
    return RULES[axis]


def ways(part: tuple[str, ...], mesh: Mapping[str, int]) -> int:
    """Product of the devices along these mesh axes. mesh: devices along each axis; 1 along axes that it omits."""
    return prod(mesh.get(name, 1) for name in part)


def window_ways(mesh: Mapping[str, int]) -> int:
    """Number of devices that compute windows of their own: all of them before and after the layers."""
    return ways(RULES["batch"], mesh)


def in_stage(mesh: Mapping[str, int]) -> dict[str, int]:
    """The mesh of one stage of a pipeline, in which its layers are computed."""
    return {axis: devices for axis, devices in mesh.items() if axis != PIPELINE}


def activation_parts(axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mapping[str, int]) -> Parts:
    """The split of an activation; an axis whose size does not divide is not split."""
    taken: set[str] = set()
    parts: list[tuple[str, ...]] = []
    for axis, size in zip(axes, shape, strict=True):
        part: tuple[str, ...] = ()
        for name in rule(axis):
            if name in mesh and name not in taken and size % (ways(part, mesh) * mesh[name]) == 0:
                part = (*part, name)
                taken.add(name)
        parts.append(part)
    return tuple(parts)


def parameter_parts(axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mapping[str, int]) -> Parts:
    """The split of a parameter.

    A mesh axis splits the axis that RULES give it; where that does not divide, the largest other one that does (the
    compiler then gathers the parameter where it is used). Vectors are replicated: they cost nothing.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axis names {axes} for a parameter of shape {shape}")
    return _parameter_parts(tuple(axes), tuple(shape), tuple(mesh.items()))


@lru_cache(maxsize=10_000)  # a search of placements asks for each layer's parameters over and over
def _parameter_parts(axes: tuple[str, ...], shape: tuple[int, ...], devices: tuple[tuple[str, int], ...]) -> Parts:
    mesh = dict(devices)
    parts: list[tuple[str, ...]] = [() for _ in axes]
    if sum(axis != "layers" for axis in axes) < 2:
        return tuple(parts)
    for name in ruled(axes, mesh):
        wanted = [i for i, axis in enumerate(axes) if name in rule(axis)]
        other = sorted(
            (i for i, axis in enumerate(axes) if axis != "layers"), key=lambda i: (len(parts[i]), -shape[i])
        )
        for i in [*wanted, *other]:
            if shape[i] % (ways(parts[i], mesh) * mesh[name]) == 0:
                parts[i] = (*parts[i], name)
                break
    return tuple(parts)


def computed_parts(axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mapping[str, int]) -> Parts:
    """The split of a parameter's copy for computation, which is whole on devices that only share its storage."""
    kept = {name for axis in axes if axis not in STORED for name in rule(axis)}
    return tuple(tuple(name for name in part if name in kept) for part in parameter_parts(axes, shape, mesh))


def vocabulary_parts(part: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the mesh axes over which a vocabulary is stored that compute with parts of it: none where some devices
    have windows of their own, as when a width does not divide over them. There the vocabulary is gathered first."""
    return () if set(part) & {*RULES["batch"], *RULES["sequence"]} else part


def refuse_whole(
    parameters: Collection[tuple[str, tuple[str, ...], tuple[int, ...]]], mesh: Mapping[str, int]
) -> None:
    """Raises UserError where a large parameter would be replicated on devices that RULES would split it over.

    parameters: all of a model, (name, axes, shape). mesh: devices along each axis."""
    total = sum(prod(shape) for _, _, shape in parameters)
    for name, axes, shape in parameters:
        if prod(shape) < max(LARGE, LARGE_SHARE * total):
            continue
        split = {own for part in parameter_parts(axes, shape, mesh) for own in part}
        for own in ruled(axes, mesh):
            if own not in split:
                raise UserError(_left_whole(name, axes, shape, own, mesh[own], prod(shape) / total))


def _left_whole(
    name: str, axes: tuple[str, ...], shape: tuple[int, ...], own: str, devices: int, share: float
) -> str:
    """The message; own: the mesh axis whose number of devices divides no axis of the parameter."""
    splits = [n for axis, n in zip(axes, shape, strict=True) if axis != "layers" or own == PIPELINE]
    able = sorted({k for n in splits for k in divisors(n)})
    near = [max(k for k in able if k < devices), *[k for k in able if k > devices][:1]]
    at = next(i for i, axis in enumerate(axes) if own in rule(axis))
    sizes = ", ".join(f"{axis}={n}" for axis, n in zip(axes, shape, strict=True))
    return (
        f"placement.mesh: {own}={devices} leaves {name} ({sizes}) whole on every device, {share:.0%} of all "
        f"parameters: no axis is divisible by {devices}; set {own} to {' or '.join(map(str, near))}, or "
        f"{axes[at]} to {-(-shape[at] // devices) * devices}"
    )


def ruled(axes: tuple[str, ...], mesh: Mapping[str, int]) -> list[str]:
    """Mesh axes of more than one device that RULES name for a parameter, in the mesh's order."""
    wanted = {name for axis in axes for name in rule(axis)}
    return [name for name in mesh if name in wanted and mesh[name] > 1]
