"""TPU slices as devices to compile for, which need not be present."""

import importlib.util
import os
from math import prod
from typing import Any

from scaling.accounting import DEVICES, Links, Topology, topology
from scaling.accounting.devices import even_sides
from scaling.distribution import with_extra
from scaling.errors import UserError

QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""settings that libtpu would otherwise request, noisily, from a TPU machine's metadata server; and permission for
several processes to load libtpu"""


def slice_links(place: Topology) -> Links:
    """The interconnect of a slice's chips. Raises UserError for devices that are not TPUs or whose chips JAX shows as
    several devices, and for shapes that no slice has."""
    pods = {d.name: d.links for d in DEVICES if d.links and d.links.sides and d.per_chip == 1}
    known = f"known: {', '.join(f'{name}:' + 'x'.join(['4'] * pod.sides) for name, pod in pods.items())} and so on"
    pod = pods.get(place.device.name)
    if pod is None:
        raise UserError(f"topology {place.text!r} is not a TPU slice that can be compiled for; {known}")
    if len(place.sides) != pod.sides or prod(place.sides) > pod.devices or any(side % 2 for side in place.sides[:2]):
        near = _near(place, pod)
        raise UserError(
            f"topology {place.text!r}: slices of {place.device.name} have {pod.sides} sides, of which the first two "
            f"are even (a host has 2 × 2 chips), and at most {pod.devices:,} chips; "
            f"{f'nearest: {near}; ' if near else ''}{known}"
        )
    return pod


def _near(place: Topology, pod: Links) -> str:
    """Slices with about as many chips."""
    sides = place.sides if len(place.sides) == pod.sides else even_sides(prod(place.sides), pod.sides)
    able = [tuple(side + side % 2 * by for side in sides) for by in (-1, 1)]
    able = [near for near in dict.fromkeys(able) if 0 < prod(near) <= pod.devices]
    return ", ".join(f"{place.device.name}:{'x'.join(map(str, near))}" for near in able)


def tpu_devices(text: str) -> list[Any]:
    """The chips of a slice such as `v5p:4x4x4`, or of two, `v5p:4x4x4:2`, as one JAX device each. Needs libtpu, not a
    TPU.

    From then on JAX computes on this process's CPU, unless it has already been initialised for another platform.
    Raises UserError for an unknown topology, and if libtpu is not installed.
    """
    place = topology(text)
    slice_links(place)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"compiling for a TPU needs its compiler, libtpu (not a TPU): {with_extra('tpu-plan')}")
    os.environ |= QUIET
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    more: dict[str, Any] = {"chip_config_name": "megacore"} if place.device.name == "v4" else {}
    more |= {"num_slices": place.slices} if place.slices > 1 else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=place.one, **more).devices)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"topology {text!r}: {str(error).partition(':')[2].strip().splitlines()[0]}") from None
