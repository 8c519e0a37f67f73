"""The mesh: all devices of a run as a grid with an axis for each key of `placement.mesh`."""

from collections.abc import Sequence
from itertools import combinations
from math import prod

import jax
from jax.sharding import AxisType, Mesh

from scaling.accounting.layout import mesh_shape
from scaling.config import MeshConfig
from scaling.errors import UserError

AXES = tuple(MeshConfig.model_fields)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that a placement asks for, over `devices` (all devices of all processes where unset).

    Axes are `Auto`: the compiler places what `sharding.constrain` and the shardings of arguments leave open.
    Raises UserError where the axes do not multiply to the number of devices, or do not lie on a TPU's torus.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    sizes = tuple(shape[axis] for axis in AXES)
    try:
        return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    except NotImplementedError:  # of a TPU slice alone
        asked = " × ".join(f"{axis}={size}" for axis, size in shape.items() if size > 1)
        sides = [len(set(along)) for along in zip(*(chip.coords for chip in devices), strict=True)]
        sides = [side for side in sides if side > 1]
        fit = sorted({prod(some) for n in range(len(sides) + 1) for some in combinations(sides, n)})
        raise UserError(
            f"placement.mesh: {asked} does not lie on a slice of {' × '.join(map(str, sides))} chips: an axis is to "
            f"be the product of some of its sides, one of {', '.join(map(str, fit))}"
        ) from None
