"""Slices of TPU pods: how chips are wired, how fast they read their memory and talk, and what they cost."""

from dataclasses import dataclass
from math import prod

from scaling.accounting.devices import Topology
from scaling.errors import UserError


@dataclass(frozen=True)
class Pod:
    """Chips of one kind on a torus; each side of it gives a chip two links."""

    sides: int
    """of the torus"""
    chips: int
    """of the largest slice that one job gets"""
    hbm: float
    """bytes/s that a chip reads or writes"""
    link: float
    """bytes/s of a link, each way"""
    dollars: float
    """of a chip for an hour, on demand in the United States in 2025: look it up before it counts"""


PODS = {
    "v4": Pod(3, 4096, 1.23e12, 4.5e10, 3.22),
    "v5e": Pod(2, 256, 8.2e11, 4.5e10, 1.20),
    "v5p": Pod(3, 6144, 2.77e12, 9.0e10, 4.20),
    "v6e": Pod(2, 256, 1.64e12, 9.0e10, 2.70),
}
"""by the names of `devices.DEVICES`; docs.cloud.google.com/tpu/docs (chips, HBM) and
jax-ml.github.io/scaling-book/tpus (links)"""


def pod_of(place: Topology) -> Pod:
    """What a slice is part of. Raises UserError for devices that are none and shapes that no slice has."""
    examples = {name: f"{name}:{'x'.join(['4'] * pod.sides)}" for name, pod in PODS.items()}
    known = f"known: {', '.join(examples.values())} and so on"
    pod = PODS.get(place.device.name)
    shape = place.text.partition(":")[2].lower()
    if pod is None:
        raise UserError(f"topology {place.text!r} is no TPU slice that can be compiled for; {known}")
    sides = [int(side) for side in shape.split("x") if side]
    if len(sides) != pod.sides or prod(sides) > pod.chips:
        raise UserError(
            f"topology {place.text!r}: slices of {place.device.name} have {pod.sides} sides and at most "
            f"{pod.chips:,} chips; {known}"
        )
    return pod
