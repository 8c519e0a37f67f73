"""The roofline of a compiled step: what it takes by products, by memory, and by the collectives in its program."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from scaling import accounting
from scaling.accounting.links import torus_seconds
from scaling.compiled.collectives import Collective
from scaling.config import RunConfig


def compiled_roofline(
    run: RunConfig, place: accounting.Topology, links: accounting.Links, mesh: Mesh, found: Sequence[Collective]
) -> dict[str, Any]:
    """As `accounting.roofline`, of one slice, which sends nothing over a network. run: with its microbatches
    decided."""
    ici = sum(one.times * _ici_seconds(one, links, mesh) for one in found)
    return accounting.roofline(run, place, {"ici": ici, "dcn": 0.0})


def _ici_seconds(one: Collective, links: accounting.Links, mesh: Mesh) -> float:
    """Of one collective, once."""
    chips = list(mesh.devices.flat)
    sides = np.array([len(set(along)) for along in zip(*(chips[i].coords for i in one.members), strict=True)])
    return torus_seconds(one.kind, one.bytes, sides.tolist(), links.link)


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
