"""Communication of a step between devices, from declarations and layouts: the collectives of `parallel`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, prod

from scaling.accounting.layout import (
    PIPELINE,
    RULES,
    computed_parts,
    in_stage,
    parameter_parts,
    ways,
    window_ways,
)
from scaling.accounting.memory import compute_dtype
from scaling.accounting.pipeline import Outside, Schedule, end_ways, outside, schedule
from scaling.config import RunConfig
from scaling.families import Tensor
from scaling.families.context import choose_context
from scaling.families.declare import LAYERS
from scaling.families.linear import LOGITS
from scaling.families.model import FLOAT32

STORED = RULES["embed"]  # axes that share the storage of a matrix, which is gathered where it is used
ADDED = (*RULES["batch"], *RULES["sequence"])  # axes whose devices see other tokens: gradients are summed over them


@dataclass(frozen=True)
class Sent:
    """A collective of a step."""

    what: str
    kind: str
    axes: tuple[str, ...]
    """axes of the mesh along which the communicating devices differ"""
    size: float
    """bytes of the array where it is largest on one device"""
    times: float
    """number of times in one step"""


def traffic(run: RunConfig, mesh: Mapping[str, int], platform: str) -> list[Sent]:
    """The collectives of a step, compared with compiled steps in experiments/plan_at_scale.

    mesh: devices along each axis. Each microbatch gathers the matrices whose storage devices share, in the forward
    pass, again under full remat, and in the backward pass, unless `placement.zero` does so once for all microbatches;
    reduce-scatters their gradients; sums the stream of a block whose matrices devices share; exchanges positions for
    heads, or gathers keys, where devices share windows; gathers the tokens of devices that share experts; and passes
    streams between the stages of a pipeline. Left out: norms, biases, the sums of the loss, and compiler variations.
    """
    width = 2 if compute_dtype(run.placement.compute_dtype, platform) == "bfloat16" else FLOAT32
    order = schedule(run, mesh, platform)
    apart = outside(run, mesh, order)
    found = [
        *_matrices(run, mesh, width, order, apart),
        *_streams(run, mesh, width, order, apart),
        *_pipeline(run, mesh, width, order, apart),
    ]
    return [one for one in found if one.axes and one.size * one.times]


def _matrices(run: RunConfig, mesh: Mapping[str, int], width: int, order: Schedule, apart: Outside) -> Iterator[Sent]:
    """Collectives of parameters where they are used, and of their gradients."""
    for tensor in run.tensors():
        if not tensor.inputs and tensor.role != "embedding":
            continue
        parts = {name for part in parameter_parts(tensor.axes, tensor.shape, mesh) for name in part}
        times, at_ends = order.passes if tensor.depth == LAYERS else order.ends, apart.share(tensor)
        kept, size = kept_apart(tensor, parts), tensor.size * (1 - at_ends)
        yield from _matrix(run, mesh, width, order.again + order.counting, tensor, parts, kept, size, times)
        if at_ends:
            whole = mesh if order.alternates else {**mesh, PIPELINE: 1}  # where each stage has a copy
            one = {name for part in parameter_parts(tensor.axes[1:], tensor.shape[1:], whole) for name in part}
            again = order.again * apart.layers[tensor.path[0]][0] / at_ends  # those behind go back at once
            again += order.counting
            size = tensor.size * at_ends
            yield from _matrix(run, whole, width, again, tensor, one, kept - {PIPELINE}, size, apart.turns)


def _matrix(
    run: RunConfig,
    mesh: Mapping[str, int],
    width: int,
    again: float,
    tensor: Tensor,
    parts: set[str],
    kept: set[str],
    size: float,
    times: float,
) -> Iterator[Sent]:
    """Of one, or of some layers of it.

    parts: mesh axes that it is split over; kept: those where it is used. size: parameters. times: that they are used
    for microbatches, `again` times more than the backward pass asks for."""
    again, stage = (run.placement.remat == "full") + again, run.placement.zero or 3
    stored = tuple(name for name in mesh if name in parts - kept and mesh[name] > 1)
    held = size / prod(mesh[name] for name in kept)  # of the whole, where it is used
    looked_up = not tensor.inputs and tensor.uses != LOGITS
    copied = stage < 3 and tensor.depth == LAYERS  # once for all microbatches, see `parallel.zero`
    if stored and not looked_up:
        uses = 1 if copied else times if tensor.role in ("head", "embedding") else times * (2 + again)
        yield Sent("matrices", "all-gather", stored, held * width, uses)
    if not tensor.trained:
        return
    added = {name for name in ADDED if mesh[name] > 1} - kept
    grad = FLOAT32 if tensor.role in ("head", "embedding") else width
    shared = () if copied and stage == 1 else stored  # by its gradient
    scattered = tuple(name for name in shared if name in added and not looked_up)
    if scattered:
        yield Sent("gradients", "reduce-scatter", scattered, held * grad, times)
    summed = tuple(name for name in mesh if name in added - set(shared))
    yield Sent("gradients", "all-reduce", summed, held * grad / ways(shared, mesh), times)


def kept_apart(tensor: Tensor, parts: set[str]) -> set[str]:
    """The mesh axes over which a matrix stays split where it is used."""
    own = {"experts": "expert", "layers": PIPELINE}
    return parts & {"tensor", *(own[axis] for axis in tensor.axes if axis in own)}


def _stream(run: RunConfig, mesh: Mapping[str, int], width: int, microbatches: int) -> float:
    """Bytes of the residual stream of a microbatch on one device."""
    windows = ceil(run.batch_size / (microbatches * window_ways(mesh)))
    return windows * run.model.context / mesh["context"] * run.model.d_model * width


def _streams(run: RunConfig, mesh: Mapping[str, int], width: int, order: Schedule, apart: Outside) -> Iterator[Sent]:
    """Collectives of the residual stream."""
    model, more = run.model, order.again + order.counting  # forward passes
    shared = mesh if end_ways(run, mesh, order) == window_ways(mesh) else in_stage(mesh)
    ends, found = order.ends, _stream(run, shared, FLOAT32, order.ends)  # rows of the embedding, which is float32
    stored = tuple(name for name in STORED if mesh[name] > 1)
    yield Sent("look-up", "all-to-all", stored, found, (2 + order.counting) * ends)
    stream = _stream(run, in_stage(mesh), width, order.parts)
    passes = _passes(order, apart, apart.number(model.layers) / model.layers)
    again = (run.placement.remat == "full") + more
    if mesh["tensor"] > 1:
        yield Sent("look-up", "all-reduce", ("tensor",), found, (1 + order.counting) * ends)
        yield Sent("stream", "all-reduce", ("tensor",), stream, (4 + 2 * more) * model.layers * passes)
        yield Sent("stream", "all-reduce", ("tensor",), found / FLOAT32 * width, ends)  # backward from the head
    if mesh["context"] > 1:
        heads = getattr(model, "n_heads", mesh["tensor"])
        way = choose_context(run.placement.context, heads, model.context, mesh["tensor"], mesh["context"])
        keys = 2 * stream * getattr(model, "n_kv_heads", heads) / heads / mesh["tensor"]
        uses = (2 + again) * model.layers * passes
        if way == "ulysses":
            yield Sent("windows", "all-to-all", ("context",), 2 * stream / mesh["tensor"] + keys, uses)
        else:
            yield Sent("windows", "all-gather", ("context",), keys * mesh["context"], uses)
            yield Sent("windows", "reduce-scatter", ("context",), keys * mesh["context"], model.layers * passes)
    if mesh["expert"] > 1:
        outside, count = _layers_of_experts(run, apart)
        uses = (2 + again) * count * _passes(order, apart, outside)
        yield Sent("experts", "all-gather", ("expert",), stream * mesh["expert"], uses)
        yield Sent("experts", "reduce-scatter", ("expert",), stream * mesh["expert"], uses)


def _passes(order: Schedule, apart: Outside, at_ends: float) -> float:
    """That a device makes of a layer for microbatches, on the mean of all. at_ends: share that is in no stage."""
    return (1 - at_ends) * order.passes / order.stages + at_ends * apart.turns * apart.windows


def _pipeline(run: RunConfig, mesh: Mapping[str, int], width: int, order: Schedule, apart: Outside) -> Iterator[Sent]:
    """What stages hand on in every tick, and back; the streams of the batch at both ends, once more to and from the
    devices that compute layers there; and the layers that are not computed where they lie, which are sent there,
    and their gradients back."""
    if order.stages == 1:
        return
    axes, stream = (PIPELINE,), _stream(run, in_stage(mesh), width, order.parts)
    passes, at_once = 2 + order.counting, not order.alternates
    yield Sent("stages", "collective-permute", axes, stream, passes * order.ticks * order.rounds)
    shared = end_ways(run, mesh, order) == window_ways(mesh)
    for kind in ("all-gather", "reduce-scatter") if shared else ("all-reduce",):
        times = passes if kind == "all-gather" else 2  # of a pass that counts nobody reads the last stream
        yield Sent("ends", kind, axes, stream * order.parts / order.ends, times * order.ends)
    split = computed_parts if run.placement.zero in (1, 2) else parameter_parts
    moved, cut, copied = 0.0, 0.0, 0.0
    for tensor in run.tensors():
        if tensor.depth != LAYERS or not tensor.inputs:
            continue
        parts, at_ends = split(tensor.axes, tensor.shape, mesh), apart.share(tensor)
        held = FLOAT32 * tensor.size / prod(ways(part, mesh) for part in parts)
        moved += (1 - at_ends) * held
        if at_ends:  # parts of all layers come from whole ones where these are stored, and are made whole ones again
            cut += (1 - at_ends + (PIPELINE in parts[0])) * held
            copied += at_ends * held * order.stages
    yield Sent("layers", "all-to-all", axes, cut, passes * order.rounds)
    if order.repeats > 1:
        yield Sent("runs of layers", "collective-permute", axes, moved, passes * order.rounds)
    streams = (4 * at_once + 2 * order.counting) * apart.sides * order.rounds
    yield Sent("ends", "all-gather", axes, stream * order.microbatches, streams)
    yield Sent("layers at the ends", "all-gather", axes, copied, (at_once + order.counting) * order.rounds)
    yield Sent("layers at the ends", "reduce-scatter", axes, copied, at_once * order.rounds)


def _layers_of_experts(run: RunConfig, apart: Outside) -> tuple[float, int]:
    """Layers with experts: the share that is in no stage, and their number."""
    counts = {
        tensor.path[0]: (apart.share(tensor), tensor.shape[0])
        for tensor in run.model.tensors()
        if "experts" in tensor.axes and "layers" in tensor.axes
    }
    layers = sum(count for _, count in counts.values())
    return sum(share * count for share, count in counts.values()) / layers, layers
