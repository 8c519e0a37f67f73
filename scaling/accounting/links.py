"""Time of communication between devices: over a switch, the sides of a torus, and the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from scaling.accounting.devices import Topology, even_sides
from scaling.accounting.networks import along_sides
from scaling.config import MeshConfig
from scaling.errors import UserError

RING = 8
"""devices through which JAX lays a ring in the order of any mesh"""


def sent(kind: str, size: float, group: int) -> float:
    """Bytes that each of `group` devices sends with the best algorithms.

    kind: all-gather, reduce-scatter, all-reduce, all-to-all or collective-permute. size: bytes of the array where it
    is
    largest on one device: the output of an all-gather, the input of a reduce-scatter.
    """
    if kind == "collective-permute":
        return float(size)
    return (2 if kind == "all-reduce" else 1) * size * (group - 1) / group


def torus_seconds(kind: str, size: float, sides: Sequence[int], link: float) -> float:
    """Seconds of one collective among devices along these sides of a torus, each a ring with two links per chip.

    All-to-alls are bound by the middle of the longest ring, of n chips: n/8 of each one's data. link: bytes/s each
    way.
    """
    if kind == "collective-permute":
        return size / link
    if kind.endswith("all-to-all"):
        return size * max(sides) / 8 / link
    return sent(kind, size, prod(sides)) / (2 * sum(side > 1 for side in sides) * link)


@dataclass(frozen=True)
class Group:
    """The devices along some axes of a mesh, and how links connect them."""

    inside: tuple[int, ...]
    """devices along each side of a torus, or all on one switch"""
    outside: int
    """number of nodes or slices they are in"""


@dataclass(frozen=True)
class Wiring:
    """A mesh mapped to the links of its devices, the last axis to neighbours."""

    place: Topology
    mesh: Mapping[str, int]
    """devices along each axis, in the mesh's order"""
    sides: Mapping[str, tuple[int, ...]]
    """sides of the torus that each axis occupies"""

    def group(self, axes: Sequence[str]) -> Group:
        links = self.place.device.links
        assert links is not None
        axes = [axis for axis in self.mesh if axis in axes]
        if links.sides:
            slices = slices_of(self.place) if "data" in axes else 1
            return Group(tuple(side for axis in axes for side in self.sides[axis]), slices)
        places = [0]
        for axis in axes:
            stride = prod(list(self.mesh.values())[list(self.mesh).index(axis) + 1 :])
            places = [place + stride * i for place in places for i in range(self.mesh[axis])]
        nodes = len({place // links.devices for place in places})
        return Group((len(places) // nodes,), nodes)

    def seconds(self, kind: str, size: float, group: Group) -> tuple[float, float]:
        """Seconds of one collective over links, and over the network; both work at the same time.

        size: bytes, as in `sent`. A gather or a sum over nodes is made within each node and, by each device for its
        part, between nodes.
        """
        links, inside = self.place.device.links, prod(group.inside)
        assert links is not None
        near = 0.0
        if inside > 1 and links.sides:
            near = torus_seconds(kind, size, group.inside, links.link)
        elif inside > 1:
            near = sent(kind, size, inside) / links.link
        if group.outside == 1:
            return near, 0.0
        apart = 1 if kind.endswith("all-to-all") else inside  # devices send their own data, or share the work
        assert links.network is not None
        return near, sent(kind, size, group.outside) / apart / links.network


def wired(place: Topology, mesh: Mapping[str, int], dcn: MeshConfig | None = None) -> Wiring | None:
    """A mesh mapped to devices; None where its axes do not fit the sides of the torus, or something is `unknown`.

    More chips than a slice has are slices of one size, of which `data` is a multiple. dcn: as `placement.dcn`; None
    where other axes than `data` cross the network.
    """
    links = place.device.links
    if links is None or unknown(place) or (dcn is not None and dcn.inner > 1):
        return None
    slices = slices_of(place)
    if not links.sides:
        return Wiring(place, mesh, {})
    sizes = dict(mesh)
    if sizes["data"] % slices:
        return None
    sizes["data"] //= slices
    sides = slice_sides(place)
    try:
        found = along_sides(sizes, sides)
    except UserError:
        return None
    return Wiring(place, mesh, {axis: tuple(sides[i] for i in own) for axis, own in found.items()})


def slice_sides(place: Topology) -> list[int]:
    """Devices along each side of a slice, of which a chip of several devices is one more."""
    links, sides = place.device.links, list(place.sides)
    assert links is not None
    if slices_of(place) != place.slices or len(sides) != links.sides:
        sides = even_sides(place.chips // slices_of(place), links.sides)
    return sides + [place.device.per_chip] * (place.device.per_chip > 1)


def in_any_order(place: Topology) -> bool:
    """Whether JAX lays any mesh on a slice: in a ring through few chips, or by dividing sides (`jax.make_mesh`)."""
    return place.device.name in ("v2", "v3", "v5e") or place.devices // slices_of(place) <= RING


def unknown(place: Topology) -> str:
    """Facts about devices that timing a step needs and that are unknown; empty where all are known."""
    name, links = place.device.name, place.device.links
    if links is None or place.device.hbm is None:
        return f"{name}: its links and memory bandwidth are not known, so steps cannot be timed"
    if (place.devices > links.devices or place.slices > 1) and links.network is None:
        most = links.devices // place.device.per_chip
        return f"{place.text}: the network between nodes of {most} {name} is not known; use at most {most}"
    return ""


def slices_of(place: Topology) -> int:
    """The smallest number of slices of one size."""
    links = place.device.links
    assert links is not None
    least = max(place.slices, -(-place.devices // links.devices)) if links.sides else 1
    return next(count for count in range(least, place.devices + 1) if place.devices % count == 0)
