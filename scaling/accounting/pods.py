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
    dcn: float
    """bytes/s that a chip sends to other slices, its part of its host's network"""
    dollars: float
    """of a chip for an hour, on demand in the United States in 2025: look it up before it counts"""


PODS = {
    "v4": Pod(3, 4096, 1.23e12, 4.5e10, 6.25e9, 3.22),
    "v5e": Pod(2, 256, 8.2e11, 4.5e10, 3.125e9, 1.20),
    "v5p": Pod(3, 6144, 2.77e12, 9.0e10, 6.25e9, 4.20),
    "v6e": Pod(2, 256, 1.64e12, 9.0e10, 1.25e10, 2.70),
}
"""by the names of `devices.DEVICES`; docs.cloud.google.com/tpu/docs (chips, HBM; hosts of 8 chips with 2 × 100 Gbit/s
on v5e, 4 × 200 on v6e) and jax-ml.github.io/scaling-book/tpus (links; DCN of v4 and v5p)"""


def pod_of(place: Topology) -> Pod:
    """What a slice is part of. Raises UserError for devices that are none and shapes that no slice has."""
    examples = {name: f"{name}:{'x'.join(['4'] * pod.sides)}" for name, pod in PODS.items()}
    known = f"known: {', '.join(examples.values())} and so on"
    pod = PODS.get(place.device.name)
    if pod is None:
        raise UserError(f"topology {place.text!r} is no TPU slice that can be compiled for; {known}")
    if len(place.chips) != pod.sides or prod(place.chips) > pod.chips:
        raise UserError(
            f"topology {place.text!r}: slices of {place.device.name} have {pod.sides} sides and at most "
            f"{pod.chips:,} chips; {known}"
        )
    return pod
