"""The two parts of a transformer's layer: a mixer over positions and a feed-forward part. What each must say."""

from collections.abc import Iterator, Sequence
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
    """names of the sums that its forward pass adds to the training loss, such as a router's balance"""
    METRICS: ClassVar[tuple[str, ...]] = ()
    """names of what is logged of each of its layers, such as how even a router's load is"""

    def check(self, model: TransformerShape) -> None:
        """Raises ValueError where it does not fit the model."""

    def check_shared(self, model: TransformerShape, asked: str, tensor: int, context: int) -> None:
        """As of a model."""

    def check_compute(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> None:
        """As of a model, in a layer with this mask."""

    @property
    def masks(self) -> tuple[Mask, ...]:
        """What it can be trained with."""
        return get_args(Mask)

    @property
    def whole_windows(self) -> str:
        """What of it needs every window whole on one device; empty where devices can share one along its length."""
        return ""

    @property
    def reads_counts(self) -> bool:
        """Whether its forward pass in training reads its own `counts` of the whole batch, as a `state`: zeros where
        what it is given is the whole batch."""
        return False

    @property
    def random(self) -> bool:
        """Whether it draws random numbers in training beside those of dropout."""
        return False

    def facts(self, model: TransformerShape) -> dict[str, float]:
        """What a run's record says of it beside its keys, such as the experts of a layer."""
        return {}

    def counts(self, model: TransformerShape) -> dict[str, tuple[int, ...]]:
        """Shapes of the sums over tokens that its forward pass tells in one layer, beside those of the loss: what its
        metrics and its state are made of, such as the tokens of each expert."""
        return {}

    def tensors(self, model: TransformerShape) -> Iterator[Tensor]:
        """Its parameters in one layer, paths from the part on."""
        raise NotImplementedError

    def activations(self, model: TransformerShape, compute: Compute, mask: AttentionMask) -> float:
        """Bytes for each token that its backward pass reads in one layer, of what tensor shards divide."""
        raise NotImplementedError

    def working(self, model: TransformerShape, compute: Compute) -> float:
        """Bytes for each token that the backward pass of one layer fills beside what it reads; of most parts few."""
        return 0.0

    def products(self, model: TransformerShape) -> int:
        """Numbers for each token that come out of its products, those into the residual stream left out: what
        `remat: dots` keeps."""
        raise NotImplementedError

    def cache(self, model: TransformerShape, places: int) -> Cache:
        """What one layer of it carries from token to token, none where it works on each token by itself.

        places: tokens that its queries may look back on, themselves included. Raises UserError where it cannot go on
        with a text token by token.
        """
        return {}

    def written(self, model: TransformerShape) -> str:
        """What is otherwise in a text that is written token by token than in a window of training; empty: nothing."""
        return ""


class Mixer(BlockPart):
    """What lets positions see each other."""

    def rope_width(self, model: TransformerShape) -> int:
        """Features that rotary positions turn together: the width of the tables in its `LayerContext`."""
        return model.d_head

    def extra_flops(
        self, model: TransformerShape, masks: Sequence[AttentionMask], keys: VisibleKeys | None
    ) -> ExtraFlops:
        """Of all its layers together. masks: of each of them. keys: as in `accounting.flops_per_token`."""
        return ExtraFlops()

    def cache(self, model: TransformerShape, places: int) -> Cache:
        raise UserError(f"model.mixer: {self!r} does not say what it carries from token to token")


class FeedForward(BlockPart):
    """What works on each position by itself."""
