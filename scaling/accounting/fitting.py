"""Which placements of a run fit the memory of its devices, and which of these is the fastest."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from scaling.accounting.check import check_compute, check_placement, parameters_of
from scaling.accounting.devices import Topology, device, peak_flops
from scaling.accounting.flops import Flops, flops_per_token
from scaling.accounting.layout import in_stage, mesh_shape, refuse_whole, window_ways
from scaling.accounting.links import unknown, wired
from scaling.accounting.memory import Memory, compute_dtype, memory
from scaling.accounting.microbatches import FOR_STAGE
from scaling.accounting.roofline import link_seconds, roofline
from scaling.config import MeshConfig, Placement, RunConfig
from scaling.errors import UserError
from scaling.numbers import divisors
from scaling.units import si_bytes

TENSOR, CONTEXT = 16, 16  # most devices that share a matrix, or a window, in a search
MOST_DEVICES = 2**17
HOST = ("offload_activations", "offload_optimizer")
Host = tuple[bool, bool]
NOTHING: Host = (False, False)
Check = Callable[[RunConfig], object]
"""raises UserError for a run whose mesh cannot be laid out on the devices"""
MORE = 12  # most doublings of the devices to try where nothing fits


@dataclass(frozen=True)
class Fit:
    """A placement that fits, and its memory and time."""

    placement: Placement
    overrides: tuple[str, ...]
    """overrides that turn the run's own placement into it"""
    memory: Memory
    roofline: dict[str, Any]


@dataclass(frozen=True)
class Search:
    """What a search over the placements of a run found."""

    tried: int
    """meshes"""
    fitting: int
    """meshes on which some placement fits"""
    fits: tuple[Fit, ...]
    """for each number of devices per matrix, window and set of experts the fastest mesh, the fastest first"""
    least: Memory | None
    """memory of the placement that needs least; None where model and batch divide over no mesh"""
    more: int | None
    """number of devices that would be enough where nothing fits; None where more do not help"""
    fewer: int | None = None
    """largest number of devices below the requested that model and batch divide over, where they do not over these"""
    batches: tuple[int, ...] = ()
    """the nearest batch sizes, below and above, that do"""


def nearest_fit(
    run: RunConfig, devices: int, kind: str, available: float, check: Check | None = None
) -> list[str] | None:
    """The overrides (`placement.remat=full`, …) that make a run fit, by the ledger; None where there are none.

    available: bytes of a device. check: of what is particular to the devices. Tried in this order: more
    recomputation, smaller microbatches, and both combined with more sharding within a step (`zero`), with copies of
    the model sharing storage, then with more devices per matrix.
    """
    requested = run.placement
    remats = run.model.REMAT[run.model.REMAT.index(requested.remat) :]
    zeros = (requested.zero, *range((requested.zero or 3) + 1, 4))
    for mesh in _near_meshes(run, devices):
        for zero, accumulate, remat in product(zeros, _microbatches(run, mesh, devices), remats):
            placement = _changed(run, mesh, remat, accumulate, devices, zero=zero)
            placed = _placed(run, placement)
            if _able(placed, devices, kind, check) and memory(placed, devices, kind).total <= available:
                return _overrides(requested, placement)
    return None


def _able(run: RunConfig, devices: int, kind: str, check: Check | None) -> bool:
    """Whether a launch accepts a run on these devices."""
    try:
        check_placement(run, devices, kind)
        if check is not None:
            check(run)
    except UserError:
        return False
    return True


def search(run: RunConfig, place: Topology, price: float | None = None, mfu: float | None = None) -> Search:
    """The placements of a run that fit `place`, by mesh × remat × `zero` × host offloading × microbatches, and the
    time of a step of each.

    price, mfu: as in `roofline`. Each uses the fewest microbatches that fit, since more cause more traffic.
    Offloading to the host is considered where it allows fewer, on devices whose host bandwidth is known.
    Raises UserError for devices of unknown speed or bandwidth, and for those that cannot compute as requested.
    """
    if missing := unknown(place) or _no_peak(run, place):
        raise UserError(missing)
    if place.devices > MOST_DEVICES:
        raise UserError(f"{place.text}: the search allows at most {MOST_DEVICES:,} devices, got {place.devices:,}")
    available = place.device.memory
    assert available is not None
    run = _placed(run, run.placement.model_copy(update={"accumulate": 0, "dcn": None}))
    check_compute(run, mesh_shape(MeshConfig(), 1), place.device.platform)  # else on no mesh
    meshes = _meshes_on(run, place)
    best: dict[tuple[int, ...], Fit] = {}
    flops = flops_per_token(run)
    least, fitting = None, 0
    for mesh in meshes:
        counts = list(_microbatches(run, mesh, place.devices))
        smallest = _leanest(run, mesh, counts, place)
        least = smallest if least is None or smallest.total < least.total else least
        if smallest.total <= available:
            fitting += 1
            inner = (mesh.tensor, mesh.context, mesh.expert, mesh.pipeline)
            before = [best[inner]] if inner in best else []
            best[inner] = min([*before, *_fits(run, mesh, counts, place, price, mfu, flops)], key=_by_time)
    found = Search(len(meshes), fitting, tuple(sorted(best.values(), key=_by_time)), least, None)
    if least is None:
        return replace(found, fewer=_fewer(run, place), batches=_batches(run, place))
    return found if best else replace(found, more=_more(run, place, available))


def _no_peak(run: RunConfig, place: Topology) -> str:
    """The message that the devices' speed at the run's precision is unknown; empty where it is known."""
    asked, device = compute_dtype(run.placement.compute_dtype, place.device.platform), place.device
    known = [dtype for dtype in ("bfloat16", "float32") if peak_flops(device.name, dtype)]
    if asked in known:
        return ""
    other = f"; it is in {known[0]}: set placement.compute_dtype={known[0]}" if known else ""
    return f"{device.name}: its peak in {asked} is not known, so steps cannot be timed{other}"


def check_memory(run: RunConfig, devices: int, kind: str, under: str = "", check: Check | None = None) -> None:
    """Raises UserError where a step needs more memory than a device of that kind has, by the ledger, unless the
    placement disables this check.

    kind: of the devices; unknown kinds, such as CPUs, are not checked. under: prefix of the run's keys, such as
    `run.` in a sweep. check: as in `nearest_fit`.
    """
    known = device(kind)
    if known is None or known.memory is None or not run.placement.check_memory:
        return
    needed = memory(run, devices, known.name).total
    if needed <= known.memory:
        return
    overrides = nearest_fit(run, devices, known.name, known.memory, check)
    fits = " ".join(under + override for override in overrides or ())
    raise UserError(
        f"{under}placement: a step takes {si_bytes(needed)} on each of {devices} {known.name}, which have "
        f"{si_bytes(known.memory)}, by the ledger ({under}placement.check_memory=false skips this check); "
        f"{f'it fits with {fits}' if fits else 'no placement on them fits: use more devices'}"
    )


def _fits(
    run: RunConfig,
    mesh: MeshConfig,
    counts: list[int],
    place: Topology,
    price: float | None,
    mfu: float | None,
    flops: Flops,
) -> Iterator[Fit]:
    """The placements on a mesh that fit and may be the fastest: for each number of microbatches, the least remat."""
    kind, available = place.device.name, place.device.memory
    wiring = wired(place, mesh_shape(mesh, place.devices))
    assert wiring is not None and available is not None

    def made(remat: str, zero: int | None, host: Host, accumulate: int) -> Placement:
        more = dict(zip(HOST, host, strict=True))
        return _changed(run, mesh, remat, accumulate, place.devices, zero=zero, **more)

    def fits(placement: Placement) -> bool:
        return memory(_placed(run, placement), place.devices, kind).total <= available

    best = {}
    for zero in _stages(run, mesh):
        fewest = 0
        for remat in reversed(run.model.REMAT):  # keeping more needs at least as many microbatches
            fewest = _fewest([made(remat, zero, NOTHING, n) for n in counts], fits, fewest)
            if fewest < len(counts):
                best[zero, NOTHING, fewest] = made(remat, zero, NOTHING, counts[fewest])
            for host in _hosts(run, remat, place):  # slower, but with fewer microbatches
                with_host = _fewest([made(remat, zero, host, n) for n in counts[:fewest]], fits)
                if with_host == fewest:
                    break
                best[zero, host, with_host] = made(remat, zero, host, counts[with_host])
    for placement in best.values():
        placed = _placed(run, placement)
        timed = roofline(placed, place, link_seconds(placed, wiring), price, mfu, flops)
        ledger = memory(placed, place.devices, kind)
        yield Fit(placement, tuple(_overrides(run.placement, placement)), ledger, timed)


def _fewest(placements: Sequence[Placement], fits: Callable[[Placement], bool], least: int = 0) -> int:
    """Index of the first placement that fits, of ever more microbatches; their number where none does. least: none
    fits before this index. Only the very first has no second sum of gradients, so it may be the only one that
    fits."""
    if least == len(placements) or not fits(placements[-1]):
        return 0 if placements and least == 0 and fits(placements[0]) else len(placements)
    if least == 0 and fits(placements[0]):
        return 0
    return bisect_left(placements, True, lo=max(1, least), hi=len(placements) - 1, key=fits)


def _stages(run: RunConfig, mesh: MeshConfig) -> tuple[int | None, ...]:
    """ZeRO stages that may be the fastest: the run's own, and where devices share storage stage 2, which gathers
    layers once per step."""
    own = run.placement.zero
    return (own, 2) if own != 2 and mesh.fsdp * mesh.expert * mesh.context > 1 else (own,)


def _hosts(run: RunConfig, remat: str, place: Topology) -> list[Host]:
    """What may be offloaded to the host, as in `HOST`, the option that frees most memory first."""
    if place.device.host is None:
        return []
    activations = (True, False) if remat in run.model.OFFLOAD else (False,)
    return [host for host in product(activations, (True, False)) if any(host)]


def _by_time(fit: Fit) -> tuple[float, float, int]:
    """Sort key: time expected by the roofline; where an MFU is given, or times are equal, the one with more slack."""
    return fit.roofline["step"]["expected"], fit.roofline["step"]["serial"], fit.memory.total


def _leanest(run: RunConfig, mesh: MeshConfig, counts: list[int], place: Topology) -> Memory:
    """Memory of the placement on a mesh that needs least (microbatches keep a second sum of gradients)."""
    remat = run.model.REMAT[-1]
    host = dict(zip(HOST, next(iter(_hosts(run, remat, place)), NOTHING), strict=True))
    lean = (_changed(run, mesh, remat, accumulate, place.devices, **host) for accumulate in {counts[0], counts[-1]})
    found = (memory(_placed(run, placement), place.devices, place.device.name) for placement in lean)
    return min(found, key=lambda one: one.total)


def _more(run: RunConfig, place: Topology, available: int) -> int | None:
    """The number of devices, found by doubling, on which some placement fits."""
    for count in (place.devices * 2**k for k in range(1, MORE + 1)):
        if count > MOST_DEVICES:
            break
        for mesh in _all_meshes(run, count):
            if mesh.data == 1 and _computes(run, mesh_shape(mesh, count), place.device.platform):
                counts = list(_microbatches(run, mesh, count))
                if _leanest(run, mesh, counts, replace(place, devices=count)).total <= available:
                    return count
    return None


def _fewer(run: RunConfig, place: Topology) -> int | None:
    """The most devices below the requested number with a mesh that model and batch divide over, each axis by
    itself."""
    counts = {
        pipeline * windows * tensor * context
        for pipeline in _pipelines(run)
        for windows in divisors(run.batch_size)
        for tensor in range(1, TENSOR + 1)
        for context in range(1, CONTEXT + 1)
    }
    able = (
        count
        for count in sorted(counts, reverse=True)
        if count < place.devices and count % place.device.per_chip == 0
    )
    return next((count for count in able if _meshes_on(run, replace(place, devices=count, sides=(), slices=1))), None)


def _batches(run: RunConfig, place: Topology) -> tuple[int, ...]:
    """The nearest batch sizes, below and above, that divide over a mesh that the model divides over."""
    ways = {
        place.devices // inner
        for inner in (tensor * context for tensor in range(1, TENSOR + 1) for context in range(1, CONTEXT + 1))
        if place.devices % inner == 0
    }
    near = sorted({run.batch_size // n * n + more for n in ways for more in (0, n)} - {0, run.batch_size})

    def able(batch: int) -> bool:
        return bool(_meshes_on(run.model_copy(update={"batch_size": batch}), place))

    below = next((batch for batch in reversed(near) if batch < run.batch_size and able(batch)), None)
    above = next((batch for batch in near if batch > run.batch_size and able(batch)), None)
    return tuple(batch for batch in (below, above) if batch is not None)


def _placed(run: RunConfig, placement: Placement) -> RunConfig:
    return run.model_copy(update={"placement": placement})


def _overrides(requested: Placement, placement: Placement) -> list[str]:
    old, new = (
        p.model_dump() | {f"mesh.{k}": v for k, v in p.mesh.model_dump().items()} for p in (requested, placement)
    )
    changed = {key: new[key] for key in new if key != "mesh" and new[key] != old[key]}
    return [f"placement.{key}={'null' if value is None else value}" for key, value in changed.items()]


def _microbatches(run: RunConfig, mesh: MeshConfig, devices: int) -> Iterable[int]:
    """Numbers of microbatches, at least the requested one, that divide the batch over a mesh; in a pipeline, in
    rounds of as many as it has at a time."""
    shape, together = mesh_shape(mesh, devices), _together(run, mesh, devices)
    apart, ends = window_ways(in_stage(shape)), window_ways(shape)
    first = -(-max(1, run.placement.accumulate) // together) * together
    for n in range(first, run.batch_size // apart + 1, together):
        if run.batch_size % (n * apart) == 0 and run.batch_size % (n // together * ends) == 0:
            yield n


def _together(run: RunConfig, mesh: MeshConfig, devices: int) -> int:
    """Microbatches that a pipeline has at a time, by default FOR_STAGE per stage or all; 1 without a pipeline."""
    if mesh.pipeline == 1:
        return 1
    most = run.batch_size // window_ways(in_stage(mesh_shape(mesh, devices)))
    requested = run.placement.pipeline_microbatches or min(FOR_STAGE * mesh.pipeline, most)
    return (
        max(1, requested // mesh.pipeline) * mesh.pipeline
        if run.placement.pipeline_repeats > 1
        else max(1, requested)
    )


def _changed(run: RunConfig, mesh: MeshConfig, remat: str, accumulate: int, devices: int, **more: Any) -> Placement:
    """The placement of a run on another mesh. more: other keys to set."""
    changes = {"mesh": mesh, "remat": remat, "accumulate": accumulate, **more}
    together = _together(run, mesh, devices)
    if mesh.pipeline == 1:
        changes |= {"pipeline_repeats": 1, "pipeline_microbatches": None, "pipeline_schedule": None}
    elif together != accumulate or run.placement.pipeline_microbatches:
        changes |= {"pipeline_microbatches": together}
    return run.placement.model_copy(update=changes)


def _near_meshes(run: RunConfig, devices: int) -> Iterator[MeshConfig]:
    """The requested mesh; the same with its copies sharing storage; meshes with more devices per matrix."""
    requested = run.placement.mesh
    yield requested
    for tensor in (requested.tensor * k for k in (1, 2, 4, 8)):
        inner = tensor * requested.expert * requested.context * requested.pipeline
        if (
            devices % inner
            or _heads(run, tensor) % tensor
            or devices // inner < requested.fsdp // (tensor // requested.tensor)
        ):
            continue
        mesh = requested.model_copy(update={"data": 1, "fsdp": devices // inner, "tensor": tensor})
        if _spreads(run, mesh, devices):
            yield mesh


def _meshes_on(run: RunConfig, place: Topology) -> list[MeshConfig]:
    """The meshes that fit the links of the devices, and on which the run can compute as requested."""

    def able(mesh: MeshConfig) -> bool:
        shape = mesh_shape(mesh, place.devices)
        return wired(place, shape) is not None and _computes(run, shape, place.device.platform)

    return [mesh for mesh in _all_meshes(run, place.devices) if able(mesh)]


def _computes(run: RunConfig, mesh: Mapping[str, int], platform: str) -> bool:
    """Whether a run can compute as requested on a mesh, see `check_compute`."""
    try:
        check_compute(run, mesh, platform)
    except UserError:
        return False
    return True


def _pipelines(run: RunConfig) -> tuple[int, ...]:
    return tuple(dict.fromkeys((1, run.placement.mesh.pipeline)))


def _all_meshes(run: RunConfig, devices: int) -> Iterator[MeshConfig]:
    """Every mesh of `devices` devices that the model and the batch divide over, with the run's own pipeline stages or
    none: a pipeline wastes time in bubbles, and gains where only its streams cross a slow network."""
    for pipeline in _pipelines(run):
        if devices % pipeline == 0:
            yield from _meshes(run, devices, pipeline)


def _meshes(run: RunConfig, devices: int, pipeline: int) -> Iterator[MeshConfig]:
    able = divisors(devices // pipeline)
    experts = [k for k in able if _divides(run, MeshConfig(expert=k), devices, 1)]
    for tensor in (k for k in able if k <= TENSOR and _heads(run, k) % k == 0):
        shared = (MeshConfig(context=k, tensor=tensor) for k in able if k <= CONTEXT)
        contexts = [mesh.context for mesh in shared if _divides(run, mesh, devices, 1)]
        for context, expert in product(contexts, experts):
            inner = pipeline * tensor * context * expert
            for fsdp in (k for k in divisors(devices // inner) if devices % inner == 0):
                axes = {"fsdp": fsdp, "expert": expert, "context": context, "tensor": tensor}
                mesh = MeshConfig(data=devices // inner // fsdp, pipeline=pipeline, **axes)
                count = next(iter(_microbatches(run, mesh, devices)), None)
                if count is None or not (pipeline == 1 or _divides(run, mesh, devices, count)):
                    continue
                if _spreads(run, mesh, devices):
                    yield mesh


def _divides(run: RunConfig, mesh: MeshConfig, devices: int, accumulate: int) -> bool:
    """Whether the model and the batch divide over the axes of a mesh."""
    try:
        _placed(run, _changed(run, mesh, run.placement.remat, accumulate, devices)).check_mesh()
    except ValueError:
        return False
    return True


def _spreads(run: RunConfig, mesh: MeshConfig, devices: int) -> bool:
    """Whether training accepts the mesh, see `check_layout`."""
    try:
        refuse_whole(parameters_of(run.model), mesh_shape(mesh, devices))
    except UserError:
        return False
    return True


def _heads(run: RunConfig, otherwise: int) -> int:
    heads: int = getattr(run.model, "n_heads", otherwise)
    return heads
