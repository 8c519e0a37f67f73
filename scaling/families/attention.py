"""The attention mixer, multi-head attention with grouped keys and values: its parameters and memory."""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import field_validator

from scaling.families.declare import Tensor, vector
from scaling.families.linear import linear
from scaling.families.model import FLOAT32, Compute, Mask
from scaling.families.shape import TransformerShape
from scaling.families.softmax_mixer import PROJECTIONS, Heads, SoftmaxMixer


class Attention(SoftmaxMixer):
    """Softmax attention; its sizes are keys of the model."""

    MODULE: ClassVar[str] = "scaling.models.attention:Attention"

    kind: Literal["attention"] = "attention"
    qk_norm: Literal["width"] | None = None
    """width: RMSNorm over all heads of queries together, and of keys, before RoPE (OLMo 2, 2501.00656); for a norm
    over each head separately see `model.qk_norm`"""
    sinks: bool | None = None
    """each head has a learned logit in the denominator of its softmax, which carries no value, so that a query may
    attend to nothing (gpt-oss, 2508.10925)"""
    qkv_bias: bool | None = None
    """queries, keys and values have biases, and no other linear map of the model (Qwen2, 2407.10671); for biases in
    all of them see `model.bias`"""
    global_projections: bool | None = None
    """global tokens attend to the whole window with queries, keys and values of a second set of projections
    (Longformer, 2004.05150, section 3.1); other tokens attend to them with the first set"""

    @field_validator("sinks", "qkv_bias", "global_projections")
    @classmethod
    def _unset_if_off(cls, value: bool | None) -> bool | None:
        """The default has a single spelling, so that a run has a single id."""
        return value or None

    def check(self, model: TransformerShape) -> None:
        if self.qk_norm and model.qk_norm:
            raise ValueError(
                "mixer.qk_norm=width and qk_norm=true are two norms of the same queries and keys; leave one unset"
            )
        if self.qkv_bias and model.bias:
            raise ValueError(
                "mixer.qkv_bias=true has no effect with bias=true, biases in every linear map; leave one unset"
            )
        known = model.global_tokens or (None,)
        if self.global_projections and (len(set(known)) > 1 or not 0 < (known[0] or 0) <= model.context):
            raise ValueError(
                "mixer.global_projections=true needs global_tokens, the same number in every layer and at most "
                f"model.context={model.context}; got {model.global_tokens and list(model.global_tokens)}"
            )

    @property
    def masks(self) -> tuple[Mask, ...]:
        return ("full",) if self.global_projections else super().masks

    def heads(self, model: TransformerShape) -> Heads:
        return Heads(model.n_heads, model.n_kv_heads, model.d_head, model.d_head, bool(self.sinks))

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        D, d = model.d_model, model.d_head
        queries, keys = model.n_heads * d, model.n_kv_heads * d
        maps = {
            "q": ((D, queries), ("embed", "heads")),
            "k": ((D, keys), ("embed", "kv_heads")),
            "v": ((D, keys), ("embed", "kv_heads")),
            "o": ((queries, D), ("heads", "embed")),
        }
        if self.global_projections:
            maps |= {f"{name}_global": maps[name] for name in "qkv"}
        for name, (shape, axes) in maps.items():
            std = model.matrix_std(shape[0], residual=name == "o")
            share = self._known(model) / model.context if name == "q_global" else 1.0
            bias = model.bias or (bool(self.qkv_bias) and name != "o")
            for tensor in linear(name, "attention", shape, axes, std=std, item=PROJECTIONS, bias=bias):
                yield replace(tensor, uses=tuple((item, share) for item, _ in tensor.uses))
        if model.qk_norm:
            yield vector(("q_scale",), "norm", d, "head_dim", mean=1.0)
            yield vector(("k_scale",), "norm", d, "head_dim", mean=1.0)
        if self.qk_norm:
            yield vector(("q_scale",), "norm", queries, "heads", mean=1.0)
            yield vector(("k_scale",), "norm", keys, "kv_heads", mean=1.0)
        if self.sinks:
            yield vector(("sinks",), "attention", model.n_heads, "heads")

    def made(self, model: TransformerShape, compute: Compute) -> float:
        keys, known = model.n_kv_heads * model.d_head, self._known(model)
        normed = model.n_heads * model.d_head + keys if model.qk_norm or self.qk_norm else 0
        scores = known * model.n_heads * (compute.width + 2 * FLOAT32)
        return 2.0 * FLOAT32 * normed + (scores + 2 * compute.width * keys if known else 0)

    def products(self, model: TransformerShape) -> int:
        keys = 2 * model.n_kv_heads * (2 if self.global_projections else 1)
        return (model.n_heads + keys) * model.d_head

    def _known(self, model: TransformerShape) -> int:
        """Number of tokens that use the second set of projections."""
        return (model.global_tokens or (0,))[0] or 0 if self.global_projections else 0
