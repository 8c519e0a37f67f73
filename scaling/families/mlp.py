"""The dense feed-forward part: its parameters and memory."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from scaling.families.attention_mask import AttentionMask
from scaling.families.block import FeedForward
from scaling.families.declare import Tensor
from scaling.families.linear import linear
from scaling.families.model import Compute
from scaling.families.shape import TransformerShape

KEEPS = {"relu": 2, "relu2": 3, "silu": 4, "gelu": 6, "gelu_erf": 4, "swiglu": 6, "geglu": 8, "clamped_swiglu": 9}
"""number of arrays of width d_ff that JAX 0.10 keeps for the backward pass; 0.11 keeps one less of GELU and GEGLU"""


class MLP(FeedForward):
    """down(activation(up(x))), or down(activation(gate(x)) · up(x)) if the activation is gated; its sizes are keys of
    the model."""

    MODULE: ClassVar[str] = "scaling.models.mlp:MLP"

    kind: Literal["mlp"] = "mlp"

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        return mlp(model, model.d_ff, "mlp")

    def activations(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> float:
        return compute.width * KEEPS[model.activation] * model.d_ff

    def products(self, model: TransformerShape) -> int:
        return (2 if model.gated else 1) * model.d_ff


def mlp(model: TransformerShape, width: int, part: str, bounded: bool = False) -> Iterator[Tensor]:
    """The linear maps of one MLP with the model's activation. part: their category in both ledgers. bounded: its
    width does not grow with the model's, see `Tensor`."""
    D, into = model.d_model, model.matrix_std(model.d_model)
    out = model.matrix_std(width, residual=True, bounded=bounded)
    for name in ("up", "gate") if model.gated else ("up",):
        yield from linear(name, part, (D, width), ("embed", "mlp"), std=into, item=part, bias=model.bias)
    yield from linear(
        "down", part, (width, D), ("mlp", "embed"), std=out, item=part, bias=model.bias, bounded=bounded
    )
