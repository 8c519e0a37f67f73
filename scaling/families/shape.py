"""The sizes and options of a transformer, from GPT-2 to Llama 3, that all its parts use."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from scaling.families.by_kind import pattern
from scaling.families.model import ModelConfig
from scaling.families.rope import Rope
from scaling.families.width_transfer import STANDARD, MupConfig, WidthTransfer
from scaling.frozen import LAYERS, MANY, filled
from scaling.numbers import divisors

GATED = ("swiglu", "geglu", "clamped_swiglu")
ROPE_THETA = 10_000.0  # Su et al. 2021 (2104.09864)
SWIGLU_RATIO = 8 / 3  # three matrices then cost as much as two of width 4·d_model (Shazeer 2020, 2002.05202)


Positions = Annotated[int, Field(le=MANY)]
"""of a window"""


class TransformerShape(ModelConfig):
    """The keys of a transformer that all its parts use; unset sizes follow from the others."""

    n_heads: int = Field(ge=1, le=MANY)
    """query heads of a layer"""
    n_kv_heads: int = filled(ge=1, le=MANY)
    """key/value heads (grouped-query attention); unset: n_heads"""
    d_head: int = filled(ge=1, le=MANY)
    """width of a head; unset: d_model / n_heads"""
    d_ff: int = filled(ge=1, le=MANY)
    """hidden width of the MLP; unset: 4·d_model, or 8/3·d_model rounded up to 8 for a gated activation"""

    activation: Literal["gelu", "gelu_erf", "relu", "relu2", "silu", "swiglu", "geglu", "clamped_swiglu"] = "swiglu"
    """activation of the MLP; gelu and geglu have the tanh form of GELU (GPT-2), gelu_erf is GELU itself;
    clamped_swiglu is that of gpt-oss: min(gate, 7)·σ(1.702·min(gate, 7))·(1 + up), with up clipped to ±7"""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """norm of the residual stream"""
    norm_position: Literal["pre", "post", "sandwich", "output"] = "pre"
    """pre: before each part; post: after it, on the sum; sandwich: before it and on its output; output: on its output
    only (OLMo 2, 2501.00656)"""
    norm_eps: float = Field(default=1e-5, gt=0)
    """added to the mean square (or the variance) under the square root"""
    position: Literal["rope", "learned", "sinusoidal", "alibi", "none"] = "rope"
    """position encoding"""
    scaled_input: bool | None = None
    """embeddings enter the residual stream multiplied by √d_model, or with `mup` by that of the base (Vaswani et al.
    2017, section 3.4; Gemma); unset: as they are"""
    rope_theta: float = Field(default=ROPE_THETA, gt=1)
    """base of the rotary frequencies, in layers whose `rope` has no theta of its own"""
    bias: bool = False
    """biases in every linear map and in layer norms"""
    parallel_block: Literal[False, True, "two_norms"] = False
    """attention and MLP read the same normed input and are added together (GPT-J, PaLM); two_norms: each through a
    norm of its own (GPT-NeoX, 2204.06745)"""
    qk_norm: bool = False
    """RMSNorm over each head of queries and keys (Dehghani et al. 2023, 2302.05442); for a norm over all heads
    together see `mixer.qk_norm`"""
    sliding_window: Annotated[tuple[Positions | None, ...], pattern(Positions | None)] = ()
    """keys that a query sees, itself included, as a pattern repeated over the layers; null is the full context"""
    attention_chunk: Annotated[tuple[Positions | None, ...] | None, pattern(Positions | None)] = None
    """positions per chunk, as a pattern repeated over the layers: a query sees keys of its own chunk only (Llama 4);
    null is no chunks"""
    global_tokens: Annotated[tuple[Positions | None, ...] | None, pattern(Positions | None)] = None
    """number of first positions that every query sees whatever window and chunk, and that see beyond their own, as a
    pattern repeated over the layers: the kept first tokens of StreamingLLM (2309.17453), Longformer's global tokens
    (2004.05150)"""
    rope: Annotated[tuple[Rope, ...] | None, pattern(Rope)] = None
    """rotary positions of a layer, as a pattern repeated over the layers; unset: all features by rope_theta"""
    restart_positions: bool | None = None
    """positions restart from 0 in every document, for `objective.documents=mask`; unset: only in every window"""
    layer_sharing: int = Field(default=1, ge=1, le=LAYERS)
    """number of consecutive layers that share parameters (equal to `layers` in ALBERT)"""
    attention_softcap: float | None = Field(default=None, gt=0)
    """scores become cap·tanh(scores/cap) (Gemma 2, 2408.00118); unset: no cap"""
    init: Literal["fan_in", "normal"] = "fan_in"
    """standard deviation of initial weights; fan_in: 1/√fan_in, and 1/√d_model for embeddings; normal: init_std for
    all (GPT-2)"""
    init_std: float = Field(default=0.02, gt=0)
    """standard deviation of initial weights with `init: normal`; of no effect with fan_in"""
    residual_init_scale: bool = True
    """initial weights that write into the residual stream are scaled by 1/√(2·layers) (GPT-2)"""

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
            return values  # the field's own check will report it
        d_model, n_heads = int(d_model), int(n_heads)
        if "d_head" not in values and d_model % n_heads:
            lo, hi = d_model // n_heads * n_heads, (d_model // n_heads + 1) * n_heads
            near = f"{hi}" if lo == 0 else f"{lo}, {hi}"
            raise ValueError(f"d_model={d_model} is not divisible by n_heads={n_heads}; nearest that are: {near}")
        gated = values.get("activation", "swiglu") in GATED
        d_ff = -(-int(SWIGLU_RATIO * d_model) // 8) * 8 if gated else 4 * d_model
        return {"n_kv_heads": n_heads, "d_head": d_model // n_heads, "d_ff": d_ff, **values}

    @field_validator("sliding_window", mode="before")
    @classmethod
    def _null_is_full(cls, value: Any) -> Any:
        return () if value is None else value

    @field_validator("attention_chunk", "global_tokens", "rope")
    @classmethod
    def _unset_if_none(cls, value: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        """The default has a single spelling, so that a run has a single id."""
        return None if value is None or all(layer in (None, Rope()) for layer in value) else value

    @field_validator("restart_positions", "scaled_input")
    @classmethod
    def _unset_if_off(cls, value: bool | None) -> bool | None:
        return value or None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.parallel_block == "two_norms" and self.norm_position not in ("pre", "sandwich"):
            raise ValueError(
                f"parallel_block=two_norms is about norms before attention and MLP, which "
                f"norm_position={self.norm_position} has not; set parallel_block=true"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads={self.n_heads} is not divisible by n_kv_heads={self.n_kv_heads}; "
                f"allowed: {divisors(self.n_heads)}"
            )
        if self.layers % self.layer_sharing:
            raise ValueError(
                f"layers={self.layers} is not divisible by layer_sharing={self.layer_sharing}; "
                f"allowed: {divisors(self.layers)}"
            )
        if self.position == "rope" and self.d_head % 2:
            raise ValueError(f"rope rotates pairs of a head's features, so d_head must be even, got {self.d_head}")
        for key, what in (("sliding_window", "a window is 1 key or more, null for all"),
                          ("attention_chunk", "a chunk is 1 position or more, null for none"),
                          ("global_tokens", "a layer has 1 global token or more, null for none")):  # fmt: skip
            if any(n is not None and n < 1 for n in getattr(self, key) or ()):
                raise ValueError(f"{key}={list(getattr(self, key))}: {what}")
        self._only_what_positions_read()
        return self

    def _only_what_positions_read(self) -> None:
        """Raises ValueError for a key of positions that has no effect with these."""
        if self.rope and self.position != "rope":
            raise ValueError(f"rope has no effect with position={self.position}; set it to rope, or leave rope unset")
        if self.rope_theta != ROPE_THETA and self.position != "rope":
            raise ValueError(
                f"rope_theta={self.rope_theta:g} has no effect with position={self.position}; set it to rope, or "
                f"leave rope_theta unset ({ROPE_THETA:g})"
            )
        if self.restart_positions and self.position == "none":
            raise ValueError("restart_positions=true has no effect with position=none; leave it unset")

    @property
    def gated(self) -> bool:
        return self.activation in GATED

    @property
    def transfer(self) -> WidthTransfer:
        if self.mup is None:
            return STANDARD
        return WidthTransfer(
            self.d_model / self.mup.width,
            1.0 if self.mup.layers is None else self.layers / self.mup.layers,
            1.0 if self.mup.d_head is None else self.d_head / self.mup.d_head,
        )

    @property
    def base(self) -> MupConfig | None:
        return self.mup

    def matrix_std(self, fan_in: int, residual: bool = False, bounded: bool = False) -> float:
        """Initial standard deviation of a hidden matrix.

        residual: it writes into the residual stream (GPT-2, section 2.3). bounded: as in `Tensor`.
        """
        std = self.init_std * (1.0 if bounded else self.transfer.hidden_std)
        std = fan_in**-0.5 if self.init == "fan_in" else std
        if not (residual and self.residual_init_scale):
            return std
        layers = self.mup.layers if self.mup is not None and self.mup.layers is not None else self.layers
        return std * (2 * layers) ** -0.5

    @property
    def embedding_factor(self) -> float:
        """Factor on the embeddings of tokens as they enter the residual stream."""
        return (self.d_model if self.mup is None else self.mup.width) ** 0.5 if self.scaled_input else 1.0

    @property
    def table_std(self) -> float:
        """Initial standard deviation of embeddings, learned positions and the head."""
        if self.init == "normal":
            return self.init_std
        return (self.d_model if self.mup is None else self.mup.width) ** -0.5
