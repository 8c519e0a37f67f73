"""The architecture of a decoder-only transformer, from GPT-2 to Llama 3 and the usual research knobs."""

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from scaling.config.base import Config, filled

GATED = ("swiglu", "geglu")
SWIGLU_RATIO = 8 / 3  # three matrices cost what two of width 4·d_model do (Shazeer 2020, 2002.05202)


class MupConfig(Config):
    """The shape at which hyper-parameters were chosen: they then serve any width and depth (`models.width_transfer`).

    At this shape the model is the standard one, bit for bit; from there starts, multipliers and the learning rate of
    each parameter follow µP for AdamW (Yang et al. 2022, 2203.03466) and CompleteP (Dey et al. 2025, 2505.01618).
    """

    width: int = Field(ge=1)
    """d_model of the base"""
    layers: int | None = Field(default=None, ge=1)
    """layers of the base; unset: no rule for the depth"""
    d_head: int | None = Field(default=None, ge=1)
    """width of a head of the base, where heads grow instead of becoming more; unset: the same in all sizes"""


class ModelConfig(Config):
    """One decoder-only transformer. Sizes are in units (not bytes); unset sizes follow from the others."""

    vocab: int = Field(ge=2)
    """rows of the embedding, padding rows included"""
    context: int = Field(ge=1)
    """tokens a window predicts, the length the model is trained at"""
    layers: int = Field(ge=1)
    d_model: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    n_kv_heads: int = filled(ge=1)
    """key/value heads (grouped-query attention); n_heads where unset"""
    d_head: int = filled(ge=1)
    """width of a head; d_model / n_heads where unset"""
    d_ff: int = filled(ge=1)
    """hidden width of the MLP; 4·d_model where unset, 8/3·d_model rounded up to 8 for a gated activation"""

    activation: Literal["gelu", "relu", "relu2", "silu", "swiglu", "geglu"] = "swiglu"
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_position: Literal["pre", "post", "sandwich"] = "pre"
    norm_eps: float = Field(default=1e-5, gt=0)
    position: Literal["rope", "learned", "sinusoidal", "alibi", "none"] = "rope"
    rope_theta: float = Field(default=10_000.0, gt=0)
    tied: bool = True
    """one matrix serves as embedding and as head"""
    bias: bool = False
    """biases in every linear map and in layer norms"""
    parallel_block: bool = False
    """attention and MLP read the same normed input and are added together (GPT-J, PaLM)"""
    qk_norm: bool = False
    """RMSNorm over each head of queries and keys (Dehghani et al. 2023, 2302.05442)"""
    sliding_window: tuple[int | None, ...] = ()
    """keys a query sees, itself included, as a pattern repeated over the layers; null is the full context"""
    layer_sharing: int = Field(default=1, ge=1)
    """neighbouring layers that use the same parameters (`layers` makes it ALBERT)"""
    attention_softcap: float | None = Field(default=None, gt=0)
    logit_softcap: float | None = Field(default=None, gt=0)
    """logits become cap·tanh(logits/cap) (Gemma 2, 2408.00118)"""
    z_loss: float = Field(default=0.0, ge=0)
    """weight of mean(log Z²) added to the training loss (PaLM, 2204.02311 section 5)"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    init: Literal["fan_in", "normal"] = "fan_in"
    """standard deviation of weights: 1/√fan_in, 1/√d_model for embeddings; or init_std for all (GPT-2)"""
    init_std: float = Field(default=0.02, gt=0)
    residual_init_scale: bool = True
    """matrices that write into the residual stream start smaller by 1/√(2·layers) (GPT-2)"""

    mup: MupConfig | None = None
    """width and depth transfer from a base shape; unset: the standard parametrisation"""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = {k: v for k, v in values.items() if v is not None or k not in ("n_kv_heads", "d_head", "d_ff")}
        d_model, n_heads = values.get("d_model"), values.get("n_heads")
        if not all(type(x) in (int, float) and 1 <= x < math.inf for x in (d_model, n_heads)):
            return values  # the field's own check will say so
        d_model, n_heads = int(d_model), int(n_heads)
        if "d_head" not in values and d_model % n_heads:
            lo, hi = d_model // n_heads * n_heads, (d_model // n_heads + 1) * n_heads
            near = f"{hi}" if lo == 0 else f"{lo}, {hi}"
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}; nearest that are: {near}")
        gated = values.get("activation", "swiglu") in GATED
        d_ff = -(-int(SWIGLU_RATIO * d_model) // 8) * 8 if gated else 4 * d_model
        return {"n_kv_heads": n_heads, "d_head": d_model // n_heads, "d_ff": d_ff, **values}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            allowed = [k for k in range(1, self.n_heads + 1) if self.n_heads % k == 0]
            raise ValueError(
                f"n_heads={self.n_heads} is not divisible by n_kv_heads={self.n_kv_heads}; allowed: {allowed}"
            )
        if self.layers % self.layer_sharing:
            allowed = [k for k in range(1, self.layers + 1) if self.layers % k == 0]
            raise ValueError(
                f"layers={self.layers} is not divisible by layer_sharing={self.layer_sharing}; allowed: {allowed}"
            )
        if self.position == "rope" and self.d_head % 2:
            raise ValueError(f"rope turns pairs of a head's features, so d_head must be even, got {self.d_head}")
        if any(w is not None and w < 1 for w in self.sliding_window):
            raise ValueError(f"sliding_window={list(self.sliding_window)}: a window is 1 key or more, null for all")
        return self

    @property
    def gated(self) -> bool:
        return self.activation in GATED

    @property
    def unique_layers(self) -> int:
        """Layers that have parameters of their own."""
        return self.layers // self.layer_sharing

    @property
    def windows(self) -> tuple[int, ...]:
        """Keys a query may see in each layer, itself included: the pattern repeated, cut at the context."""
        pattern = self.sliding_window or (None,)
        return tuple(min(pattern[i % len(pattern)] or self.context, self.context) for i in range(self.layers))
