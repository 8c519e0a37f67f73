"""Memory of one device in training, itemised: the needs of a placement before anything is launched."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod

from scaling.accounting.devices import platform_of
from scaling.accounting.layout import (
    computed_parts,
    in_stage,
    mesh_shape,
    parameter_parts,
    vocabulary_parts,
    ways,
    window_ways,
)
from scaling.accounting.pipeline import Outside, Schedule, end_ways, outside, schedule
from scaling.config import RunConfig, StartConfig
from scaling.families import Compute, ModelConfig, Tensor
from scaling.families.declare import LAYERS
from scaling.families.linear import LOGITS
from scaling.families.model import FLOAT32

CHUNK_BYTES = 64 * 2**20  # float32 logits of one piece of the loss where `placement.loss_chunk` is unset
FACTORED_FROM = 128  # Adafactor keeps the whole second moment where a matrix has a shorter side (as optax does)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step."""

    items: dict[str, int]
    """parameters, gradients, optimizer, compute_copy (matrices at compute precision), layer (what is gathered of one,
    and its gradients), activations, logits, head (what is gathered of one whose storage devices share, and its
    gradient), not_at_once (less than 0: what is not there while a layer is computed, or the loss; while there are
    activations, or the optimizer's state, where that comes from the host); and reference, where a run keeps one"""
    devices: int
    pieces: int
    """number of pieces that a device splits the tokens of a microbatch into for their losses"""
    host: int = 0
    """bytes that a step moves to the host, and back again"""

    @property
    def total(self) -> int:
        return sum(self.items.values())


def memory(run: RunConfig, devices: int | None = None, kind: str | None = None) -> Memory:
    """Estimate the memory of each device for a run with its placement.

    devices: devices of the run; unset: as many as `placement.mesh` names.
    kind: their kind; on `cpu`, `compute_dtype: auto` is float32, elsewhere bfloat16.
    returns: bytes. Parameters, gradients and optimizer state are exact for the layout that `parallel` gives them.
    Frozen parameters have neither gradient nor optimizer state.
    Activations are the arrays that JAX keeps for the backward pass under the remat policy. The sum assumes that they,
    one recomputed layer or a piece of logits, and all gradients exist at the same time, so it tends to be too large.
    Compared with XLA's own plan for TPUs: state to the byte; the sum 1 to 11 % too high for models of 1 to 671
    billion parameters (experiments/plan_at_scale), up to 46 % too high where the reference attention's scores
    dominate, which XLA fuses; pipelines in docs/placement.md. The program's own code, about .1 GiB on TPUs, is not
    counted. For mixtures of experts, within a fifth of its plan for 8 CPUs; for TPUs see docs/moe.md.
    Raises UserError where the mesh does not fit the devices.
    """
    mesh = mesh_shape(run.placement.mesh, devices or max(1, run.placement.mesh.data) * run.placement.mesh.inner)
    platform = platform_of(kind)
    model, order = run.model, schedule(run, mesh, platform)
    accumulate, apart = order.parts, outside(run, mesh, order)
    scans = run.placement.scans(platform)
    in_loop = scans or (order.stages > 1 and not order.alternates)  # over layers or ticks: XLA's compiler for CPUs
    remat = run.placement.remat if platform != "cpu" or in_loop else "none"  # keeps what elsewhere is computed again
    compute = replace(
        compute_of(run, mesh, platform),
        remat=remat,
        offload=run.placement.offload_activations,
        passes=order.held,
        staged=apart.staged,
        at_ends=apart.held,
    )
    zero, tensors = run.placement.zero or 3, _declared(run.model, run.start)
    parts = [(tensor, tensor.size // _ways(tensor, mesh)) for tensor in tensors]
    trained = [(tensor, size) for tensor, size in parts if tensor.trained]
    held = FLOAT32 * sum(size for _, size in parts)
    kept, again, brought = _of_a_token(model, compute)
    length = ceil(model.context / mesh["context"])
    tokens = ceil(run.batch_size / (accumulate * window_ways(in_stage(mesh)))) * length
    ends = ceil(run.batch_size / (order.ends * end_ways(run, mesh, order))) * length
    wide = next(tensor.size for tensor in tensors if tensor.uses == LOGITS) // model.vocab
    width, columns = parameter_parts(("embed", "vocab"), (wide, model.vocab), mesh)
    apart_columns = vocabulary_parts(columns)
    here, fetched = model.vocab // ways(apart_columns, mesh), apart_columns != columns
    pieces = loss_pieces(ends, run.placement.loss_chunk, here)
    head = wide * here if fetched or ways(width, mesh) > 1 else 0
    items = {
        "parameters": held,
        "gradients": _gradients(trained, mesh, compute, zero, accumulate > 1 or order.alternates)
        + (FLOAT32 * sum(size for tensor, size in trained if tensor.depth == LAYERS) if order.in_rounds else 0),
        "optimizer": FLOAT32 * sum(_moments(tensor, size, run.optimizer.name) for tensor, size in trained),
        "compute_copy": sum(_copy(tensor, mesh, compute, zero) for tensor in tensors)
        + _elsewhere(tensors, mesh, order, apart, zero, compute)
        + (_for_all_ticks(tensors, mesh, order, apart, scans) if platform == "cpu" else 0)
        + (sum(_copy(tensor, mesh, compute, 3) for tensor in tensors) if run.objective.REFERENCE else 0),
        "layer": _layer(tensors, mesh, compute, zero) if platform != "cpu" or scans or order.alternates else 0,
        "activations": tokens * kept + _passed(run, order, apart, tokens, ends, compute, scans),
        "logits": 2 * FLOAT32 * ceil(ends / pieces) * here,
        "head": head * (compute.width + (FLOAT32 if pieces > 1 else compute.width)),
    }
    again = kept if order.alternates else again  # a microbatch ends before any goes backward
    again = 0 if platform == "cpu" else tokens * again + items["layer"]  # on CPUs XLA plans both side by side
    of_loss = items["logits"] + items["head"] + (0 if order.alternates else _behind(run, order, ends, compute))
    items["not_at_once"] = -min(again, of_loss)
    if run.placement.offload_optimizer:
        of_gradients = sum(items[name] for name in ("activations", "logits", "head", "not_at_once"))
        items["not_at_once"] -= min(items["optimizer"], of_gradients)
    items |= {"reference": held} if run.has_reference else {}
    at_ends = apart.number(model.layers) / model.layers
    times = (1 - at_ends) * order.passes / order.stages + at_ends * apart.turns * apart.windows
    host = round(times * tokens * brought) + items["optimizer"] * run.placement.offload_optimizer
    return Memory(items, prod(mesh.values()), pieces, host)


@lru_cache(maxsize=16)
def _declared(model: ModelConfig, start: StartConfig | None) -> tuple[Tensor, ...]:
    """The declared tensors, cached: a search needs them a thousand times."""
    return tuple(model.tensors() if start is None else start.marked(model.tensors()))


@lru_cache(maxsize=1024)
def _of_a_token(model: ModelConfig, compute: Compute) -> tuple[int, int, int]:
    """Bytes per token of activations, of those of a layer that is recomputed, and of those moved to the host."""
    return model.activations(compute), model.computed_again(compute), model.offloaded(compute)


def _passed(
    run: RunConfig, order: Schedule, apart: Outside, tokens: int, ends: int, compute: Compute, scans: bool
) -> int:
    """Bytes of what a stage keeps beside its layers: what is `_behind` them, and streams. Where stages alternate,
    those that wait; else those of all microbatches, of which each stage has a copy: what enters and what has come
    around, with S − 1 and S more; and what layers at the ends are given and make. Where stages alternate, XLA's
    compiler for CPUs also keeps the zeros over which a loop writes the inputs of a stage's layers in every tick.

    tokens: of a microbatch. ends: of the windows that a device has at both ends."""
    if order.stages == 1:
        return 0
    together = 2 * (order.microbatches + order.stages) - 1 + 2 * apart.sides * ceil(apart.held)
    zeros = apart.staged.size if apart.staged and scans and order.repeats == 1 and compute.platform == "cpu" else 0
    streams = order.waiting + zeros if order.alternates else together
    width = run.model.d_model
    return streams * tokens * width * compute.width + _behind(run, order, ends, compute)


def _behind(run: RunConfig, order: Schedule, ends: int, compute: Compute) -> int:
    """Bytes of norm and stream of the windows that a device has behind the stages of a pipeline, for their loss."""
    return ends * run.model.d_model * (2 * FLOAT32 + compute.width) if order.stages > 1 else 0


def compute_of(run: RunConfig, mesh: Mapping[str, int], platform: str) -> Compute:
    """How the layers of a run are computed on a mesh, without pipeline stages."""
    placement = run.placement
    return Compute(
        platform=platform,
        dtype=compute_dtype(placement.compute_dtype, platform),
        attention=placement.attention,
        remat=placement.remat,
        tensor=mesh["tensor"],
        mask=run.objective.mask,
        experts=placement.experts,
        transport=placement.transport,
        expert=mesh["expert"],
        context=placement.context,
        sequence=mesh["context"],
    )


def compute_dtype(requested: str, platform: str) -> str:
    """The precision that `placement.compute_dtype` means on a platform."""
    return requested if requested != "auto" else "float32" if platform == "cpu" else "bfloat16"


def loss_pieces(tokens: int, requested: int | None, vocab: int) -> int:
    """Number of pieces that a device splits its tokens into, of at most `placement.loss_chunk` tokens, or of as many
    as have CHUNK_BYTES of logits. vocab: columns of the head that the device has."""
    return ceil(tokens / (requested or max(1, CHUNK_BYTES // (FLOAT32 * vocab))))


def _ways(tensor: Tensor, mesh: dict[str, int], stored: bool = True) -> int:
    """Number of devices that a tensor is split over. stored: include those that only share its storage."""
    split = parameter_parts if stored else computed_parts
    return prod(ways(part, mesh) for part in split(tensor.axes, tensor.shape, mesh))


def _gradients(
    trained: list[tuple[Tensor, int]], mesh: dict[str, int], compute: Compute, zero: int, several: bool
) -> int:
    """Bytes of the sum over microbatches and, of several, of what one adds. At the first stage of ZeRO layers' are
    whole; there TPU's compiler adds whole ones at the compute precision to a sum in parts. trained: with its size
    on one device."""
    summed, added = 0, 0
    for tensor, size in trained:
        whole = tensor.size // _ways(tensor, mesh, stored=False) if zero == 1 and tensor.depth == LAYERS else size
        lean = whole > size and compute.platform == "tpu"
        summed += FLOAT32 * (size if lean else whole)
        added += compute.width * whole if lean else FLOAT32 * whole if several else 0
    return summed + added


def _copy(tensor: Tensor, mesh: dict[str, int], compute: Compute, zero: int) -> int:
    """Bytes of the copy of a parameter that a step computes with, by the stage of ZeRO, see `parallel.zero`."""
    width = compute.width if tensor.precision == "compute" else FLOAT32
    whole = zero < 3 and tensor.depth == LAYERS
    needed = width < FLOAT32 or (whole and _ways(tensor, mesh, stored=False) < _ways(tensor, mesh))
    return width * tensor.size // _ways(tensor, mesh, stored=not whole) if needed else 0


def _elsewhere(
    tensors: tuple[Tensor, ...], mesh: dict[str, int], order: Schedule, apart: Outside, zero: int, compute: Compute
) -> int:
    """Bytes of the layers that a stage computes and does not store, and of their gradients: runs of layers where it
    has several, and stacks of which some are at the ends; and those at the ends, a copy, or a part where stages
    alternate. Of what is sent to the stages the float32 copies are gone when the loop over ticks begins if that reads
    others in bfloat16; the gradients' sum is the one in `gradients`, sent back behind the loop."""
    alike, at_both = 0, 0
    for tensor in tensors:
        if order.stages == 1 or tensor.depth != LAYERS or not tensor.inputs:
            continue
        outside, own = apart.share(tensor), tensor.shape[0]
        at_ends = round(own * outside)
        if order.repeats > 1 or at_ends:
            piece = replace(tensor, shape=(own - at_ends, *tensor.shape[1:]))
            alike += piece.size // _ways(piece, mesh, stored=zero == 3)
        if at_ends:
            one, shared = replace(tensor, shape=tensor.shape[1:], axes=tensor.axes[1:]), in_stage(mesh)
            at_both += at_ends * one.size // _ways(one, mesh if order.alternates else shared, stored=zero == 3)
    sent = 0 if compute.width < FLOAT32 else 1 if order.alternates else 2
    return FLOAT32 * (sent * alike + 2 * at_both)


def _layer(tensors: tuple[Tensor, ...], mesh: dict[str, int], compute: Compute, zero: int) -> int:
    """Bytes that a layer has beside its parts on the devices that share its storage, of the largest one: its gathered
    matrices, and their gradients before these are scattered. On TPUs those that are scattered by other than their
    first axis are there twice, see `parallel.parts.scattered`."""
    by_stack = Counter[str]()
    for tensor in tensors:
        if tensor.depth != LAYERS or not tensor.inputs:
            continue
        stacked = tensor.axes[0] == "layers"
        one = replace(tensor, shape=tensor.shape[1:], axes=tensor.axes[1:]) if stacked else tensor
        shape = in_stage(mesh)
        stored, whole = _ways(one, shape), _ways(one, shape, stored=False)
        if stored == whole:
            continue
        parts = zip(*(split(one.axes, one.shape, shape) for split in (parameter_parts, computed_parts)), strict=True)
        behind = any(len(fine) > len(coarse) for fine, coarse in list(parts)[1:])
        gradients = 0 if zero == 1 or not tensor.trained else 1 + (behind and compute.platform == "tpu")
        width = compute.width if tensor.precision == "compute" else FLOAT32
        by_stack[tensor.path[0]] += width * ((zero == 3) + gradients) * one.size // whole
    return max(by_stack.values(), default=0)


def _for_all_ticks(
    tensors: tuple[Tensor, ...], mesh: dict[str, int], order: Schedule, apart: Outside, scans: bool
) -> int:
    """Bytes of the copies of a stage's layers that XLA's compiler for CPUs makes before the loop over ticks.

    Where a loop over layers is in it, or a stage picks its layers in every tick, as they are stored: where stages
    alternate one, and the zeros that the loop over layers begins its gradients with; where groups of microbatches go
    around, the sums of gradients of the two loops over ticks in the one over groups. Else whole ones: one forward and
    one backward; where stages alternate, these of the loop before as well, whose place the whole gradients of all
    layers take.
    """
    if order.stages == 1:
        return 0
    stored = scans or order.repeats > 1
    in_loops = 1 + (order.repeats == 1) if order.alternates else 2 * (order.repeats > 1)
    copies = in_loops if stored else 4 if order.alternates else 2
    layers = [tensor for tensor in tensors if tensor.depth == LAYERS and tensor.inputs]
    sizes = ((1 - apart.share(tensor)) * tensor.size / _ways(tensor, mesh, stored=stored) for tensor in layers)
    return copies * FLOAT32 * round(sum(sizes))


def _moments(tensor: Tensor, size: int, optimizer: str) -> int:
    """Size of the optimizer state that one device keeps for a tensor of which it has `size` parameters."""
    if optimizer == "lion":
        return size
    if optimizer == "muon":
        return size if tensor.role == "hidden" else 2 * size
    if optimizer == "adafactor":
        sides = (tensor.fan_in, tensor.fan_out) if tensor.inputs else tensor.one
        factored = len(sides) == 2 and min(sides) >= FACTORED_FROM
        copies = prod(tensor.shape[: tensor.stacked])
        return size + (copies * sum(sides) if factored else size)  # momentum; rows and columns whole
    return 2 * size
