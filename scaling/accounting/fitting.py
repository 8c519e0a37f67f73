"""Which placement of a run fits the memory of its devices."""

from collections.abc import Iterator

from scaling.accounting.devices import device
from scaling.accounting.layout import mesh_shape, window_ways
from scaling.accounting.memory import memory
from scaling.config import MeshConfig, Placement, RunConfig
from scaling.errors import UserError
from scaling.units import si_bytes

REMAT = ("none", "dots", "full")  # what each keeps is less


def nearest_fit(run: RunConfig, devices: int, kind: str, available: float) -> list[str] | None:
    """The overrides (`placement.remat=full`, …) that make a run fit, by the ledger; None where none does.

    available: bytes of a device. Tried in this order: more recomputation, smaller microbatches, and both of them with
    more of a step shared (`zero`), with the copies of the model sharing one's storage, then with more devices to each
    matrix.
    """
    asked = run.placement
    for placement in _placements(run, devices):
        if memory(run.model_copy(update={"placement": placement}), devices, kind).total <= available:
            old, new = (
                p.model_dump() | {f"mesh.{k}": v for k, v in p.mesh.model_dump().items()} for p in (asked, placement)
            )
            return [f"placement.{key}={new[key]}" for key in new if key != "mesh" and new[key] != old[key]]
    return None


def check_memory(run: RunConfig, devices: int, kind: str, under: str = "") -> None:
    """Raises UserError where a step takes more memory than a device of that kind has, by the ledger, unless the
    placement says not to ask.

    kind: of the devices; of one that is not known, such as a CPU, nothing is said. under: what its keys lie under,
    such as `run.` in a sweep.
    """
    known = device(kind)
    if known is None or known.memory is None or not run.placement.check_memory:
        return
    needed = memory(run, devices, known.name).total
    if needed <= known.memory:
        return
    overrides = nearest_fit(run, devices, known.name, known.memory)
    fits = " ".join(under + override for override in overrides or ())
    raise UserError(
        f"{under}placement: a step takes {si_bytes(needed)} on each of {devices} {known.name}, which have "
        f"{si_bytes(known.memory)}, by the ledger ({under}placement.check_memory=false tries it all the same); "
        f"{f'it fits with {fits}' if fits else 'no placement on them fits: take more'}"
    )


def _placements(run: RunConfig, devices: int) -> Iterator[Placement]:
    asked = run.placement
    for mesh in _meshes(run, devices):
        apart = window_ways(mesh_shape(mesh, devices))
        first = max(1, asked.accumulate)
        counts = [n for n in range(first, run.batch_size // apart + 1) if run.batch_size % (n * apart) == 0]
        for zero in (asked.zero, *range((asked.zero or 3) + 1, 4)):
            for accumulate in counts:
                for remat in REMAT[REMAT.index(asked.remat) :]:
                    changed = {"mesh": mesh, "zero": zero, "remat": remat, "accumulate": accumulate}
                    yield asked.model_copy(update=changed)


def _meshes(run: RunConfig, devices: int) -> Iterator[MeshConfig]:
    """The one asked for; that one with its copies sharing storage; those with more devices to a matrix."""
    asked = run.placement.mesh
    yield asked
    for tensor in (asked.tensor * k for k in (1, 2, 4, 8)):
        inner = tensor * asked.expert * asked.context
        heads = getattr(run.model, "n_heads", tensor)
        if (
            devices % inner == 0
            and heads % tensor == 0
            and devices // inner >= asked.fsdp // (tensor // asked.tensor)
        ):
            yield asked.model_copy(update={"data": 1, "fsdp": devices // inner, "tensor": tensor})
