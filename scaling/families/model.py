"""What every family of models is: its sizes, and what follows from them without JAX."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from scaling.errors import UserError
from scaling.families.declare import Tensor
from scaling.families.ladder import LadderConfig
from scaling.families.width_transfer import STANDARD, MupConfig, WidthTransfer
from scaling.frozen import LAYERS, MANY, Config

Mask = Literal["causal", "full", "prefix", "document"]
"""the keys that a query may see: those up to its own position; all of the window; those up to its own position and
all of the prefix; those up to its own position that are of its document"""
VisibleKeys = float | Callable[[Any, int], float]
"""keys that a query is multiplied with: on average in every layer, or by each one's `AttentionMask` and the tokens of
a window"""
FLOAT32 = 4  # bytes
TRAINING = 3  # forward and backward: each product has two gradients, each a product of the same size


@dataclass(frozen=True)
class Staged:
    """Layers in a row that a pipeline's stages compute; those before and behind are at its ends."""

    first: int
    """layer that they begin with"""
    size: int
    """layers of a run"""
    runs: int

    @property
    def end(self) -> int:
        """Layer after the last of them."""
        return self.first + self.size * self.runs


@dataclass(frozen=True)
class Compute:
    """How a run computes, as far as its memory depends on it."""

    platform: str
    """cpu, gpu or tpu"""
    dtype: str
    """float32 or bfloat16"""
    attention: str
    """as `placement.attention` asks"""
    remat: str
    tensor: int
    """devices that share each matrix"""
    mask: Mask
    experts: str = "auto"
    """as `placement.experts` asks"""
    transport: str = "auto"
    """as `placement.transport` asks"""
    expert: int = 1
    """devices that share the experts of a layer"""
    context: str = "auto"
    """as `placement.context` asks"""
    sequence: int = 1
    """devices that share each window along its length"""
    offload: bool = False
    """what layers keep is on the host"""
    passes: float = 1.0
    """microbatches that layers keep something of at a time: those of a pipeline over the stages that it has"""
    staged: Staged | None = None
    """layers that a pipeline's stages have, of each of which there is one's copy beside what they keep"""
    at_ends: float = 0.0
    """microbatches that those keep something of that are in no stage"""

    @property
    def width(self) -> int:
        """Bytes of a number at the compute precision."""
        return 4 if self.dtype == "float32" else 2


@dataclass(frozen=True)
class ExtraFlops:
    """Training FLOPs per token of products with no parameter in them."""

    exact: dict[str, float] = field(default_factory=dict)
    """by item of the ledger, over the keys that the mask lets a query see"""
    full_context: float = 0.0
    """the same over all keys of the window, as published conventions count them"""
    softmax: float = 0.0
    """3 per score over all keys, which one convention counts"""

    def __add__(self, other: "ExtraFlops") -> "ExtraFlops":
        items = {name: self.exact.get(name, 0.0) + value for name, value in other.exact.items()}
        return ExtraFlops(self.exact | items, self.full_context + other.full_context, self.softmax + other.softmax)

    def __mul__(self, times: float) -> "ExtraFlops":
        items = {name: value * times for name, value in self.exact.items()}
        return ExtraFlops(items, self.full_context * times, self.softmax * times)


class ModelConfig(Config):
    """One model. Sizes are in units (not bytes). A family is a subclass with a line in `FAMILIES`."""

    PARTS: ClassVar[tuple[str, ...]] = ("embedding", "head")
    """what parameters count as, in the order in which they are told"""
    ITEMS: ClassVar[tuple[str, ...]] = ("head",)
    """of the FLOP ledger, in the order in which they are told"""
    SIZES: ClassVar[tuple[str, ...]] = ("layers", "d_model")
    """keys that a ladder sets"""
    INNER: ClassVar[str] = "d_ff"
    """the one of them that takes up what is left of a target"""
    MASKS: ClassVar[tuple[Mask, ...]] = ("causal",)
    """what the family can be trained with"""
    REMAT: ClassVar[tuple[str, ...]] = ("none", "dots", "full")
    """values of `placement.remat` that its backward pass knows"""
    OFFLOAD: ClassVar[tuple[str, ...]] = ()
    """those of them with which what is kept can be on the host, `placement.offload_activations`"""
    MODULE: ClassVar[str]
    """`module:class` of the forward pass, imported when used"""

    kind: Any = None
    vocab: int = Field(ge=2, le=MANY)
    """rows of the embedding, padding rows included"""
    context: int = Field(ge=1, le=MANY)
    """tokens a window predicts, the length the model is trained at"""
    layers: int = Field(ge=1, le=LAYERS)
    """blocks, one on the other"""
    d_model: int = Field(ge=1, le=MANY)
    """width of the residual stream"""

    tied: bool = True
    """one matrix serves as embedding and as head"""
    logit_softcap: float | None = Field(default=None, gt=0)
    """logits become cap·tanh(logits/cap) (Gemma 2, 2408.00118)"""
    z_loss: float = Field(default=0.0, ge=0)
    """weight of mean(log Z²) added to the training loss (PaLM, 2204.02311 section 5)"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """share of the activations that are set to 0 in training"""

    @property
    def label(self) -> str:
        """What the ids of its runs begin with."""
        return f"L{self.layers}-d{self.d_model}"

    @property
    def transfer(self) -> WidthTransfer:
        """Its size relative to the base that its hyper-parameters were chosen at."""
        return STANDARD

    @property
    def base(self) -> MupConfig | None:
        """The shape that its hyper-parameters were chosen at, where rates follow from it."""
        return None

    @property
    def carries(self) -> bool:
        """Whether its held-out loss is measured with the state that the text before a window has left."""
        return False

    @property
    def masks(self) -> tuple[Mask, ...]:
        """What it can be trained with."""
        return self.MASKS

    @property
    def whole_windows(self) -> str:
        """What of it needs every window whole on one device; empty where devices can share one along its length."""
        return f"a model of kind {self.kind}"

    def staged(self, runs: int) -> Staged | None:
        """Its layers as the stages of a pipeline take them in so many runs alike; None where it has not as many."""
        return None

    def outside(self, staged: Staged) -> Mapping[str, tuple[float, float]]:
        """By the first key of their parameters which share of its layers comes before the stages, and behind them."""
        return {}

    @property
    def written(self) -> tuple[str, ...]:
        """What is otherwise in a text that is written token by token than in a window of training."""
        return ()

    @property
    def most_runs(self) -> int:
        """Runs of layers, one on the other, that differ in their parameters alone, as many as it has."""
        return 1

    @property
    def reads_counts(self) -> bool:
        """Whether its forward pass in training reads what it counts of the whole batch."""
        return False

    @property
    def random(self) -> bool:
        """Whether its forward pass draws random numbers in training."""
        return self.dropout > 0

    def check_context(self, context: int) -> None:
        """Raises ValueError where its parts cannot be trained with windows of so many tokens."""

    def check_shared(self, asked: str, tensor: int, context: int) -> None:
        """Raises ValueError where so many devices along `tensor` and `context` cannot share a window as
        `placement.context` asks."""

    def check_compute(self, compute: Compute) -> None:
        """Raises UserError where a way to compute that is asked for cannot be taken."""

    def check_mask(self, mask: Mask) -> None:
        """Raises ValueError where its own keys do not fit what an objective lets attention see."""

    def tensors(self) -> Iterator[Tensor]:
        """Every array of parameters. They are drawn in this order, which so decides what a seed begins with."""
        raise NotImplementedError

    def extra_flops(self, mask: Mask, keys: VisibleKeys | None = None) -> ExtraFlops:
        """What its declaration does not say of its FLOPs. keys: as in `accounting.flops_per_token`."""
        return ExtraFlops()

    def computed_again(self, compute: Compute) -> int:
        """Of `activations` what is there only while a layer's backward pass computes it again."""
        return 0

    def activations(self, compute: Compute) -> int:
        """Bytes for each token of a microbatch: what all layers keep, and what one layer computes again."""
        raise NotImplementedError

    def offloaded(self, compute: Compute) -> int:
        """Bytes for each token of what is brought to the host until the backward pass."""
        return 0

    def cache(self, length: int) -> Any:
        """A tree of `Cached`: what it carries from token to token, for texts of up to `length` tokens.

        Raises UserError where it cannot go on with a text token by token, or not that far.
        """
        raise UserError(f"model.kind={self.kind}: this family does not say what it carries from token to token")

    def positions(self, marks_L: np.ndarray) -> np.ndarray:
        """Positions of the tokens of a text, of which an objective says the marks."""
        return np.arange(len(marks_L))

    def visible_keys(self, mask: Mask) -> float | None:
        """Keys that a query sees, the mean over positions and layers; None where the family has no attention."""
        return None

    def shape(self) -> dict[str, Any]:
        """Sizes and their ratios, for a plan."""
        return {key: getattr(self, key) for key in (*self.SIZES, "vocab", "context")} | {
            "aspect": self.d_model / self.layers
        }

    @classmethod
    def step_of_layers(cls, base: Mapping[str, Any]) -> int:
        """Layers by which a ladder over `base` grows."""
        return 1

    @classmethod
    def least_layers(cls, base: Mapping[str, Any]) -> int:
        """Layers that a ladder over `base` begins with."""
        return cls.step_of_layers(base)

    @classmethod
    def step_of_inner(cls, base: Mapping[str, Any]) -> int:
        """What the inner width of a ladder's models over `base` is a multiple of."""
        return 1

    @classmethod
    def sized(
        cls, ladder: LadderConfig, base: Mapping[str, Any], pair: tuple[int, int], inner: int
    ) -> dict[str, int]:
        """SIZES of the ladder's model of (layers, d_model). inner: the width that takes up the rest of a target, a
        multiple of `ladder.ff_multiple` near `ladder.ff_ratio` · d_model."""
        raise NotImplementedError

    @property
    def inner(self) -> int:
        """The value of the key INNER."""
        size: int = getattr(self, self.INNER)
        return size

    @property
    def facts(self) -> dict[str, float]:
        """What a run's record says of the model beside its keys."""
        return {}

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the sums that the model adds to the training loss."""
        return ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what else it measures in a step."""
        return ()

    @property
    def counts(self) -> dict[str, Any]:
        """Shapes of the sums over tokens that its forward pass tells beside those of the loss, as a tree."""
        return {}
