"""Hyper-parameters that follow the size of a run: published rules, each with the range it was fitted on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from scaling.frozen import Config

WORDS = {"n_params": "N", "n_non_embedding": "non-embedding N", "tokens": "D", "flops_deepseek": "C"}


@dataclass(frozen=True)
class Size:
    """Inputs of rules. The last two are 0 until they are set: the batch size comes first, then the learning rate."""

    n_params: float
    """total parameters"""
    n_non_embedding: float
    """parameters without embeddings, positions and an untied head"""
    tokens: float
    """training tokens D, repeats included"""
    flops_deepseek: float
    """training FLOPs C = M·D, M the non-embedding FLOPs per token of DeepSeek LLM (2401.02954, eq. 2)"""
    d_model: int
    batch_tokens: int = 0
    """tokens of a batch"""
    learning_rate: float = 0.0
    """peak of the schedule"""


class Rule(Config, ABC):
    """A hyper-parameter as a function of a run's size."""

    sets: ClassVar[str]
    """the key of a run's configuration that it sets"""
    source: ClassVar[str]
    """source of the formula"""
    fitted: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """range of each quantity that it was fitted on, by its name in Size"""
    factor: float = Field(default=1.0, gt=0)
    """factor on the rule's value"""

    @abstractmethod
    def value(self, size: Size) -> float:
        """The hyper-parameter of a run of this size."""

    @property
    def name(self) -> str:
        """The `kind` that each rule has."""
        return str(self.model_dump()["kind"])

    def told(self) -> str:
        """The rule with its numbers, as text; equal texts mean equal rules."""
        numbers = self.model_dump(mode="json", exclude={"kind"})
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in numbers.items())})"

    def outside(self, sizes: Sequence[Size]) -> str | None:
        """A line that says where `sizes` leave the rule's fitted range; None where they do not."""
        parts = []
        for name, (low, high) in self.fitted.items():
            found = [getattr(size, name) for size in sizes]
            if min(found) < low or max(found) > high:
                parts.append(
                    f"{WORDS[name]} {low:.3g} to {high:.3g}, but these runs have {min(found):.3g} to {max(found):.3g}"
                )
        return f"was fitted on {'; on '.join(parts)} ({self.source})" if parts else None


class RateRule(Rule):
    """Peak of the learning rate."""

    sets: ClassVar[str] = "optimizer.learning_rate"


class FixedRate(RateRule):
    """The same learning rate at every size."""

    source: ClassVar[str] = "a choice"
    kind: Literal["fixed"]
    learning_rate: float = Field(gt=0)
    """peak of every run"""

    def value(self, size: Size) -> float:
        return self.factor * self.learning_rate


class WidthRule(RateRule):
    """learning_rate · (d_model / width)^exponent.

    exponent −1: required by hidden matrices under Adam for updates whose size does not depend on the width (Yang et
    al. 2022, 2203.03466, table 3). exponent −0.5: 1/√d_model of the original transformer (Vaswani et al. 2017,
    1706.03762, eq. 3).
    """

    source: ClassVar[str] = (
        "Yang et al. 2022, 2203.03466, table 3 (-1); Vaswani et al. 2017, 1706.03762, eq. 3 (-0.5)"
    )
    kind: Literal["width"]
    width: int = Field(ge=1)
    """d_model at which learning_rate was found"""
    learning_rate: float = Field(gt=0)
    """at d_model = width"""
    exponent: float = Field(default=-1.0, ge=-10, le=10)
    """power of the width in the rule"""

    def value(self, size: Size) -> float:
        return self.factor * self.learning_rate * (size.d_model / self.width) ** self.exponent


class DeepSeekRate(RateRule):
    """0.3118·C^−0.1250, C = M·D in FLOPs, M the non-embedding FLOPs per token (Bi et al. 2024, 2401.02954, eq. 1).

    Found with AdamW (β₂ 0.95, decay 0.1), a multi-step schedule and batches by `DeepSeekBatch`.
    """

    source: ClassVar[str] = "Bi et al. 2024, 2401.02954, section 3.1"
    fitted: ClassVar[Mapping[str, tuple[float, float]]] = {"flops_deepseek": (1e17, 2e19)}
    kind: Literal["deepseek"]

    def value(self, size: Size) -> float:
        return self.factor * 0.3118 * size.flops_deepseek**-0.1250


class StepLawRate(RateRule):
    """1.79·N^−0.713·D^0.307, N without embeddings, D in tokens (Li et al. 2025, 2503.04715, eq. 1).

    Found with AdamW (β₂ 0.95, decay 0.1), a cosine that ends at 1e-5 whatever its peak, and batches by
    `StepLawBatch`.
    """

    source: ClassVar[str] = "Li et al. 2025, 2503.04715"
    fitted: ClassVar[Mapping[str, tuple[float, float]]] = {"n_non_embedding": (6e7, 1.1e9), "tokens": (2e9, 1e11)}
    kind: Literal["step_law"]

    def value(self, size: Size) -> float:
        return self.factor * 1.79 * size.n_non_embedding**-0.713 * size.tokens**0.307


class BatchRule(Rule):
    """Tokens of a batch."""

    sets: ClassVar[str] = "batch_size"
    multiple: int = Field(default=1, ge=1)
    """the number of windows in a batch is a multiple of this"""

    def windows(self, size: Size, context: int) -> int:
        """The nearest whole number of windows of `context` tokens, a multiple of `multiple` and at least that."""
        return self.multiple * max(1, round(self.value(size) / (context * self.multiple)))


class FixedBatch(BatchRule):
    """The same number of tokens at every size and context."""

    source: ClassVar[str] = "a choice"
    kind: Literal["fixed"]
    tokens: float = Field(gt=0)
    """of a batch"""

    def value(self, size: Size) -> float:
        return self.factor * self.tokens


class DeepSeekBatch(BatchRule):
    """0.2920·C^0.3271 tokens, C as in `DeepSeekRate` (Bi et al. 2024, 2401.02954, eq. 1)."""

    source: ClassVar[str] = "Bi et al. 2024, 2401.02954, section 3.1"
    fitted: ClassVar[Mapping[str, tuple[float, float]]] = {"flops_deepseek": (1e17, 2e19)}
    kind: Literal["deepseek"]

    def value(self, size: Size) -> float:
        return self.factor * 0.2920 * size.flops_deepseek**0.3271


class StepLawBatch(BatchRule):
    """0.58·D^0.571 tokens (Li et al. 2025, 2503.04715, eq. 1)."""

    source: ClassVar[str] = "Li et al. 2025, 2503.04715"
    fitted: ClassVar[Mapping[str, tuple[float, float]]] = {"tokens": (2e9, 1e11)}
    kind: Literal["step_law"]

    def value(self, size: Size) -> float:
        return self.factor * 0.58 * size.tokens**0.571


class PowerLinesBatch(BatchRule):
    """0.0306·D^0.383 sequences of 2048 tokens, the batch of least loss at N and D (Bergsma et al. 2025, 2505.13738,
    figure 1)."""

    source: ClassVar[str] = "Bergsma et al. 2025, 2505.13738"
    fitted: ClassVar[Mapping[str, tuple[float, float]]] = {"n_params": (1.11e8, 3.3e9)}
    kind: Literal["power_lines"]

    def value(self, size: Size) -> float:
        return self.factor * 2048 * 0.0306 * size.tokens**0.383


class DecayRule(Rule):
    """Weight decay."""

    sets: ClassVar[str] = "optimizer.weight_decay"


class FixedDecay(DecayRule):
    """The same weight decay at every size."""

    source: ClassVar[str] = "a choice"
    kind: Literal["fixed"]
    weight_decay: float = Field(ge=0)
    """of every run"""

    def value(self, size: Size) -> float:
        return self.factor * self.weight_decay


class PowerLinesDecay(DecayRule):
    """λ = B/(η·D·τ) with τ = 1.084·(D/N)^−0.527, the share of the run over which AdamW's weights remember
    (Bergsma et al. 2025, 2505.13738, eq. 2 and figure 1): B tokens per batch, η the peak learning rate, N total
    parameters.

    λ is multiplied by the learning rate in the update, as in this framework's optimizers. τ stays the same where a
    run is tried at several learning rates.
    """

    source: ClassVar[str] = "Bergsma et al. 2025, 2505.13738"
    fitted: ClassVar[Mapping[str, tuple[float, float]]] = {"n_params": (1.11e8, 3.3e9)}
    kind: Literal["power_lines"]

    def value(self, size: Size) -> float:
        tau = 1.084 * (size.tokens / size.n_params) ** -0.527
        return self.factor * size.batch_tokens / (size.learning_rate * size.tokens * tau)


RateRules = FixedRate | WidthRule | DeepSeekRate | StepLawRate
BatchRules = FixedBatch | DeepSeekBatch | StepLawBatch | PowerLinesBatch
DecayRules = FixedDecay | PowerLinesDecay


class TuningConfig(Config):
    """Hyper-parameters that every run of the design is tried with."""

    learning_rate: tuple[PositiveFloat, ...] = Field(min_length=1)
    """factors on the learning rate that the run would have; fits use the best of each point"""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len(set(self.learning_rate)) < len(self.learning_rate):
            raise ValueError(f"learning_rate lists a factor twice: {', '.join(f'{f:g}' for f in self.learning_rate)}")
        return self
