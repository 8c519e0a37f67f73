"""How many microbatches a batch is cut into where the configuration leaves that open."""

from collections.abc import Mapping

from scaling.accounting.layout import window_ways
from scaling.accounting.params import params
from scaling.config import RunConfig

TOKENS, ACTIVATIONS = 512, 32768
"""of a microbatch on one CPU device: tokens at least, and tokens × d_model, whichever is more

Fastest or within 5 % of it at d_model 32 to 256 (experiments/throughput): a layer's arrays stay in a core's own
cache of 1 MiB. Fewer tokens make products too thin. Of a mixture of experts as many times more as it has parameters
for each that a token meets: an expert gets so few of the tokens, and each microbatch adds up a gradient of them all.
"""


def microbatches(run: RunConfig, mesh: Mapping[str, int], platform: str) -> int:
    """`placement.accumulate`, or what suits a mesh of this shape where it is 0: on a CPU what its caches hold."""
    if run.placement.accumulate or platform != "cpu":
        return max(1, run.placement.accumulate)
    windows = run.batch_size // window_ways(mesh)
    count = params(run.model)
    most = max(TOKENS, ACTIVATIONS // run.model.d_model) * count.total / count.active
    fitting = [k for k in range(1, windows + 1) if windows % k == 0 and windows // k * run.model.context <= most]
    return min(fitting, default=max(1, windows))
