"""The attention mixer, as its parameters and memory: multi-head attention with grouped keys and values."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import field_validator

from scaling.families.declare import Tensor, vector
from scaling.families.linear import linear
from scaling.families.model import FLOAT32, Compute
from scaling.families.shape import TransformerShape
from scaling.families.softmax_mixer import PROJECTIONS, Heads, SoftmaxMixer


class Attention(SoftmaxMixer):
    """Softmax attention; its sizes are the model's own keys."""

    MODULE: ClassVar[str] = "scaling.models.attention:Attention"

    kind: Literal["attention"] = "attention"
    qk_norm: Literal["width"] | None = None
    """width: RMSNorm over all heads of queries together, and of keys, before they turn (OLMo 2, 2501.00656); over
    each head by itself it is `model.qk_norm`"""
    sinks: bool | None = None
    """each head has a learned logit in the denominator of its softmax, which carries no value, so that a query may
    attend to nothing (gpt-oss, 2508.10925)"""

    @field_validator("sinks")
    @classmethod
    def _unset_if_off(cls, value: bool | None) -> bool | None:
        """One spelling, so that one run has one id."""
        return value or None

    def check(self, model: TransformerShape) -> None:
        if self.qk_norm and model.qk_norm:
            raise ValueError(
                "mixer.qk_norm=width and qk_norm=true are two norms of the same queries and keys; leave one unset"
            )

    def heads(self, model: TransformerShape) -> Heads:
        return Heads(model.n_heads, model.n_kv_heads, model.d_head, model.d_head, bool(self.sinks))

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        D, d = model.d_model, model.d_head
        queries, keys = model.n_heads * d, model.n_kv_heads * d
        for name, shape, axes in (
            ("q", (D, queries), ("embed", "heads")),
            ("k", (D, keys), ("embed", "kv_heads")),
            ("v", (D, keys), ("embed", "kv_heads")),
            ("o", (queries, D), ("heads", "embed")),
        ):
            std = model.matrix_std(shape[0], residual=name == "o")
            yield from linear(name, "attention", shape, axes, std=std, item=PROJECTIONS, bias=model.bias)
        if model.qk_norm:
            yield vector(("q_scale",), "norm", d, "head_dim", mean=1.0)
            yield vector(("k_scale",), "norm", d, "head_dim", mean=1.0)
        if self.qk_norm:
            yield vector(("q_scale",), "norm", queries, "heads", mean=1.0)
            yield vector(("k_scale",), "norm", keys, "kv_heads", mean=1.0)
        if self.sinks:
            yield vector(("sinks",), "attention", model.n_heads, "heads")

    def made(self, model: TransformerShape, compute: Compute) -> float:
        normed = (model.n_heads + model.n_kv_heads) * model.d_head if model.qk_norm or self.qk_norm else 0
        return 2.0 * FLOAT32 * normed

    def products(self, model: TransformerShape) -> int:
        return (model.n_heads + 2 * model.n_kv_heads) * model.d_head
