"""The roofline of a compiled step: its time by matrix products, by memory, and by the collectives in its program."""

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
    """As `accounting.roofline`. run: with its number of microbatches set.

    A collective across slices is first done within each slice, then each chip sends its part to the other slices.
    """
    seconds = {
        "ici": sum(collective.times * _ici_seconds(collective, links.link, mesh) for collective in found),
        "dcn": sum(collective.times * _dcn_seconds(collective, links.network, mesh) for collective in found),
    }
    return accounting.roofline(run, place, seconds, price, mfu)


def _ici_seconds(collective: Collective, link: float, mesh: Mesh) -> float:
    """Seconds of one execution of a collective within each slice."""
    chips, slices = _chips(collective, mesh)
    if len(chips) == slices or (slices > 1 and collective.kind == "collective-permute"):
        return 0.0
    sides = [len(set(along)) for along in zip(*(chip.coords for chip in chips), strict=True)]
    return torus_seconds(collective.kind, collective.bytes, sides, link)


def _dcn_seconds(collective: Collective, network: float | None, mesh: Mesh) -> float:
    """Seconds of one execution of a collective between slices."""
    chips, slices = _chips(collective, mesh)
    if slices == 1:
        return 0.0
    assert network is not None, "slice_links asks for it"
    return _sent_between(collective, len(chips), slices) / network


def _sent_between(collective: Collective, chips: int, slices: int) -> float:
    """Bytes that a chip sends to other slices in one execution: for an all-to-all, the part addressed to them; else a
    share of what the chip holds after the collective within its slice, 1/m of the whole in a slice of m chips."""
    if collective.kind == "collective-permute":
        return float(collective.bytes)
    others = collective.bytes * (slices - 1) / slices
    if collective.kind in ("all-to-all", "ragged-all-to-all"):
        return others
    return (2 if collective.kind == "all-reduce" else 1) * others * slices / chips


def _chips(collective: Collective, mesh: Mesh) -> tuple[list[Any], int]:
    """The chips of its first group, and the number of slices that they are in."""
    chips = [mesh.devices.flat[i] for i in collective.members]
    return chips, len({slice_of(chip) for chip in chips})


def by_kind(sent: Sequence[Collective]) -> list[Mapping[str, Any]]:
    """One row for all collectives of the same kind, axes and loops; rows that send most come first."""
    rows: dict[Any, dict[str, Any]] = {}
    for collective in sent:
        key = collective.kind, collective.axes, collective.group, collective.loops
        row = rows.setdefault(
            key, dict(kind=collective.kind, axes=list(collective.axes), devices=collective.group,
                      loops=list(collective.loops), count=0, bytes=0, sent_per_step=0.0)
        )  # fmt: skip
        row["count"] += 1
        row["bytes"] += collective.bytes
        row["sent_per_step"] += collective.times * collective.sent
    return sorted(rows.values(), key=lambda row: -row["sent_per_step"])
