"""A run on its mesh: the batch cut into microbatches that split evenly."""

from math import lcm

from jax.sharding import Mesh

from scaling.accounting.layout import RULES, in_stage, window_ways
from scaling.accounting.microbatches import microbatches
from scaling.config import RunConfig
from scaling.errors import UserError


def placed(config: RunConfig, mesh: Mesh) -> RunConfig:
    """The run with its number of microbatches decided: `placement.accumulate`, or what suits the mesh where it is 0.

    Raises UserError where the batch does not split evenly into microbatches over the devices.
    """
    placement, platform = config.placement, mesh.devices.flat[0].platform
    check_batch(mesh, config.batch_size, max(1, placement.accumulate), placement.pipeline_microbatches)
    parts = microbatches(config, mesh.shape, platform)
    return config.model_copy(update={"placement": placement.model_copy(update={"accumulate": parts})})


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1, together: int | None = None) -> None:
    """Raises UserError unless every microbatch splits evenly over the devices that compute windows of their own.

    together: so many that are in a pipeline at a time split over its stages as well; unset: all."""
    rounds = accumulate // (together or accumulate)
    step = lcm(rounds * window_ways(mesh.shape), accumulate * window_ways(in_stage(mesh.shape)))
    if batch_size % step:
        near = sorted({max(1, batch_size // step) * step, -(-batch_size // step) * step})
        raise UserError(
            f"batch_size={batch_size} does not split into {accumulate} microbatches (placement.accumulate) over "
            f"{' × '.join(f'{axis}={mesh.shape[axis]}' for axis in RULES['batch'])} devices; nearest that do: "
            f"{', '.join(map(str, near))}"
        )
