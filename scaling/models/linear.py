"""Linear maps of the residual blocks."""

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from scaling.families import Tensor
from scaling.models.matmul import matmul
from scaling.models.parameters import Params

PRODUCT = "product"
"""checkpoint name of a product, which `remat: dots` keeps"""


class Linear(nnx.Module):
    """y = x·kernel (+ bias), with x [batch, sequence, inputs] and `kernel` [inputs, outputs].

    declared: the declarations of `params`; without them the compiler chooses the layout of the kernel's gradient.
    """

    def __init__(self, params: Params, declared: dict[str, Tensor] | None = None):
        self.axes = None if declared is None else declared["kernel"].axes
        self.kernel = nnx.Param(params["kernel"])
        self.bias = nnx.Param(params["bias"]) if "bias" in params else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = checkpoint_name(matmul(x, self.kernel[...], None, self.axes), PRODUCT)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)
