"""Parsing XLA's notations for the device groups of a collective, and finding the mesh axes that they span."""

import re
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

Groups = list[list[int]]
"""devices by their index in the mesh's flat order"""

INTEGERS = r"[\d,]*"
IOTA = rf"\[({INTEGERS})\](?:T\(({INTEGERS})\))?"


def replica_groups(text: str, devices: int) -> Groups:
    """The groups in an attribute `replica_groups=…` or `source_target_pairs=…` of an instruction.

    text: from the `=` on. Supported are lists `{{0,1},{2,3}}` (`{}`: all devices), iotas `[2,2]<=[2,2]T(1,0)` and
    axes of a mesh `mesh['a'=2,'b'=2] {'b'}`, where an axis may be a part, `'a':(2)4`. Raises ValueError otherwise.
    """
    if text.startswith("{{"):
        return [_integers(group) for group in re.findall(rf"{{({INTEGERS})", text[1 : text.index("}}")])]
    if text.startswith("{}"):
        return [list(range(devices))]
    iota = re.match(rf"\[({INTEGERS})\]<=({IOTA})", text)
    if iota:
        found: Groups = np.reshape(_iota(iota[2]), _integers(iota[1])).tolist()
        return found
    mesh = re.match(r"mesh\[([^\]]*)\](?:, device_ids=\(([^)]*\)?)\))? *\{([^}]*)\}", text)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", mesh[1])}
        order = _iota(mesh[2]) if mesh[2] else range(prod(sizes.values()))
        named = re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", mesh[3])
        axes = [(name, int(before or 1), int(size or sizes[name])) for name, before, size in named]
        return _of_mesh(sizes, order, axes)
    raise ValueError(f"unknown form of replica groups: {text[:80]}")


def _iota(text: str) -> list[int]:
    """`[2,4]T(1,0)`: the numbers from 0 on after that reshape and transposition; or plain numbers."""
    counted = re.fullmatch(IOTA, text)
    if counted is None:
        return _integers(text)
    shape, order = _integers(counted[1]), _integers(counted[2] or "")
    ids: list[int] = np.arange(prod(shape)).reshape(shape).transpose(order or range(len(shape))).ravel().tolist()
    return ids


def _of_mesh(sizes: Mapping[str, int], order: Sequence[int], axes: Sequence[tuple[str, int, int]]) -> Groups:
    """axes: name and, for a part of an axis, the size of what precedes that part and its own size."""
    shape: list[int] = []
    joined: list[int] = []
    for name, size in sizes.items():
        left = size
        for _, before, own in sorted((axis for axis in axes if axis[0] == name), key=lambda axis: axis[1]):
            gap = before // (size // left)
            shape += [gap, own]
            joined.append(len(shape) - 1)
            left //= gap * own
        shape.append(left)
    ids = np.asarray(order).reshape(shape)
    found: Groups = np.moveaxis(ids, joined, range(-len(joined), 0)).reshape(-1, prod(a[2] for a in axes)).tolist()
    return found


def axes_of(groups: Groups, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which devices of one group differ. mesh: devices along each axis."""
    varying = np.zeros(len(mesh), bool)
    for group in groups:
        places = np.stack(np.unravel_index(group, tuple(mesh.values())))
        varying |= (places != places[:, :1]).any(1)
    return tuple(name for name, differs in zip(mesh, varying, strict=True) if differs)


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]
