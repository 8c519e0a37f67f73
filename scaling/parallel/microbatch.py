"""A run on its mesh: the batch cut into microbatches that split evenly."""

from jax.sharding import Mesh

from scaling.accounting import check_placement
from scaling.accounting.microbatches import microbatches
from scaling.config import RunConfig


def placed(config: RunConfig, mesh: Mesh) -> RunConfig:
    """The run with its number of microbatches decided: `placement.accumulate`, or what suits the mesh where it is 0.

    Raises UserError as `accounting.check_placement`.
    """
    device, placement = mesh.devices.flat[0], config.placement
    check_placement(config, mesh.size, device.device_kind)
    parts = microbatches(config, mesh.shape, device.platform)
    return config.model_copy(update={"placement": placement.model_copy(update={"accumulate": parts})})
