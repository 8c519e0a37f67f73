"""The memory of the host as a place for what a device does not need all the time."""

from typing import Any

import jax
from jax.sharding import Mesh

from scaling.config.placement import Placement
from scaling.errors import UserError

HOST = "pinned_host"
"""the kind of memory, by JAX's name, that devices read and write by themselves"""


def check_host(mesh: Mesh, placement: Placement) -> None:
    """Raises UserError where a placement asks for such memory and the devices of a mesh have none."""
    device = mesh.devices.flat[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    asked = [key for key in ("offload_optimizer", "offload_activations") if getattr(placement, key)]
    if asked and HOST not in kinds:
        raise UserError(
            f"placement.{asked[0]}=true needs memory of kind {HOST}, and a {device.device_kind} has "
            f"{', '.join(kinds) or 'none that JAX names'}; allowed here: false"
        )


def on_host(layout: Any) -> Any:
    """A tree of shapes with their places, arrays of which lie on the host; single numbers stay where they are."""

    def moved(x: Any) -> Any:
        return x if x.ndim == 0 else x.update(sharding=x.sharding.with_memory_kind(HOST))

    return jax.tree.map(moved, layout)


def on_device(arrays: Any) -> Any:
    """Arrays of which some may lie on the host, all on the device. Traced."""
    return jax.device_put(arrays, jax.memory.Space.Device)
