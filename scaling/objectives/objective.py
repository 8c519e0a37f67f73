"""What every objective is: how a batch is made, what its sums are, and what its loss means."""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from scaling.errors import UserError
from scaling.families import Mask, ModelConfig
from scaling.frozen import Config

ABOVE_GUESSING = 1.5  # a loss half again what guessing every token alike would cost is no learning


class Batch(NamedTuple):
    """Windows of a step; a pytree of arrays of NumPy or JAX."""

    tokens_BxL: Any
    """int32, what the model reads"""
    targets_BxL: Any
    """int32, what it is to predict at each place"""
    weights_BxL: Any
    """float32, what a target counts: 1, or 0 for padding"""
    marks_BxL: Any = None
    """int32, what a mask is made of that depends on the text: 1 in the prefix and 0 behind it, or the number of a
    token's document in its window; None for the others"""


class Windows(Protocol):
    """Where training batches come from: windows of text as a function of (seed, step), see `data.Batches`."""

    seed: int
    batch_size: int

    def windows(self, step: int, start: int, stop: int) -> np.ndarray:
        """[stop − start, L + 1] small integers: rows of the batch of a step."""


class Objective(Config):
    """How a run learns from its text. An objective is a subclass with a line in `OBJECTIVES`."""

    UNIT: ClassVar[str]
    """of the loss, as it is told beside it"""
    MASK: ClassVar[Mask]
    """the keys that attention lets a query see, unless its own keys say otherwise"""
    EXTRA_TOKENS: ClassVar[int] = 0
    """rows of the embedding that it needs beside the tokenizer's: the last ones of `model.vocab`"""
    LIKELIHOOD: ClassVar[bool]
    """whether exp(−loss) is a probability of the text, or less than one, so that bits per byte compare"""
    REFERENCE: ClassVar[bool] = False
    """whether its sums read `model.reference`, the run that this one began with: one more forward pass"""

    kind: Any = None

    @property
    def name(self) -> str:
        """Its kind, said also where that is unset."""
        return str(self.kind)

    @property
    def mask(self) -> Mask:
        """The keys that attention lets a query see."""
        return self.MASK

    def targets(self, tokens: int, context: int) -> int:
        """Predictions that count among `tokens` read in training in windows of `context`, on average."""
        return tokens

    def limit(self, vocab: int) -> float:
        """A loss that a healthy run stays below after its first steps."""
        return ABOVE_GUESSING * math.log(vocab)

    def rows(self, source: Windows, model: ModelConfig, step: int, start: int, stop: int) -> Any:
        """Rows start … stop−1 of the batch of a step, as a tree of NumPy arrays [rows, …]: what goes to a device."""
        raise NotImplementedError

    def batch(self, rows: Any) -> Batch:
        """The batch on the device, of what `rows` gave. Traced."""
        raise NotImplementedError

    def count(self, batch: Batch) -> Any:
        """What the sums of a batch are divided by, a float32 scalar: the weight of its targets. Traced."""
        import jax.numpy as jnp

        return jnp.maximum(jnp.sum(batch.weights_BxL), 1.0)

    def sums(self, model: Any, batch: Batch, key: Any) -> Any:
        """`models.LossSums` of a part of a batch. Traced.

        model: bound, see `models.LanguageModel`; `model.reference` is None where the run keeps none. key: for
        dropout, or None.
        """
        return model.loss_sums(*batch, dropout_key=key)

    def held_out(self, batch: Batch, index: int, model: ModelConfig) -> Iterator[Batch]:
        """What is predicted of a batch of the held-out split: one batch, or several that are averaged.

        batch: NumPy arrays, tokens and the token that follows each; weight 0 is padding. index: of the batch in the
        split. The loss is Σ weight · −log p(target) over the batches, divided by their number and by the weight of
        `batch`.
        """
        raise NotImplementedError

    def continued(self, prompt: np.ndarray) -> tuple[np.ndarray, int]:
        """The mark of every token of a prompt [L], and that of the tokens which are written behind it: see `Batch`.

        Raises UserError for an objective that gives no order to write in.
        """
        raise UserError(
            f"objective.kind={self.name} does not teach a model to go on with a text; next_token and prefix do"
        )

    def spec(self, model: ModelConfig, batch_size: int, context: int, dtype: Any) -> Any:
        """`rows` of a whole batch of windows of `context` zeros, for shapes and dtypes. dtype: of stored tokens."""
        return self.rows(_Blank(batch_size, context, dtype), model, 0, 0, batch_size)


class _Blank:
    """Windows without any text."""

    def __init__(self, batch_size: int, context: int, dtype: Any):
        self.seed, self.batch_size, self._context, self._dtype = 0, batch_size, context, dtype

    def windows(self, step: int, start: int, stop: int) -> np.ndarray:
        return np.broadcast_to(np.zeros((), self._dtype), (stop - start, self._context + 1))
