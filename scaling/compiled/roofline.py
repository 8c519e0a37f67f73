"""The roofline of a compiled step: what it takes by products, by memory, and by the collectives in its program."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from scaling import accounting
from scaling.accounting.links import torus_seconds
from scaling.compiled.collectives import Collective
from scaling.config import RunConfig
from scaling.parallel.mesh import slice_of


def compiled_roofline(
    run: RunConfig,
    place: accounting.Topology,
    links: accounting.Links,
    mesh: Mesh,
    found: Sequence[Collective],
    price: float | None = None,
    mfu: float | None = None,
) -> dict[str, Any]:
    """As `accounting.roofline`. run: with its microbatches decided.

    What lies in several slices is exchanged within each first, then each chip sends its part to the others.
    """
    seconds = {
        "ici": sum(one.times * _ici_seconds(one, links.link, mesh) for one in found),
        "dcn": sum(one.times * _dcn_seconds(one, links.network, mesh) for one in found),
    }
    return accounting.roofline(run, place, seconds, price, mfu)


def _ici_seconds(one: Collective, link: float, mesh: Mesh) -> float:
    """Of one collective within each slice, once."""
    chips, slices = _chips(one, mesh)
    if len(chips) == slices or (slices > 1 and one.kind == "collective-permute"):
        return 0.0
    sides = [len(set(along)) for along in zip(*(chip.coords for chip in chips), strict=True)]
    return torus_seconds(one.kind, one.bytes, sides, link)


def _dcn_seconds(one: Collective, network: float | None, mesh: Mesh) -> float:
    """Of one collective between slices, once."""
    chips, slices = _chips(one, mesh)
    if slices == 1:
        return 0.0
    assert network is not None, "slice_links asks for it"
    return _sent_between(one, len(chips), slices) / network


def _sent_between(one: Collective, chips: int, slices: int) -> float:
    """Bytes that a chip sends to other slices in one collective: of an exchange of all with all the part that is
    theirs; else of the part that it holds once its own slice has done its own, 1/m of the whole in a slice of m."""
    if one.kind == "collective-permute":
        return float(one.bytes)
    others = one.bytes * (slices - 1) / slices
    if one.kind in ("all-to-all", "ragged-all-to-all"):
        return others
    return (2 if one.kind == "all-reduce" else 1) * others * slices / chips


def _chips(one: Collective, mesh: Mesh) -> tuple[list[Any], int]:
    """Those of its first group, and how many slices they are in."""
    chips = [mesh.devices.flat[i] for i in one.members]
    return chips, len({slice_of(chip) for chip in chips})


def by_kind(sent: Sequence[Collective]) -> list[Mapping[str, Any]]:
    """Those of one kind over the same axes in the same loops as one row, those that send most first."""
    rows: dict[Any, dict[str, Any]] = {}
    for one in sent:
        key = one.kind, one.axes, one.group, one.loops
        row = rows.setdefault(
            key, dict(kind=one.kind, axes=list(one.axes), devices=one.group, loops=list(one.loops), count=0, bytes=0,
                      sent_per_step=0.0)
        )  # fmt: skip
        row["count"] += 1
        row["bytes"] += one.bytes
        row["sent_per_step"] += one.times * one.sent
    return sorted(rows.values(), key=lambda row: -row["sent_per_step"])
