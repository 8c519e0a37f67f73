"""Host memory as storage for arrays that a device does not need all the time (offloading)."""

from typing import Any

import jax
from jax.sharding import Mesh

from scaling.config.placement import Placement
from scaling.errors import UserError

HOST = "pinned_host"
"""JAX's name for host memory that devices can access directly"""


def check_host(mesh: Mesh, placement: Placement) -> None:
    """Raises UserError if a placement offloads to host memory and the mesh's devices cannot access it."""
    device = mesh.devices.flat[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    requested = [key for key in ("offload_optimizer", "offload_activations") if getattr(placement, key)]
    if requested and HOST not in kinds:
        raise UserError(
            f"placement.{requested[0]}=true needs memory of kind {HOST}, but {device.device_kind} has only "
            f"{', '.join(kinds) or 'memory that JAX does not name'}; allowed here: false"
        )


def on_host(layout: Any) -> Any:
    """A tree of shapes with shardings, with arrays moved to host memory; scalars stay where they are."""

    def moved(x: Any) -> Any:
        return x if x.ndim == 0 else x.update(sharding=x.sharding.with_memory_kind(HOST))

    return jax.tree.map(moved, layout)


def on_device(arrays: Any) -> Any:
    """All arrays moved to the device, whether or not they are on the host. Traced."""
    return jax.device_put(arrays, jax.memory.Space.Device)
