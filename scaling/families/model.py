"""The interface of a model family: its sizes, and what follows from them without JAX."""

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
"""the keys that a query may see: causal: those up to its own position; full: all of the window; prefix: those up to
its own position and all of the prefix; document: those of its document up to its own position"""
VisibleKeys = float | Callable[[Any, int], float]
"""mean number of keys per query: one number for every layer, or a function of a layer's `AttentionMask` and the
tokens of a window"""
FLOAT32 = 4  # bytes
TRAINING = 3  # forward and backward: each product has two gradients of the same cost


@dataclass(frozen=True)
class Staged:
    """Consecutive layers that a pipeline's stages compute; layers before and after them are at its ends."""

    first: int
    """index of the first of these layers"""
    size: int
    """layers per chunk"""
    runs: int
    """number of chunks"""

    @property
    def end(self) -> int:
        """Index after the last of these layers."""
        return self.first + self.size * self.runs


@dataclass(frozen=True)
class Compute:
    """How a run computes, as far as it affects memory."""

    platform: str
    """cpu, gpu or tpu"""
    dtype: str
    """float32 or bfloat16"""
    attention: str
    """value of `placement.attention`"""
    remat: str
    tensor: int
    """number of devices that share each matrix"""
    mask: Mask
    experts: str = "auto"
    """value of `placement.experts`"""
    transport: str = "auto"
    """value of `placement.transport`"""
    expert: int = 1
    """number of devices that share the experts of a layer"""
    context: str = "auto"
    """value of `placement.context`"""
    sequence: int = 1
    """number of devices that share each window along its length"""
    offload: bool = False
    """whether saved activations of layers are on the host"""
    passes: float = 1.0
    """microbatches whose activations layers keep at once: those of a pipeline over its number of stages"""
    staged: Staged | None = None
    """layers in a pipeline's stages; beside what they keep there is a copy of one layer's activations"""
    at_ends: float = 0.0
    """microbatches whose activations are kept by layers outside the stages"""

    @property
    def width(self) -> int:
        """Bytes of a number at the compute precision."""
        return 4 if self.dtype == "float32" else 2


@dataclass(frozen=True)
class ExtraFlops:
    """Training FLOPs per token of products that involve no parameters."""

    exact: dict[str, float] = field(default_factory=dict)
    """by item of the ledger, over the keys visible under the mask"""
    full_context: float = 0.0
    """the same over all keys of the window, as counted by published conventions"""
    softmax: float = 0.0
    """3 per score over all keys, as counted by one convention"""

    def __add__(self, other: "ExtraFlops") -> "ExtraFlops":
        items = {name: self.exact.get(name, 0.0) + value for name, value in other.exact.items()}
        return ExtraFlops(self.exact | items, self.full_context + other.full_context, self.softmax + other.softmax)

    def __mul__(self, times: float) -> "ExtraFlops":
        items = {name: value * times for name, value in self.exact.items()}
        return ExtraFlops(items, self.full_context * times, self.softmax * times)


class ModelConfig(Config):
    """A model. Sizes are numbers of elements, not bytes. A family is a subclass with a line in `FAMILIES`."""

    PARTS: ClassVar[tuple[str, ...]] = ("embedding", "head")
    """categories of parameters, in the order in which they are reported"""
    ITEMS: ClassVar[tuple[str, ...]] = ("head",)
    """items of the FLOP ledger, in the order in which they are reported"""
    SIZES: ClassVar[tuple[str, ...]] = ("layers", "d_model")
    """keys that a ladder sets"""
    INNER: ClassVar[str] = "d_ff"
    """the one of these keys that a ladder adjusts to hit a target"""
    MASKS: ClassVar[tuple[Mask, ...]] = ("causal",)
    """masks that the family can be trained with"""
    REMAT: ClassVar[tuple[str, ...]] = ("none", "dots", "full")
    """values of `placement.remat` that its backward pass supports"""
    OFFLOAD: ClassVar[tuple[str, ...]] = ()
    """those of them that support `placement.offload_activations`"""
    MODULE: ClassVar[str]
    """`module:class` of the forward pass, imported when used"""

    kind: Any = None
    vocab: int = Field(ge=2, le=MANY)
    """rows of the embedding, padding rows included"""
    context: int = Field(ge=1, le=MANY)
    """tokens predicted per window, the length that the model is trained at"""
    layers: int = Field(ge=1, le=LAYERS)
    """number of stacked blocks"""
    d_model: int = Field(ge=1, le=MANY)
    """width of the residual stream"""

    tied: bool = True
    """one matrix serves as embedding and as head"""
    logit_softcap: float | None = Field(default=None, gt=0)
    """logits become cap·tanh(logits/cap) (Gemma 2, 2408.00118)"""
    z_loss: float = Field(default=0.0, ge=0)
    """weight of mean(log Z²) added to the training loss (PaLM, 2204.02311 section 5)"""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """share of activations set to 0 in training"""

    @property
    def label(self) -> str:
        """The prefix of the ids of its runs."""
        return f"L{self.layers}-d{self.d_model}"

    @property
    def transfer(self) -> WidthTransfer:
        """Its width relative to the base at which its hyper-parameters were tuned."""
        return STANDARD

    @property
    def base(self) -> MupConfig | None:
        """The shape at which its hyper-parameters were tuned, if rates are transferred from it."""
        return None

    @property
    def carries(self) -> bool:
        """Whether its held-out loss is measured with recurrent state carried over from the preceding text."""
        return False

    @property
    def masks(self) -> tuple[Mask, ...]:
        """Masks that it can be trained with."""
        return self.MASKS

    @property
    def whole_windows(self) -> str:
        """What requires every window to be whole on one device; empty if windows can be split along their length."""
        return f"a model of kind {self.kind}"

    def staged(self, runs: int) -> Staged | None:
        """Its layers divided into `runs` identical chunks for the stages of a pipeline; None if it has too few."""
        return None

    def outside(self, staged: Staged) -> Mapping[str, tuple[float, float]]:
        """Shares of the layers before and after the stages, by the first key of their parameters."""
        return {}

    @property
    def written(self) -> tuple[str, ...]:
        """Notes on how generation, token by token, differs from a training window."""
        return ()

    @property
    def free(self) -> Mapping[str, str]:
        """What it does without a matrix product, though other models use one: an item of the FLOP ledger, which is 0,
        with the reason."""
        return {}

    @property
    def most_runs(self) -> int:
        """Largest number of consecutive chunks of layers that differ only in their parameters."""
        return 1

    @property
    def reads_counts(self) -> bool:
        """Whether its forward pass in training reads its own counts over the whole batch."""
        return False

    @property
    def random(self) -> bool:
        """Whether its forward pass draws random numbers in training."""
        return self.dropout > 0

    def check_context(self, context: int) -> None:
        """Raises ValueError if its parts cannot be trained with windows of `context` tokens."""

    def check_shared(self, requested: str, tensor: int, context: int) -> None:
        """Raises ValueError if this many devices along `tensor` and `context` cannot share a window in the way that
        `placement.context` (`requested`) specifies."""

    def check_compute(self, compute: Compute) -> None:
        """Raises UserError if a requested implementation is not available."""

    def check_mask(self, mask: Mask) -> None:
        """Raises ValueError if its own keys do not fit an objective's attention mask."""

    def tensors(self) -> Iterator[Tensor]:
        """All parameter arrays. They are drawn in this order, so it affects the initial values of a seed."""
        raise NotImplementedError

    def extra_flops(self, mask: Mask, keys: VisibleKeys | None = None) -> ExtraFlops:
        """FLOPs that do not follow from its declarations. keys: as in `accounting.flops_per_token`."""
        return ExtraFlops()

    def computed_again(self, compute: Compute) -> int:
        """The part of `activations` that exists only while a layer's backward pass recomputes it."""
        return 0

    def activations(self, compute: Compute) -> int:
        """Bytes per token of a microbatch: what all layers keep, and what one layer recomputes."""
        raise NotImplementedError

    def offloaded(self, compute: Compute) -> int:
        """Bytes per token of activations that are on the host until the backward pass."""
        return 0

    def cache(self, length: int) -> Any:
        """A tree of `Cached`: the cache for generating texts of up to `length` tokens.

        Raises UserError if the model cannot generate token by token, or not that far.
        """
        raise UserError(f"model.kind={self.kind}: this family defines no cache, so it cannot generate text")

    def positions(self, marks_L: np.ndarray) -> np.ndarray:
        """Positions of the tokens of a text with the marks of an objective."""
        return np.arange(len(marks_L))

    def visible_keys(self, mask: Mask) -> float | None:
        """Mean number of keys that a query sees, over positions and layers; None if there is no attention."""
        return None

    def shape(self) -> dict[str, Any]:
        """Sizes and ratios, for a plan."""
        return {key: getattr(self, key) for key in (*self.SIZES, "vocab", "context")} | {
            "aspect": self.d_model / self.layers
        }

    @classmethod
    def step_of_layers(cls, base: Mapping[str, Any]) -> int:
        """Step in the number of layers of a ladder over `base`."""
        return 1

    @classmethod
    def least_layers(cls, base: Mapping[str, Any]) -> int:
        """Smallest number of layers in a ladder over `base`."""
        return cls.step_of_layers(base)

    @classmethod
    def step_of_inner(cls, base: Mapping[str, Any]) -> int:
        """Number of which the inner width in a ladder over `base` must be a multiple."""
        return 1

    @classmethod
    def sized(
        cls, ladder: LadderConfig, base: Mapping[str, Any], pair: tuple[int, int], inner: int
    ) -> dict[str, int]:
        """SIZES of the ladder's model with these (layers, d_model). inner: the width adjusted to hit the target, a
        multiple of `ladder.ff_multiple` near `ladder.ff_ratio` · d_model."""
        raise NotImplementedError

    @property
    def inner(self) -> int:
        """The value of the key INNER."""
        size: int = getattr(self, self.INNER)
        return size

    @property
    def facts(self) -> dict[str, float]:
        """Facts about the model in a run's record, in addition to its keys."""
        return {}

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the model's auxiliary losses."""
        return ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the model's other metrics of a step."""
        return ()

    @property
    def counts(self) -> dict[str, Any]:
        """Shapes of the sums over tokens that its forward pass returns besides those of the loss, as a tree."""
        return {}
