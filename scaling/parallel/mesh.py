"""The mesh: all devices of a run as a grid with an axis for each key of `placement.mesh`."""

from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from scaling.accounting.layout import mesh_shape
from scaling.config import MeshConfig

AXES = tuple(MeshConfig.model_fields)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that a placement asks for, over `devices` (all devices of all processes where unset).

    Axes are `Auto`: the compiler places what `sharding.constrain` and the shardings of arguments leave open.
    Raises UserError where the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    sizes = tuple(shape[axis] for axis in AXES)
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
