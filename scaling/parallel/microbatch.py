"""How many microbatches a batch is cut into."""

from jax.sharding import Mesh

from scaling.accounting import params
from scaling.accounting.layout import RULES, window_ways
from scaling.config import RunConfig
from scaling.errors import UserError

TOKENS, ACTIVATIONS = 512, 32768
"""of a microbatch on one CPU device: tokens at least, and tokens × d_model, whichever is more

Fastest or within 5 % of it at d_model 32 to 256 (experiments/throughput): a layer's arrays stay in a core's own
cache of 1 MiB. Fewer tokens make products too thin. Of a mixture of experts as many times more as it has parameters
for each that a token meets: an expert gets so few of the tokens, and each microbatch adds up a gradient of them all.
"""


def placed(config: RunConfig, mesh: Mesh) -> RunConfig:
    """The run with its number of microbatches decided: `placement.accumulate`, or what suits the mesh where it is 0.

    Raises UserError where the batch does not split evenly into microbatches over the devices.
    """
    asked = config.placement.accumulate
    check_batch(mesh, config.batch_size, max(1, asked))
    if asked:
        return config
    placement = config.placement.model_copy(update={"accumulate": _microbatches(config, mesh)})
    return config.model_copy(update={"placement": placement})


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raises UserError unless every microbatch splits evenly over the devices that compute windows of their own."""
    step = window_ways(mesh.shape) * accumulate
    if batch_size % step:
        near = sorted({max(1, batch_size // step) * step, -(-batch_size // step) * step})
        raise UserError(
            f"batch_size={batch_size} does not split into {accumulate} microbatches (placement.accumulate) over "
            f"{' × '.join(f'{axis}={mesh.shape[axis]}' for axis in RULES['batch'])} devices; nearest that do: "
            f"{', '.join(map(str, near))}"
        )


def _microbatches(config: RunConfig, mesh: Mesh) -> int:
    if mesh.devices.flat[0].platform != "cpu":
        return 1
    windows = config.batch_size // window_ways(mesh.shape)
    count = params(config.model)
    most = max(TOKENS, ACTIVATIONS // config.model.d_model) * count.total / count.active
    fitting = [k for k in range(1, windows + 1) if windows % k == 0 and windows // k * config.model.context <= most]
    return min(fitting, default=windows)
