"""Linear maps of the residual blocks."""

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from scaling.config.model import ModelConfig
from scaling.models.matmul import matmul
from scaling.models.parameters import ParamFacts, declare
from scaling.models.width_transfer import matrix_std

PRODUCT = "product"
"""what a result is called that `remat: dots` keeps"""


class Linear(nnx.Module):
    """y = x·kernel (+ bias), with `kernel` [inputs, outputs], stacked over layers."""

    def __init__(
        self,
        config: ModelConfig,
        shape: tuple[int, int],
        axes: tuple[str, str],
        *,
        layers: int,
        rngs: nnx.Rngs,
        residual: bool = False,
    ):
        fan_in = shape[0]
        facts = ParamFacts(axes, fan_in, decay=True, role="hidden")
        self.kernel = declare(shape, facts, rngs=rngs, layers=layers, std=matrix_std(config, fan_in, residual))
        bias = ParamFacts(axes[1:], 1, decay=False, role="vector")
        self.bias = declare(shape[1:], bias, rngs=rngs, layers=layers) if config.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = checkpoint_name(matmul(x, self.kernel[...]), PRODUCT)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)
