"""Memory of one device in training, itemised: the needs of a placement before anything is launched."""

from collections import Counter
from collections.abc import Iterator, Mapping
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
    step = _step(run, mesh, platform_of(kind))
    kept, again, brought = _of_a_token(run.model, step.compute)
    optimizer = FLOAT32 * sum(_moments(tensor, size, run.optimizer.name) for tensor, size in step.trained)
    pieces, logits, head = _loss(step)
    items = {
        "parameters": step.held,
        "gradients": _gradients(step),
        "optimizer": optimizer,
        "compute_copy": _copies(step),
        "layer": _layer(step),
        "activations": step.tokens * kept + _passed(step),
        "logits": logits,
        "head": head,
    }
    again = kept if step.order.alternates else again  # a microbatch ends before any goes backward
    again = 0 if step.on_cpu else step.tokens * again + items["layer"]  # on CPUs XLA plans both side by side
    items["not_at_once"] = -min(again, logits + head + (0 if step.order.alternates else _behind(step)))
    if run.placement.offload_optimizer:
        of_gradients = sum(items[name] for name in ("activations", "logits", "head", "not_at_once"))
        items["not_at_once"] -= min(optimizer, of_gradients)
    items |= {"reference": step.held} if run.has_reference else {}
    host = round(_times(step) * step.tokens * brought) + optimizer * run.placement.offload_optimizer
    return Memory(items, prod(mesh.values()), pieces, host)


@dataclass(frozen=True)
class _Step:
    """A step on one device of a mesh: what its memory is counted from."""

    run: RunConfig
    mesh: dict[str, int]
    """devices along each axis"""
    order: Schedule
    apart: Outside
    compute: Compute
    stored: tuple[tuple[Tensor, int], ...]
    """tensors, and how many numbers of each the device stores"""

    @property
    def on_cpu(self) -> bool:
        """Whether it is planned by XLA's compiler for CPUs, of which several items are special."""
        return self.compute.platform == "cpu"

    @property
    def scans(self) -> bool:
        """Whether a loop goes over layers."""
        return self.run.placement.scans(self.compute.platform)

    @property
    def zero(self) -> int:
        """Stage of ZeRO."""
        return self.run.placement.zero or 3

    @property
    def tensors(self) -> Iterator[Tensor]:
        return (tensor for tensor, _ in self.stored)

    @property
    def matrices(self) -> Iterator[Tensor]:
        """Those of the layers, stacked."""
        return (tensor for tensor in self.tensors if tensor.depth == LAYERS and tensor.inputs)

    @property
    def trained(self) -> list[tuple[Tensor, int]]:
        return [(tensor, size) for tensor, size in self.stored if tensor.trained]

    @property
    def held(self) -> int:
        """Bytes of one copy of the parameters."""
        return FLOAT32 * sum(size for _, size in self.stored)

    @property
    def tokens(self) -> int:
        """Of a microbatch, in the layers."""
        return self._tokens(self.order.parts * window_ways(in_stage(self.mesh)))

    @property
    def ends(self) -> int:
        """Of the windows that are before and behind the layers at a time."""
        return self._tokens(self.order.ends * end_ways(self.run, self.mesh, self.order))

    def _tokens(self, ways: int) -> int:
        return ceil(self.run.batch_size / ways) * ceil(self.run.model.context / self.mesh["context"])

    def ways(self, tensor: Tensor, stored: bool = True) -> int:
        """Number of devices that a tensor is split over, see `_ways`."""
        return _ways(tensor, self.mesh, stored)


def _step(run: RunConfig, mesh: dict[str, int], platform: str) -> _Step:
    placement, order = run.placement, schedule(run, mesh, platform)
    apart = outside(run, mesh, order)
    in_loop = placement.scans(platform) or (order.stages > 1 and not order.alternates)  # over layers or ticks
    compute = replace(
        compute_of(run, mesh, platform),
        # outside loops XLA's compiler for CPUs keeps what elsewhere is computed again
        remat=placement.remat if platform != "cpu" or in_loop else "none",
        offload=placement.offload_activations,
        passes=order.held,
        staged=apart.staged,
        at_ends=apart.held,
    )
    stored = tuple((tensor, tensor.size // _ways(tensor, mesh)) for tensor in _declared(run.model, run.start))
    return _Step(run, mesh, order, apart, compute, stored)


@lru_cache(maxsize=16)
def _declared(model: ModelConfig, start: StartConfig | None) -> tuple[Tensor, ...]:
    """The declared tensors, cached: a search needs them a thousand times."""
    return tuple(model.tensors() if start is None else start.marked(model.tensors()))


@lru_cache(maxsize=1024)
def _of_a_token(model: ModelConfig, compute: Compute) -> tuple[int, int, int]:
    """Bytes per token of activations, of those of a layer that is recomputed, and of those moved to the host."""
    return model.activations(compute), model.computed_again(compute), model.offloaded(compute)


def _times(step: _Step) -> float:
    """How often a device goes through as many layers as the model has, in a step, of a microbatch's tokens."""
    order, apart, layers = step.order, step.apart, step.run.model.layers
    at_ends = apart.number(layers) / layers
    return (1 - at_ends) * order.passes / order.stages + at_ends * apart.turns * apart.windows


def _passed(step: _Step) -> int:
    """Bytes of what a stage keeps beside its layers: what is `_behind` them, and streams. Where stages alternate,
    those that wait; else those of all microbatches, of which each stage has a copy: what enters and what has come
    around, with S − 1 and S more; and what layers at the ends are given and make. Where stages alternate, XLA's
    compiler for CPUs also keeps the zeros over which a loop writes the inputs of a stage's layers in every tick."""
    order, apart = step.order, step.apart
    if order.stages == 1:
        return 0
    if order.alternates:
        zeros = apart.staged.size if apart.staged and step.scans and order.repeats == 1 and step.on_cpu else 0
        streams = order.waiting + zeros
    else:
        streams = 2 * (order.microbatches + order.stages) - 1 + 2 * apart.sides * ceil(apart.held)
    return streams * step.tokens * step.run.model.d_model * step.compute.width + _behind(step)


def _behind(step: _Step) -> int:
    """Bytes of norm and stream of the windows that a device has behind the stages of a pipeline, for their loss."""
    width = step.run.model.d_model * (2 * FLOAT32 + step.compute.width)
    return step.ends * width if step.order.stages > 1 else 0


def _loss(step: _Step) -> tuple[int, int, int]:
    """(number of pieces of the loss, bytes of the logits of one and their gradients, bytes of the head where it is
    gathered, and of its gradient)."""
    vocab = step.run.model.vocab
    wide = next(tensor.size for tensor in step.tensors if tensor.uses == LOGITS) // vocab
    width, columns = parameter_parts(("embed", "vocab"), (wide, vocab), step.mesh)
    apart = vocabulary_parts(columns)
    here, fetched = vocab // ways(apart, step.mesh), apart != columns
    pieces = loss_pieces(step.ends, step.run.placement.loss_chunk, here)
    head = wide * here if fetched or ways(width, step.mesh) > 1 else 0
    gradient = FLOAT32 if pieces > 1 else step.compute.width
    return pieces, 2 * FLOAT32 * ceil(step.ends / pieces) * here, head * (step.compute.width + gradient)


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


def _gradients(step: _Step) -> int:
    """Bytes of the sum over microbatches and, of several, of what one adds; and, where a pipeline has them in rounds,
    of the sum over these: of layers, and where stages alternate of embedding and head. At the first stage of ZeRO
    layers' are whole; there TPU's compiler adds whole ones at the compute precision to a sum in parts."""
    several = step.order.parts > 1 or step.order.alternates
    total = 0
    for tensor, size in step.trained:
        in_layers = tensor.depth == LAYERS
        whole = tensor.size // step.ways(tensor, stored=False) if step.zero == 1 and in_layers else size
        if whole > size and step.compute.platform == "tpu":
            total += FLOAT32 * size + step.compute.width * whole
        else:
            total += FLOAT32 * whole * (2 if several else 1)
        total += FLOAT32 * size if step.order.in_rounds and (in_layers or step.order.alternates) else 0
    return total


def _copies(step: _Step) -> int:
    """Bytes of what a step computes with beside the stored parameters: copies at its precision, those of a reference
    model, and what stages of a pipeline hold of layers."""
    copies = sum(_copy(step, tensor, step.zero) for tensor in step.tensors)
    if step.run.objective.REFERENCE:
        copies += sum(_copy(step, tensor, 3) for tensor in step.tensors)
    if step.order.stages > 1:
        copies += _elsewhere(step) + (_for_all_ticks(step) if step.on_cpu else 0)
    return copies


def _copy(step: _Step, tensor: Tensor, zero: int) -> int:
    """Bytes of the copy of a parameter that a step computes with, by the stage of ZeRO, see `parallel.zero`."""
    width = step.compute.width if tensor.precision == "compute" else FLOAT32
    whole = zero < 3 and tensor.depth == LAYERS
    needed = width < FLOAT32 or (whole and step.ways(tensor, stored=False) < step.ways(tensor))
    return width * tensor.size // step.ways(tensor, stored=not whole) if needed else 0


def _elsewhere(step: _Step) -> int:
    """Bytes of the layers that a stage computes and does not store, and of their gradients: runs of layers where it
    has several, and stacks of which some are at the ends; and those at the ends, a copy, or a part where stages
    alternate. Of what is sent to the stages the float32 copies are gone when the loop over ticks begins if that reads
    others in bfloat16; the gradients' sum is the one in `gradients`, sent back behind the loop."""
    order, alike, at_both, shared = step.order, 0, 0, step.zero == 3
    for tensor in step.matrices:
        own = tensor.shape[0]
        at_ends = round(own * step.apart.share(tensor))
        if order.repeats > 1 or at_ends:
            piece = replace(tensor, shape=(own - at_ends, *tensor.shape[1:]))
            alike += piece.size // step.ways(piece, stored=shared)
        if at_ends:
            one = replace(tensor, shape=tensor.shape[1:], axes=tensor.axes[1:])
            mesh = step.mesh if order.alternates else in_stage(step.mesh)
            at_both += at_ends * one.size // _ways(one, mesh, shared)
    sent = 0 if step.compute.width < FLOAT32 else 1 if order.alternates else 2
    return FLOAT32 * (sent * alike + 2 * at_both)


def _layer(step: _Step) -> int:
    """Bytes that a layer has beside its parts on the devices that share its storage, of the largest one: its gathered
    matrices, and their gradients before these are scattered. On TPUs those that are scattered by other than their
    first axis are there twice, see `parallel.parts.scattered`. On CPUs nothing where layers are in no loop."""
    if step.on_cpu and not (step.scans or step.order.alternates):
        return 0
    by_stack, mesh = Counter[str](), in_stage(step.mesh)
    for tensor in step.matrices:
        stacked = tensor.axes[0] == "layers"
        one = replace(tensor, shape=tensor.shape[1:], axes=tensor.axes[1:]) if stacked else tensor
        whole = _ways(one, mesh, stored=False)
        if _ways(one, mesh) == whole:
            continue
        parts = zip(*(split(one.axes, one.shape, mesh) for split in (parameter_parts, computed_parts)), strict=True)
        behind = any(len(fine) > len(coarse) for fine, coarse in list(parts)[1:])
        gradients = 0 if step.zero == 1 or not tensor.trained else 1 + (behind and step.compute.platform == "tpu")
        width = step.compute.width if tensor.precision == "compute" else FLOAT32
        by_stack[tensor.path[0]] += width * ((step.zero == 3) + gradients) * one.size // whole
    return max(by_stack.values(), default=0)


def _for_all_ticks(step: _Step) -> int:
    """Bytes of the copies of a stage's layers that XLA's compiler for CPUs makes before the loop over ticks.

    Where a loop over layers is in it, or a stage picks its layers in every tick, as they are stored: where stages
    alternate one, and the zeros that the loop over layers begins its gradients with; where groups of microbatches go
    around, the sums of gradients of the two loops over ticks in the one over groups. Else whole ones: one forward and
    one backward; where stages alternate, these of the loop before as well, whose place the whole gradients of all
    layers take.
    """
    one_run, alternates = step.order.repeats == 1, step.order.alternates
    stored = step.scans or not one_run
    if stored:
        copies = 1 + one_run if alternates else 0 if one_run else 2
    else:
        copies = 4 if alternates else 2
    sizes = ((1 - step.apart.share(t)) * t.size / step.ways(t, stored=stored) for t in step.matrices)
    return copies * FLOAT32 * round(sum(sizes))


def _ways(tensor: Tensor, mesh: dict[str, int], stored: bool = True) -> int:
    """Number of devices that a tensor is split over. stored: include those that only share its storage."""
    split = parameter_parts if stored else computed_parts
    return prod(ways(part, mesh) for part in split(tensor.axes, tensor.shape, mesh))


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
