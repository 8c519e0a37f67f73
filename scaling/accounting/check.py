"""Checks of a placement before anything is created or compiled. No JAX."""

from collections.abc import Mapping
from functools import lru_cache

from scaling.accounting.devices import Topology, platform_of
from scaling.accounting.layout import mesh_shape, refuse_whole
from scaling.accounting.links import in_any_order, slice_sides, slices_of
from scaling.accounting.memory import compute_of
from scaling.accounting.microbatches import check_batch, microbatches
from scaling.accounting.networks import along_sides, parts_apart
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.families import ModelConfig


def check_layout(run: RunConfig, devices: int | None = None) -> dict[str, int]:
    """Devices along each axis of a run's mesh.

    devices: of the run; unset: as many as its mesh names.
    Raises UserError where the mesh does not fit them, the model or a batch does not divide over it, or a large
    parameter would be replicated on each.
    """
    placement = run.placement
    mesh = mesh_shape(placement.mesh, devices or max(1, placement.mesh.data) * placement.mesh.inner)
    try:
        run.check_mesh()  # also for a run that a design derived from another
    except ValueError as error:
        raise UserError(str(error)) from None
    check_batch(mesh, run.batch_size, max(1, placement.accumulate), placement.pipeline_microbatches)
    refuse_whole(parameters_of(run.model), mesh)
    return mesh


def check_placement(run: RunConfig, devices: int, kind: str, hosts: int = 1) -> dict[str, int]:
    """As `check_layout`; also raises UserError where the batch does not divide into the devices' microbatches, where
    an implementation that the placement requests is not available on them, and where `placement.dcn` cannot divide
    the mesh over the hosts.

    kind: of the devices. hosts: that they are in.
    """
    mesh, platform = check_layout(run, devices), platform_of(kind)
    parts_apart(mesh, run.placement.dcn, hosts)
    check_batch(mesh, run.batch_size, microbatches(run, mesh, platform), run.placement.pipeline_microbatches)
    check_compute(run, mesh, platform)
    return mesh


def check_compute(run: RunConfig, mesh: Mapping[str, int], platform: str) -> None:
    """Raises UserError where an implementation that the placement requests is not available on a mesh, for any window
    length of the run."""
    compute = compute_of(run, mesh, platform)
    for context in {run.model.context, *(stage.context for stage in run.data.curriculum or ())}:
        run.model.model_copy(update={"context": context}).check_compute(compute)


def check_topology(run: RunConfig, place: Topology) -> None:
    """As `check_placement`, on `place`; also raises UserError where the mesh cannot be laid out on its slices."""
    mesh = check_placement(run, place.devices, place.device.name)
    links = place.device.links
    if links is None or not links.sides:
        return
    apart = parts_apart(mesh, run.placement.dcn, slices=slices_of(place)) or {}
    if not in_any_order(place):
        along_sides({axis: size // apart.get(axis, 1) for axis, size in mesh.items()}, slice_sides(place))


@lru_cache(maxsize=16)
def parameters_of(model: ModelConfig) -> tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...]:
    """(name, axes, shape) of each parameter, as `refuse_whole` expects them."""
    return tuple((".".join(tensor.path), tensor.axes, tensor.shape) for tensor in model.tensors())
