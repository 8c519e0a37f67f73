"""The mesh: all devices of a run as a grid with one axis per key of `placement.mesh`."""

from collections.abc import Sequence
from itertools import combinations
from math import prod

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from scaling.accounting.layout import mesh_shape
from scaling.config import MeshConfig
from scaling.errors import UserError

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
    groups = _groups(devices, dcn)
    if len(groups) == 1:
        return _on_one_network(shape, devices)
    apart = mesh_shape(dcn or MeshConfig(), len(groups), "dcn", "group")
    for axis, count in apart.items():
        if shape[axis] % count:
            raise UserError(
                f"placement.dcn: {axis}={count} of {len(groups)} slices or groups of hosts does not divide "
                f"placement.mesh.{axis}={shape[axis]}; use axes in placement.dcn that they divide, such as "
                f"{next((f'{name}={len(groups)}' for name in AXES if shape[name] % len(groups) == 0), 'several')}"
            )
    within = {axis: size // apart[axis] for axis, size in shape.items()}
    parts = np.stack([_on_one_network(within, group).devices for group in groups])
    grid = parts.reshape(*apart.values(), *within.values())
    order = [place for axis in range(len(AXES)) for place in (axis, len(AXES) + axis)]
    return Mesh(grid.transpose(order).reshape(tuple(shape.values())), AXES, axis_types=AUTO)


def slice_of(device: jax.Device) -> int:
    """Index of the TPU slice of a device; 0 for other devices."""
    return int(getattr(device, "slice_index", 0))


def _groups(devices: Sequence[jax.Device], dcn: MeshConfig | None) -> list[Sequence[jax.Device]]:
    """Groups of devices joined by a fast network: TPU slices, else as many equal groups as `dcn` requests, made of
    whole hosts if there are several. Raises UserError if hosts cannot be split into such groups."""
    slices, hosts = ({f(device) for device in devices} for f in (slice_of, lambda device: device.process_index))
    if len(slices) == 1 and dcn is None:
        return [devices]
    count = (
        len(slices) if len(slices) > 1 or dcn is None else dcn.inner * (dcn.data or max(1, len(hosts) // dcn.inner))
    )
    whole = len(hosts) if len(hosts) > 1 else len(devices)
    if whole % count:
        raise UserError(
            f"placement.dcn: {whole} {'hosts' if len(hosts) > 1 else 'devices'} cannot be split into {count} equal "
            f"groups; allowed in total: {', '.join(str(k) for k in range(1, whole + 1) if whole % k == 0)}"
        )
    ordered = sorted(devices, key=lambda device: (slice_of(device), device.process_index))
    size = len(devices) // count
    return [ordered[i * size : (i + 1) * size] for i in range(count)]


def _on_one_network(shape: dict[str, int], devices: Sequence[jax.Device]) -> Mesh:
    try:
        return jax.make_mesh(tuple(shape.values()), AXES, axis_types=AUTO, devices=devices)
    except NotImplementedError:  # raised for TPU slices only
        wanted = " × ".join(f"{axis}={size}" for axis, size in shape.items() if size > 1)
        sides = [len(set(along)) for along in zip(*(chip.coords for chip in devices), strict=True)]
        sides = [side for side in sides if side > 1]
        fit = sorted({prod(some) for n in range(len(sides) + 1) for some in combinations(sides, n)})
        raise UserError(
            f"placement.mesh: {wanted} does not map onto a slice of {' × '.join(map(str, sides))} chips: each axis "
            f"must be a product of some of its sides, one of {', '.join(map(str, fit))}"
        ) from None
