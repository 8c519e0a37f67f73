"""The number of microbatches of a run on its mesh."""

from jax.sharding import Mesh

from scaling.accounting import check_placement
from scaling.accounting.microbatches import microbatches
from scaling.config import RunConfig


def placed(config: RunConfig, mesh: Mesh) -> RunConfig:
    """The run with `placement.accumulate` set to its number of microbatches, chosen for the mesh if it was 0.

    Raises UserError as `accounting.check_placement` does.
    """
    device, placement = mesh.devices.flat[0], config.placement
    check_placement(config, mesh.size, device.device_kind)
    parts = microbatches(config, mesh.shape, device.platform)
    return config.model_copy(update={"placement": placement.model_copy(update={"accumulate": parts})})
