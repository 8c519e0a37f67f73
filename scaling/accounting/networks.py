"""How the axes of a mesh are divided over networks: groups of devices, and sides of a torus. No JAX."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import prod

from scaling.accounting.layout import mesh_shape
from scaling.config import MeshConfig
from scaling.errors import UserError
from scaling.numbers import divisors


def parts_apart(
    mesh: Mapping[str, int], dcn: MeshConfig | None, hosts: int = 1, slices: int = 1
) -> dict[str, int] | None:
    """Into how many groups of devices, joined by a slow network, each axis of a mesh is divided: TPU slices, else as
    many equal groups as `dcn` requests, made of whole hosts if there are several; None where one network joins all.

    mesh: devices along each axis. dcn: as `Placement.dcn`. hosts, slices: that the devices are in.
    Raises UserError where hosts cannot be split into such groups, or the groups do not divide an axis.
    """
    if slices == 1 and dcn is None:
        return None
    dcn = dcn or MeshConfig()
    groups = slices if slices > 1 else dcn.inner * (dcn.data or max(1, hosts // dcn.inner))
    whole = hosts if hosts > 1 else prod(mesh.values())
    if whole % groups:
        raise UserError(
            f"placement.dcn: {whole} {'hosts' if hosts > 1 else 'devices'} cannot be split into {groups} equal "
            f"groups; allowed in total: {', '.join(map(str, divisors(whole)))}"
        )
    if groups == 1:
        return None
    apart = mesh_shape(dcn, groups, "dcn", "group")
    for axis, count in apart.items():
        if mesh[axis] % count:
            able = [f"{name}={groups}" for name, size in mesh.items() if size % groups == 0]
            raise UserError(
                f"placement.dcn: {axis}={count} of {groups} slices or groups of hosts does not divide "
                f"placement.mesh.{axis}={mesh[axis]}; use axes in placement.dcn that they divide, such as "
                f"{next(iter(able), 'several')}"
            )
    return apart


def along_sides(mesh: Mapping[str, int], sides: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Which sides of a torus each axis of a mesh takes, by index, as JAX assigns them: the last axis first, and the
    most sides first; also where its choice for the last axis leaves none for the others.

    Raises UserError where there is no such assignment."""
    found = next(_assigned(list(mesh.items())[::-1], sides, frozenset(range(len(sides)))), None)
    if found is None:
        able = sorted({prod(some) for n in range(len(sides) + 1) for some in combinations(sides, n)})
        raise UserError(
            f"placement.mesh: {' × '.join(f'{axis}={size}' for axis, size in mesh.items() if size > 1)} does not map "
            f"onto a slice of {' × '.join(str(side) for side in sides if side > 1)} chips: each axis must be a "
            f"product of some of its sides, one of {', '.join(map(str, able))}, and no two axes share a side"
        )
    return found


def _assigned(
    axes: Sequence[tuple[str, int]], sides: Sequence[int], left: frozenset[int]
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Assignments of the sides `left`, by index, to axes whose size is their product."""
    if not axes:
        yield {}
        return
    (name, size), *rest = axes
    for count in range(len(left) if size > 1 else 0, -1, -1):
        for chosen in combinations(sorted(left), count):
            if prod(sides[i] for i in chosen) == size:
                for others in _assigned(rest, sides, left.difference(chosen)):
                    yield {name: chosen} | others
