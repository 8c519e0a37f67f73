"""How many microbatches a batch is split into where the configuration leaves that open."""

from collections.abc import Mapping
from math import lcm

from scaling.accounting.layout import PIPELINE, RULES, in_stage, window_ways
from scaling.accounting.params import params
from scaling.config import RunConfig
from scaling.errors import UserError

TOKENS, ACTIVATIONS = 512, 32768
"""size of a microbatch on one CPU device: at least this many tokens, or this tokens × d_model, whichever is more

Fastest or within 5 % of the fastest at d_model 32 to 256 (experiments/throughput): a layer's arrays stay in a core's
own cache of 1 MiB. Fewer tokens make products too thin. For a mixture of experts, multiplied by total over active
parameters: an expert gets only few of the tokens, and each microbatch adds up a gradient of all experts.
"""


FOR_STAGE = 4
"""microbatches for each stage of a pipeline, so that bubbles take at most a fifth of its time"""


def microbatches(run: RunConfig, mesh: Mapping[str, int], platform: str) -> int:
    """`placement.accumulate`, or a default for the mesh where it is 0: on a CPU by the size of its caches; for a
    pipeline FOR_STAGE per stage, as far as the batch divides."""
    if mesh.get(PIPELINE, 1) > 1 and not run.placement.accumulate:
        return _for_stages(run, mesh)
    if run.placement.accumulate or platform != "cpu":
        return max(1, run.placement.accumulate)
    windows = run.batch_size // window_ways(mesh)
    count = params(run.model)
    most = max(TOKENS, ACTIVATIONS // run.model.d_model) * count.total / count.active
    fitting = [k for k in range(1, windows + 1) if windows % k == 0 and windows // k * run.model.context <= most]
    return min(fitting, default=max(1, windows))


def check_batch(mesh: Mapping[str, int], batch_size: int, accumulate: int = 1, together: int | None = None) -> None:
    """Raises UserError unless every microbatch splits evenly over the devices that compute windows of their own.

    together: number of microbatches in a pipeline at a time, which split over its stages as well; unset: all."""
    rounds = accumulate // (together or accumulate)
    step = lcm(rounds * window_ways(mesh), accumulate * window_ways(in_stage(mesh)))
    if batch_size % step:
        near = sorted({max(1, batch_size // step) * step, -(-batch_size // step) * step})
        raise UserError(
            f"batch_size={batch_size} cannot be split into {accumulate} microbatches (placement.accumulate) over "
            f"{' × '.join(f'{axis}={mesh[axis]}' for axis in RULES['batch'])} devices; nearest that can: "
            f"{', '.join(map(str, near))}"
        )


def _for_stages(run: RunConfig, mesh: Mapping[str, int]) -> int:
    windows, number = run.batch_size // window_ways(in_stage(mesh)), mesh.get(PIPELINE, 1)
    step = number if run.placement.pipeline_repeats > 1 else 1
    counts = range(step, FOR_STAGE * number + 1, step)
    return max((n for n in counts if windows % n == 0), default=step)
