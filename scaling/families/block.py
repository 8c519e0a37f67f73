"""The interfaces of the two parts of a transformer's layer: a mixer over positions and a feed-forward part."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, get_args

from scaling.errors import UserError
from scaling.families.attention_mask import AttentionMask
from scaling.families.cache import Cache
from scaling.families.declare import Tensor
from scaling.families.model import Compute, ExtraFlops, Mask, VisibleKeys
from scaling.families.shape import TransformerShape
from scaling.frozen import Config


class BlockPart(Config):
    """One part of a layer. Its own keys are those of `model.mixer` or `model.feed_forward`."""

    MODULE: ClassVar[str]
    """`module:class` of its forward pass, imported when used"""
    LOSSES: ClassVar[tuple[str, ...]] = ()
    """names of its auxiliary losses, such as a router's balance"""
    METRICS: ClassVar[tuple[str, ...]] = ()
    """names of metrics logged for each of its layers, such as how even a router's load is"""

    FREE: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """as `ModelConfig.free`"""

    def check(self, model: TransformerShape) -> None:
        """Raises ValueError if it does not fit the model."""

    def check_shared(self, model: TransformerShape, requested: str, tensor: int, context: int) -> None:
        """As `ModelConfig.check_shared`."""

    def check_compute(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> None:
        """As `ModelConfig.check_compute`, in a layer with this mask."""

    @property
    def masks(self) -> tuple[Mask, ...]:
        """Masks that it can be trained with."""
        return get_args(Mask)

    @property
    def whole_windows(self) -> str:
        """What requires every window to be whole on one device; empty if windows can be split along their length."""
        return ""

    @property
    def reads_counts(self) -> bool:
        """Whether its forward pass in training reads its own `counts` of the whole batch from a `state`, which is
        zeros if it is applied to the whole batch."""
        return False

    @property
    def random(self) -> bool:
        """Whether it draws random numbers in training besides those of dropout."""
        return False

    def facts(self, model: TransformerShape) -> dict[str, float]:
        """Facts about it in a run's record, in addition to its keys, such as the experts of a layer."""
        return {}

    def counts(self, model: TransformerShape) -> dict[str, tuple[int, ...]]:
        """Shapes of the sums over tokens that its forward pass returns in one layer besides the losses: the inputs to
        its metrics and its state, such as the number of tokens of each expert."""
        return {}

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        """Its parameters in one layer, with paths relative to the part."""
        raise NotImplementedError

    def activations(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> float:
        """Bytes per token that its backward pass reads in one layer, before division by tensor shards."""
        raise NotImplementedError

    def working(self, model: TransformerShape, compute: Compute) -> float:
        """Bytes per token that the backward pass of one layer allocates besides what it reads; few for most parts."""
        return 0.0

    def products(self, model: TransformerShape) -> int:
        """Number of outputs per token of its matrix products, except those into the residual stream: what
        `remat: dots` keeps."""
        raise NotImplementedError

    def cache(self, model: TransformerShape, places: int) -> Cache:
        """The cache of one layer for generation, empty if it works on each token separately.

        places: number of tokens that its queries may see, themselves included. Raises UserError if it cannot generate
        token by token.
        """
        return {}

    def written(self, model: TransformerShape) -> str:
        """How generation, token by token, differs from a training window; empty if it does not."""
        return ""


class Mixer(BlockPart):
    """The part that mixes positions."""

    def rope_width(self, model: TransformerShape) -> int:
        """Number of features that RoPE rotates: the width of the tables in its `LayerContext`."""
        return model.d_head

    def extra_flops(
        self, model: TransformerShape, masks: Sequence[AttentionMask], keys: VisibleKeys | None
    ) -> ExtraFlops:
        """FLOPs of all its layers together. masks: of each of these. keys: as in `accounting.flops_per_token`."""
        return ExtraFlops()

    def cache(self, model: TransformerShape, places: int) -> Cache:
        raise UserError(f"model.mixer: {self!r} defines no cache, so it cannot generate text")


class FeedForward(BlockPart):
    """The part that works on each position separately."""
