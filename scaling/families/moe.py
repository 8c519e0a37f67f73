"""Mixture of experts, a sparse feed-forward part: its parameters, FLOPs and memory."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from scaling.errors import UserError
from scaling.families.attention_mask import AttentionMask
from scaling.families.block import FeedForward
from scaling.families.cache import Cache
from scaling.families.declare import Tensor, vector
from scaling.families.dispatch import GROUPED, choose_experts, choose_transport, keeps_hidden
from scaling.families.mlp import KEEPS, mlp
from scaling.families.model import FLOAT32, Compute, Mask
from scaling.families.shape import TransformerShape
from scaling.frozen import MANY
from scaling.numbers import divisors

BALANCE = 0.01
"""default weight of the load-balance loss (Switch, 2101.03961)"""
OF_CHOICE = ("normalise", "groups", "top_groups", "group_score", "balance", "balance_over", "balance_rate")
"""keys that are used only if tokens choose their experts"""
UNREAD: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "token_choice": (),
        "expert_choice": (*OF_CHOICE, "capacity"),
        "hash": ("scores", *OF_CHOICE, "z_loss", "router_bias", "jitter"),
    }
)
"""keys that a routing does not use"""


class MoE(FeedForward):
    """A router sends each token to `top_k` of `experts` MLPs with the model's activation and sums their outputs,
    weighted by its scores.

    Routing is computed within each window, and its auxiliary losses within each window or over the whole batch, so
    that neither mesh nor microbatches change it.
    """

    MODULE: ClassVar[str] = "scaling.models.moe:MoE"
    LOSSES: ClassVar[tuple[str, ...]] = ("router_balance", "router_z")
    METRICS: ClassVar[tuple[str, ...]] = ("load_entropy", "load_violation", "router_confidence", "idle_experts",
                                          "dropped_share")  # fmt: skip

    FREE: ClassVar[Mapping[str, str]] = MappingProxyType({
        "dispatch": "rows are gathered by index for their experts and their outputs are added up, without a product "
        "with a matrix of assignments"
    })  # fmt: skip

    kind: Literal["moe"]
    experts: int = Field(ge=2, le=MANY)
    """number of routed experts, of which each token uses `top_k`"""
    top_k: int = Field(default=1, ge=1)
    """experts per token, not counting shared ones"""
    d_ff: int | None = Field(default=None, ge=1, le=MANY)
    """hidden width of an expert; unset: model.d_ff / granularity"""
    granularity: int | None = Field(default=None, ge=1, le=MANY)
    """G = model.d_ff / the expert's width (Krajewski et al. 2024, 2402.07871); unset: 1"""
    shared: int = Field(default=0, ge=0, le=MANY)
    """number of shared experts that every token uses, as one MLP that many times as wide (DeepSeekMoE, 2401.06066)"""
    routing: Literal["token_choice", "expert_choice", "hash"] = "token_choice"
    """token_choice: a token chooses its `top_k` experts; expert_choice: an expert chooses its tokens, the same number
    for each expert and on average `top_k` experts per token (Zhou et al. 2022, 2202.09368), which depends on the
    whole window; hash: the token's id alone determines its experts (2106.04426)"""
    scores: Literal["softmax", "sigmoid"] = "softmax"
    """a token's scores for the experts: softmax over all experts, or sigmoid for each (DeepSeek-V3, 2412.19437)"""
    normalise: bool = False
    """divide the scores of the chosen experts by their sum (Mixtral, DeepSeek-V3)"""
    scale: float = Field(default=1.0, gt=0)
    """factor on the weights of the chosen experts"""
    groups: int | None = Field(default=None, ge=2)
    """number of groups of consecutive experts; a token uses experts of `top_groups` groups only (DeepSeek-V2,
    2405.04434)"""
    top_groups: int | None = Field(default=None, ge=1)
    """number of `groups` from which the experts of a token are chosen"""
    group_score: Literal["best"] | None = None
    """what the groups are ranked by: best: the score of a group's best expert (DeepSeek-V2); unset: the sum of the
    scores of its two best (DeepSeek-V3)"""
    balance: float | None = Field(default=None, ge=0)
    """weight of the load-balance loss, experts · Σ share of tokens · mean score (Switch, 2101.03961, eq. 4); unset:
    0.01 for token_choice with `balance_rate` 0, else 0"""
    balance_over: Literal["window", "batch"] | None = None
    """range of both means in the load-balance loss: each window (also if unset), or the whole batch of a step over
    all devices and microbatches (2501.11873), which with several microbatches takes an additional forward pass"""
    z_loss: float = Field(default=0.0, ge=0)
    """weight of the mean squared log Z of the router (ST-MoE, 2202.08906, eq. 5)"""
    balance_rate: float = Field(default=0.0, ge=0)
    """step by which an expert's bias, used for selection only, rises after too few tokens and falls after too many
    (2408.15664); 0: no biases"""
    router_bias: bool = False
    """a trained bias in the router's logits"""
    capacity: float | None = Field(default=None, gt=0)
    """slots of an expert in a window relative to an even share of tokens; slots are assigned in text order, and a
    token without a slot skips that expert (GShard, 2006.16668), in training and evaluation but not in generation.
    Unset: nothing is dropped"""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """in training the router's input is multiplied by random factors in 1 ± jitter (Switch, 2101.03961)"""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """dropout rate of the hidden units of routed experts in training, in addition to `model.dropout` (expert dropout:
    Switch, section 2.4); shared experts have none. Unset: none"""
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    """(E − K)/E, which may be given instead of `experts`; it is converted to `experts` and not kept, so that a model
    has a single spelling (Abnar et al. 2025, 2501.12370)"""

    @model_validator(mode="before")
    @classmethod
    def _experts_of_sparsity(cls, values: Any) -> Any:
        if not isinstance(values, dict) or (sparsity := values.get("sparsity")) is None:
            return values
        top_k, experts = values.get("top_k", 1), values.get("experts")
        if experts is not None:
            raise ValueError(f"experts={experts} and sparsity={sparsity} both set the number of experts; keep one")
        if not (isinstance(sparsity, float | int) and 0 < sparsity < 1 and isinstance(top_k, int)):
            return {**values, "experts": 2}  # the field's own check will report it
        experts = round(top_k / (1 - sparsity))
        if abs(top_k / (1 - sparsity) - experts) > 0.01:
            near = sorted({max(top_k + 1, n) for n in (experts - 1, experts, experts + 1)})
            raise ValueError(
                f"sparsity={sparsity:g} means {top_k / (1 - sparsity):.4g} experts with top_k={top_k}; nearest: "
                f"{', '.join(f'{1 - top_k / n:.6g} ({n} experts)' for n in near)}"
            )
        return {**values, "experts": experts, "sparsity": None}

    @field_validator("experts", mode="before")
    @classmethod
    def _more_than_one(cls, value: Any) -> Any:
        if value == 1:
            raise ValueError("experts=1 is a dense layer; set this feed_forward to null or {kind: mlp} instead")
        return value

    @field_validator("dropout")
    @classmethod
    def _unset_if_off(cls, value: float | None) -> float | None:
        """The default has a single spelling, so that a run has a single id."""
        return value or None

    @field_validator("balance_over")
    @classmethod
    def _unset_if_window(cls, value: str | None) -> str | None:
        """The default has a single spelling, so that a run has a single id."""
        return None if value == "window" else value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k={self.top_k} is more than experts={self.experts}")
        if self.d_ff is not None and self.granularity is not None:
            raise ValueError(
                f"d_ff={self.d_ff} and granularity={self.granularity} both set the width of an expert; keep one"
            )
        if self.normalise and self.top_k == 1:
            raise ValueError("normalise=true with top_k=1 makes every weight 1, so the router would learn nothing")
        self._only_what_is_read()
        if self.balance_over and not self.balance_weight:
            raise ValueError(
                f"balance_over={self.balance_over} applies to the load-balance loss, whose weight is 0 here; set "
                "balance, or leave balance_over unset"
            )
        if (self.groups is None) != (self.top_groups is None):
            raise ValueError("set both groups and top_groups, or neither")
        if self.group_score and self.groups is None:
            raise ValueError(f"group_score={self.group_score} ranks groups, but there are none; leave it unset")
        if self.groups is not None and self.top_groups is not None:
            if self.experts % self.groups:
                allowed = divisors(self.experts)[1:]
                raise ValueError(
                    f"experts={self.experts} is not divisible by groups={self.groups}; allowed: {allowed}"
                )
            if not self.top_k <= self.top_groups * (self.experts // self.groups) or self.top_groups > self.groups:
                raise ValueError(
                    f"top_groups={self.top_groups} of {self.groups} groups of {self.experts // self.groups} experts "
                    f"are too few for top_k={self.top_k}"
                )
        return self

    def _only_what_is_read(self) -> None:
        for key in UNREAD[self.routing]:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key}={getattr(self, key)} has no effect with routing={self.routing}; leave it unset"
                )

    def check(self, model: TransformerShape) -> None:
        if self.granularity is not None and model.d_ff % self.granularity:
            raise ValueError(
                f"feed_forward.granularity={self.granularity} does not divide d_ff={model.d_ff}; "
                f"allowed: {divisors(model.d_ff)}"
            )
        if self.balance_over and model.layer_sharing > 1:
            raise ValueError(
                f"feed_forward.balance_over={self.balance_over} cannot be used with layer_sharing="
                f"{model.layer_sharing}, where a layer has several loads; leave one of the two unset"
            )
        share = model.context * self.top_k / self.experts
        if self.capacity is not None and self.capacity * share < 1:
            raise ValueError(
                f"feed_forward.capacity={self.capacity:g} gives an expert only {self.capacity * share:.2g} of a "
                f"slot: an even share is context={model.context} · top_k={self.top_k} / experts={self.experts} = "
                f"{share:.3g} tokens; set capacity to {ceil(1000 / share) / 1000:g} or more, or leave it unset, "
                "which drops no token"
            )
        if self.slots(model.context) < 1:
            raise ValueError(
                f"feed_forward: no expert would get a token: experts={self.experts} is more than context="
                f"{model.context} · top_k={self.top_k}; set experts to {model.context * self.top_k} or "
                f"fewer, or top_k to {ceil(self.experts / model.context)} or more"
            )

    @property
    def masks(self) -> tuple[Mask, ...]:
        return ("full",) if self.routing == "expert_choice" else get_args(Mask)

    @property
    def random(self) -> bool:
        return self.jitter > 0 or self.dropout is not None

    @property
    def reads_counts(self) -> bool:
        return self.balance_over is not None

    @property
    def whole_windows(self) -> str:
        return "" if self.each else f"routing={self.routing}"

    @property
    def each(self) -> int | None:
        """Routed experts per token; None if the number varies between tokens."""
        return None if self.routing == "expert_choice" else self.top_k

    @property
    def balance_weight(self) -> float:
        """The weight of the load-balance loss."""
        if self.balance is None:
            return BALANCE if self.routing == "token_choice" and not self.balance_rate else 0.0
        return self.balance

    def slots(self, length: int) -> int:
        """Most tokens that an expert takes from a window of `length`."""
        if self.routing == "expert_choice":
            return length * self.top_k // self.experts
        return (
            length if self.capacity is None else min(length, ceil(self.capacity * length * self.top_k / self.experts))
        )

    def share(self, model: TransformerShape) -> float:
        """Mean share of the routed experts that a token uses; with expert_choice, slots are whole tokens."""
        if self.routing == "expert_choice":
            return self.slots(model.context) / model.context
        return self.top_k / self.experts

    def width(self, model: TransformerShape) -> int:
        """Hidden width of an expert."""
        return self.d_ff if self.d_ff is not None else model.d_ff // (self.granularity or 1)

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        D, E, share = model.d_model, self.experts, self.share(model)
        if self.routing != "hash":
            yield Tensor(
                ("router", "kernel"), "router", (D, E), ("embed", "experts"), "hidden",
                inputs=1, std=model.matrix_std(D), decay=True, uses=(("router", 1.0),),
            )  # fmt: skip
        if self.router_bias:
            yield vector(("router", "bias"), "router", E, "experts")
        if self.balance_rate:
            yield Tensor(("balance",), "router", (E,), ("experts",), "vector", state=True)
        if self.reads_counts:
            yield Tensor(("load",), "router", (E,), ("experts",), "vector", state=True)
        bounded = self.d_ff is not None
        for tensor in mlp(model, self.width(model), "experts", bounded):
            uses = tuple((item, times * share) for item, times in tensor.uses)
            yield replace(tensor.stack("experts", E, "experts"), uses=uses, active=share)
        if self.shared:
            for tensor in mlp(model, self.shared * self.width(model), "shared", bounded):
                yield replace(tensor, path=("shared", *tensor.path))

    def facts(self, model: TransformerShape) -> dict[str, float]:
        """granularity: width of the dense MLP over that of an expert (Krajewski); sparsity: (E − K)/E (Abnar et al.
        2025, 2501.12370), both without the shared experts."""
        return {
            "experts": self.experts,
            "top_k": self.top_k,
            "shared": self.shared,
            "granularity": model.d_ff / self.width(model),
            "sparsity": (self.experts - self.top_k) / self.experts,
        }

    def counts(self, model: TransformerShape) -> dict[str, tuple[int, ...]]:
        return {"tokens": (self.experts,), "confidence": (), "dropped": ()}

    def cache(self, model: TransformerShape, places: int) -> Cache:
        if self.routing == "expert_choice":
            raise UserError(
                "feed_forward.routing=expert_choice chooses the tokens of an expert over a whole window, which "
                "generation does not have; only models with another routing can generate text"
            )
        return {}

    def written(self, model: TransformerShape) -> str:
        if self.capacity is None or self.slots(model.context) == model.context:
            return ""
        return (
            f"feed_forward.capacity={self.capacity:g} limits the tokens of an expert in training and evaluation, but "
            "not in generation"
        )

    def activations(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> float:
        """Input and output rows of the experts, and what the implementation keeps within experts. For a
        rematerialised layer these are the inputs and outputs of its products, from which a TPU's compiler derives the
        rest where needed. Rows are whole on every device of `tensor`."""
        way, F, D = self._way(compute), self.width(model), model.d_model * compute.tensor
        sent, rows = self.experts * self.share(model), self._rows(model, compute)
        inner = (2 + model.gated if self._fused(compute) else KEEPS[model.activation]) * compute.width * F
        if way == "dense":
            kept = rows / sent * self.experts / compute.expert * (inner + (compute.width + FLOAT32) * D)
        else:
            kept = rows * (2 * compute.width * D + (inner if way in GROUPED else 0))
            if keeps_hidden(way, compute.platform):
                kept += rows * (1 + model.gated) * compute.width * F
        if self._sends(compute):
            kept += sent * compute.width * D  # the returned outputs
        routed = FLOAT32 * (D + 3 * self.experts * compute.tensor)  # the router reads float32
        return kept + routed + KEEPS[model.activation] * compute.width * self.shared * F

    def working(self, model: TransformerShape, compute: Compute) -> float:
        """Gradients of the output rows, gathered and weighted, and of the input rows; and the buffers in which they
        are sent and received. Where the compiler schedules them, two of these exist together with the experts'; one
        where rows are sent, which are weighted when they are back."""
        sends = self._sends(compute)
        arrays = 2 - sends if self._fused(compute) else 3 + 2 * sends
        return compute.width * model.d_model * arrays * self._rows(model, compute)

    def _way(self, compute: Compute) -> str:
        return choose_experts(compute.experts, compute.platform)

    def _fused(self, compute: Compute) -> bool:
        """Whether the layer is rematerialised so that the compiler schedules which of its rows exist at once."""
        return self._way(compute) in GROUPED and compute.remat != "none"

    def _sends(self, compute: Compute) -> bool:
        """Whether rows travel to the devices of their experts."""
        return compute.expert > 1 and choose_transport(compute.transport, compute.platform) != "gather"

    def _rows(self, model: TransformerShape, compute: Compute) -> float:
        """Rows that a device allocates per token of its own: with an exchange the most that can arrive, else all
        pairs of all tokens that it gathers."""
        if not self._sends(compute):
            return compute.expert * self.experts * self.share(model)
        here = self.experts / compute.expert
        return compute.expert * min(here * self.slots(model.context) / model.context, self.each or here, here)

    def check_compute(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> None:
        choose_experts(compute.experts, compute.platform)
        choose_transport(compute.transport, compute.platform)

    def products(self, model: TransformerShape) -> int:
        return (2 if model.gated else 1) * self.shared * self.width(model)
