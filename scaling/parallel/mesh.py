"""The mesh: all devices of a run as a grid with axes `data`, `fsdp` and `tensor`."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from scaling.config import MeshConfig
from scaling.errors import UserError

AXES = ("data", "fsdp", "tensor")
"""data: copies of the model; fsdp: copies that share the storage of one; tensor: devices that share each matrix.

The last axis communicates most and changes fastest over the devices, so it lies on neighbours.
"""


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that a placement asks for, over `devices` (all devices of all processes where unset).

    Axes are `Auto`: the compiler places what `sharding.constrain` and the shardings of arguments leave open.
    Raises UserError where the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def mesh_shape(config: MeshConfig, n_devices: int) -> tuple[int, int, int]:
    """(data, fsdp, tensor) over `n_devices`, with `data: 0` filled in. Raises UserError where they do not fit."""
    inner = config.fsdp * config.tensor
    if config.data == 0 and n_devices % inner == 0:
        return (n_devices // inner, config.fsdp, config.tensor)
    if math.prod((config.data, inner)) == n_devices:
        return (config.data, config.fsdp, config.tensor)
    asked = f"data={config.data} × fsdp={config.fsdp} × tensor={config.tensor}"
    there = f"there {'is 1' if n_devices == 1 else f'are {n_devices}'}"
    if config.data == 0:
        needs = f"a multiple of {inner} devices"
    else:
        needs = f"{config.data * inner} device{'s' if config.data * inner > 1 else ''}"
    raise UserError(f"placement.mesh: {asked} needs {needs}, {there}; {_what_fits(config, n_devices)}")


def _what_fits(config: MeshConfig, n_devices: int) -> str:
    inner = config.fsdp * config.tensor
    if n_devices % inner == 0:
        return f"set data to {n_devices // inner}, or to 0 for all that the others leave"
    divisors = [k for k in range(1, n_devices + 1) if n_devices % k == 0]
    return f"fsdp × tensor must divide {n_devices}: one of {', '.join(map(str, divisors))}"
