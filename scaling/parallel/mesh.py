"""The mesh: all devices of a run as a grid with one axis per key of `placement.mesh`."""

from collections.abc import Sequence
from math import prod

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from scaling.accounting.layout import mesh_shape
from scaling.accounting.networks import along_sides, parts_apart
from scaling.config import MeshConfig

AXES = tuple(MeshConfig.model_fields)
AUTO = (AxisType.Auto,) * len(AXES)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None, dcn: MeshConfig | None = None) -> Mesh:
    """The mesh of a placement over `devices` (default: all devices of all processes).

    dcn: how much of each axis crosses the slow network, see `Placement.dcn`; within each slice, or group of hosts,
    the remaining axes are laid out as on that slice alone.
    Axes are `Auto`: the compiler decides what `sharding.constrain` and the shardings of arguments leave open.
    Raises UserError if the axes do not multiply to the number of devices, do not fit a TPU's torus or cannot be split
    as `dcn` says.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    hosts, slices = {device.process_index for device in devices}, {slice_of(device) for device in devices}
    apart = parts_apart(shape, dcn, len(hosts), len(slices))
    if apart is None:
        return _on_one_network(shape, devices)
    within = {axis: size // apart[axis] for axis, size in shape.items()}
    ordered = sorted(devices, key=lambda device: (slice_of(device), device.process_index))
    size = prod(within.values())
    groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    parts = np.stack([_on_one_network(within, group).devices for group in groups])
    grid = parts.reshape(*apart.values(), *within.values())
    order = [place for axis in range(len(AXES)) for place in (axis, len(AXES) + axis)]
    return Mesh(grid.transpose(order).reshape(tuple(shape.values())), AXES, axis_types=AUTO)


def slice_of(device: jax.Device) -> int:
    """Index of the TPU slice of a device; 0 for other devices."""
    return int(getattr(device, "slice_index", 0))


def _on_one_network(shape: dict[str, int], devices: Sequence[jax.Device]) -> Mesh:
    try:
        return jax.make_mesh(tuple(shape.values()), AXES, axis_types=AUTO, devices=devices)
    except NotImplementedError:  # for TPU slices, also where only JAX's choice for the last axis does not work out
        return Mesh(_on_torus(shape, devices), AXES, axis_types=AUTO)


def _on_torus(shape: dict[str, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """TPU devices [of each axis of `shape`], each axis along whole sides of their slice."""
    places = [(*device.coords, device.core_on_chip) for device in devices]
    values = [sorted(set(along)) for along in zip(*places, strict=True)]
    sides = [len(along) for along in values]
    found = along_sides(shape, sides)
    grid = np.empty(sides, dtype=object)
    for device, place in zip(devices, places, strict=True):
        grid[tuple(along.index(at) for along, at in zip(values, place, strict=True))] = device
    order = [i for axis in shape for i in found[axis]]
    rest = [i for i in range(len(sides)) if i not in order]  # of one device
    return grid.transpose(order + rest).reshape(tuple(shape.values()))
