"""How long a step takes at least: by products, by memory and by the links between chips."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from jax.sharding import Mesh

from scaling import accounting
from scaling.accounting.pods import Pod
from scaling.compiled.collectives import Collective
from scaling.config import RunConfig
from scaling.families.declare import Tensor
from scaling.families.model import FLOAT32, TRAINING
from scaling.parallel.mesh import slice_of

ASSUMPTIONS = (
    "products run at the peak; remat computes the layers' forward pass again (full), a loss in pieces its logits",
    "HBM: state read and written once a step, of each microbatch gathered weights and kept activations as often as "
    "they are used; no spills of fusions",
    "ICI: every side of the torus is a ring, a collective uses both links of each side that its devices lie along, "
    "and none runs beside another",
    "DCN: what lies in several slices is exchanged within each by ICI first, then each chip sends its part of it",
    "overlapped: the longest of these is the step; serial: their sum",
)


def roofline(
    run: RunConfig, place: accounting.Topology, pod: Pod, mesh: Mesh, sent: Sequence[Collective]
) -> dict[str, Any]:
    """Seconds of a step by what bounds it, and what follows from them. run: with its microbatches decided."""
    dtype = accounting.compute_dtype(run.placement.compute_dtype, place.device.platform)
    peak = accounting.peak_flops(place.device.name, dtype) or 0.0
    flops = accounting.flops_per_token(run)
    tokens = run.batch_tokens / place.devices
    head, in_pieces = flops.items["head"], accounting.memory(run, place.devices, place.device.name).pieces > 1
    again = (flops.exact - head) * (run.placement.remat == "full") + head * in_pieces
    seconds = {
        "matmul": tokens * (flops.exact + again / TRAINING) / peak,
        "hbm": _hbm_bytes(run, place) / pod.hbm,
        "ici": sum(one.times * _ici_seconds(one, pod, mesh) for one in sent),
        "dcn": sum(one.times * _dcn_bytes(one, mesh) for one in sent) / pod.dcn,
    }
    bounds = {"overlapped": max(seconds.values()), "serial": sum(seconds.values())}
    useful = tokens * flops.exact / peak
    hours = {name: step * run.steps / 3600 for name, step in bounds.items()}
    return {
        "seconds": seconds,
        "step": bounds,
        "mfu": {name: useful / step for name, step in bounds.items()},
        "tokens_per_s": {name: run.batch_tokens / step for name, step in bounds.items()},
        "days": {name: value / 24 for name, value in hours.items()},
        "dollars": {name: value * place.devices * pod.dollars for name, value in hours.items()},
        "dollars_per_chip_hour": pod.dollars,
        "assumptions": list(ASSUMPTIONS),
    }


def _hbm_bytes(run: RunConfig, place: accounting.Topology) -> float:
    """Read and written by one chip in a step."""
    memory = accounting.memory(run, place.devices, place.device.name)
    items, mesh = memory.items, accounting.mesh_shape(run.placement.mesh, place.devices)
    width = FLOAT32 if accounting.compute_dtype(run.placement.compute_dtype, "tpu") == "float32" else 2
    matrices = sum(tensor.size // _kept_apart(tensor, mesh) for tensor in run.tensors() if tensor.role == "hidden")
    passes = 3 if run.placement.remat == "full" else 2  # forward, again, backward
    of_layers = 2 * width * (passes + 1) * matrices  # written and read; and the gradient
    of_head = (passes * width + 2 * FLOAT32) * memory.pieces * run.model.d_model * run.model.vocab / mesh["tensor"]
    state = 2 * (items["parameters"] + items["optimizer"]) + 3 * items["gradients"]
    return state + max(1, run.placement.accumulate) * (of_layers + of_head + 2 * items["activations"])


def _kept_apart(tensor: Tensor, mesh: Mapping[str, int]) -> int:
    """Devices that a matrix stays split over where it is used."""
    named = {name for part in accounting.parameter_parts(tensor.axes, tensor.shape, mesh) for name in part}
    return prod(mesh[name] for name in named & {"tensor", *(["expert"] if "experts" in tensor.axes else [])})


def _ici_seconds(one: Collective, pod: Pod, mesh: Mesh) -> float:
    """Of one collective, within each slice. All-to-alls wait for the middle of the longest ring, of n chips: n/8 of
    what each has."""
    chips, slices = _chips(one, mesh)
    if one.kind == "collective-permute":
        return one.bytes / pod.link if slices == 1 else 0.0
    sides = np.array([len(set(along)) for along in zip(*(chip.coords for chip in chips), strict=True)])
    if len(chips) == slices:
        return 0.0
    if one.kind in ("all-to-all", "ragged-all-to-all"):
        return one.bytes * int(sides.max()) / 8 / pod.link
    return one.sent / (2 * int((sides > 1).sum()) * pod.link)


def _dcn_bytes(one: Collective, mesh: Mesh) -> float:
    """That a chip sends to other slices in one collective: of an exchange of all with all the part that is theirs;
    else of the part that it holds once its own slice has done its own, 1/m of the whole in a slice of m."""
    chips, slices = _chips(one, mesh)
    if slices == 1:
        return 0.0
    if one.kind == "collective-permute":
        return float(one.bytes)
    others = one.bytes * (slices - 1) / slices
    if one.kind in ("all-to-all", "ragged-all-to-all"):
        return others
    return (2 if one.kind == "all-reduce" else 1) * others * slices / len(chips)


def _chips(one: Collective, mesh: Mesh) -> tuple[list[Any], int]:
    """Those of its first group, and the slices that they are in."""
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
