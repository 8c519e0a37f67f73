"""Mixture of experts: a feed-forward part of which each token meets a few, as its parameters, FLOPs and memory."""

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from scaling.families.block import FeedForward
from scaling.families.declare import Tensor, vector
from scaling.families.mlp import KEEPS, mlp
from scaling.families.model import FLOAT32, Compute
from scaling.families.shape import TransformerShape


class MoE(FeedForward):
    """A router that sends each token to `top_k` of `experts` MLPs of the model's activation and adds up what they
    say, weighted by its scores.

    Routing, and what it adds to the loss, is within each window: so neither a mesh nor microbatches change it.
    """

    MODULE: ClassVar[str] = "scaling.models.moe:MoE"
    LOSSES: ClassVar[tuple[str, ...]] = ("router_balance", "router_z")
    METRICS: ClassVar[tuple[str, ...]] = ("load_entropy", "load_violation", "router_confidence", "idle_experts")

    kind: Literal["moe"]
    experts: int = Field(ge=2)
    top_k: int = Field(default=1, ge=1)
    """experts that a token meets, the shared ones not among them"""
    d_ff: int | None = Field(default=None, ge=1)
    """hidden width of an expert; unset: model.d_ff / granularity"""
    granularity: int | None = Field(default=None, ge=1)
    """G = model.d_ff / the expert's width (Krajewski et al. 2024, 2402.07871); unset: 1"""
    shared: int = Field(default=0, ge=0)
    """experts that every token meets, as one MLP so many times as wide (DeepSeekMoE, 2401.06066)"""
    scores: Literal["softmax", "sigmoid"] = "softmax"
    """of a token for each expert: all together one, or each by itself (DeepSeek-V3, 2412.19437)"""
    normalise: bool = False
    """divide the scores of the chosen experts by their sum (Mixtral, DeepSeek-V3)"""
    scale: float = Field(default=1.0, gt=0)
    """times the weights of the chosen experts"""
    groups: int | None = Field(default=None, ge=2)
    """groups of neighbouring experts, of which a token's come from `top_groups` alone (DeepSeek-V2, 2405.04434)"""
    top_groups: int | None = Field(default=None, ge=1)
    balance: float = Field(default=0.01, ge=0)
    """weight of the load-balance loss, experts · Σ share of tokens · mean score (Switch, 2101.03961, eq. 4)"""
    z_loss: float = Field(default=0.0, ge=0)
    """weight of the mean squared log Z of the router (ST-MoE, 2202.08906, eq. 5)"""
    balance_rate: float = Field(default=0.0, ge=0)
    """step by which an expert's bias, which only chooses, rises where it got too few tokens and falls where it got
    too many (2408.15664); 0: no biases"""
    router_bias: bool = False
    """a bias in the router's scores, with a gradient"""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k={self.top_k} is more than experts={self.experts}")
        if self.d_ff is not None and self.granularity is not None:
            raise ValueError(f"d_ff={self.d_ff} and granularity={self.granularity} both say how wide an expert is")
        if self.normalise and self.top_k == 1:
            raise ValueError("normalise: with top_k=1 every weight would be 1 and the router would learn nothing")
        if (self.groups is None) != (self.top_groups is None):
            raise ValueError("groups and top_groups are set together")
        if self.groups is not None and self.top_groups is not None:
            if self.experts % self.groups:
                allowed = [g for g in range(2, self.experts + 1) if self.experts % g == 0]
                raise ValueError(
                    f"experts={self.experts} is not divisible by groups={self.groups}; allowed: {allowed}"
                )
            if not self.top_k <= self.top_groups * (self.experts // self.groups) or self.top_groups > self.groups:
                raise ValueError(
                    f"top_groups={self.top_groups} of {self.groups} groups of {self.experts // self.groups} experts "
                    f"cannot hold top_k={self.top_k}"
                )
        return self

    def check(self, model: TransformerShape) -> None:
        if self.granularity is not None and model.d_ff % self.granularity:
            allowed = [g for g in range(1, model.d_ff + 1) if model.d_ff % g == 0]
            raise ValueError(
                f"feed_forward.granularity={self.granularity} does not divide d_ff={model.d_ff}; allowed: {allowed}"
            )

    def width(self, model: TransformerShape) -> int:
        """Hidden width of an expert."""
        return self.d_ff if self.d_ff is not None else model.d_ff // (self.granularity or 1)

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        D, E, share = model.d_model, self.experts, self.top_k / self.experts
        yield Tensor(
            ("router", "kernel"), "router", (D, E), ("embed", "experts"), "hidden",
            inputs=1, std=model.matrix_std(D), decay=True, uses=(("router", 1.0),),
        )  # fmt: skip
        if self.router_bias:
            yield vector(("router", "bias"), "router", E, "experts")
        if self.balance_rate:
            yield Tensor(("balance",), "router", (E,), ("experts",), "vector", state=True)
        for tensor in mlp(model, self.width(model), "experts"):
            uses = tuple((item, times * share) for item, times in tensor.uses)
            yield replace(tensor.stack("experts", E, "experts"), uses=uses, active=share)
        if self.shared:
            for tensor in mlp(model, self.shared * self.width(model), "shared"):
                yield replace(tensor, path=("shared", *tensor.path))

    def facts(self, model: TransformerShape) -> dict[str, float]:
        granularity = model.d_ff / self.width(model)
        return {"experts": self.experts, "top_k": self.top_k, "shared": self.shared, "granularity": granularity}

    def counts(self, model: TransformerShape) -> dict[str, tuple[int, ...]]:
        return {"tokens": (self.experts,), "confidence": ()}

    def activations(self, model: TransformerShape, compute: Compute, window: int) -> float:
        met, F = self.top_k, self.width(model)
        copies = compute.width * 2 * met * model.d_model  # what goes to the experts and what comes back
        inner = compute.width * KEEPS[model.activation] * (met + self.shared) * F
        return inner + copies + FLOAT32 * 3 * self.experts

    def products(self, model: TransformerShape) -> int:
        return (2 if model.gated else 1) * self.shared * self.width(model)
