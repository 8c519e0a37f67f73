"""The interface of an objective: how a batch is made, what its sums are, and what its loss means."""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from scaling.errors import UserError
from scaling.families import Mask, ModelConfig
from scaling.frozen import Config

ABOVE_GUESSING = 1.5  # a loss 1.5 times that of uniform guessing means divergence


class Batch(NamedTuple):
    """Windows of a step, as a pytree of NumPy or JAX arrays."""

    tokens_BxL: Any
    """int32, the model's input"""
    targets_BxL: Any
    """int32, the token to predict at each position"""
    weights_BxL: Any
    """float32, the weight of a target in the loss; 0 for what is not predicted, such as padding"""
    marks_BxL: Any = None
    """int32 marks of a mask that depends on the text: 1 in the prefix and 0 after it, or the number of a token's
    document in its window; None for other masks"""


class Windows(Protocol):
    """The source of training batches: windows of text as a function of (seed, step), see `data.Batches`."""

    seed: int
    batch_size: int

    def windows(self, step: int, start: int, stop: int) -> np.ndarray:
        """[stop − start, L + 1] small integers: rows of the batch of a step."""


class Objective(Config):
    """How a run learns from its text. An objective is a subclass with a line in `OBJECTIVES`."""

    UNIT: ClassVar[str]
    """unit of the loss, reported with it"""
    MASK: ClassVar[Mask]
    """the attention mask, unless keys of the objective change it"""
    EXTRA_TOKENS: ClassVar[int] = 0
    """number of embedding rows that it needs in addition to the tokenizer's: the last ones of `model.vocab`"""
    LIKELIHOOD: ClassVar[bool]
    """whether exp(−loss) is a probability of the text or a lower bound of one, so that bits per byte compare"""
    REFERENCE: ClassVar[bool] = False
    """whether its sums use `model.reference`, the run that this one started from, at the cost of a forward pass"""

    kind: Any = None

    @property
    def name(self) -> str:
        """Its kind, also if the key is unset."""
        return str(self.kind)

    @property
    def mask(self) -> Mask:
        """The attention mask."""
        return self.MASK

    def targets(self, tokens: int, context: int) -> int:
        """Mean number of targets among `tokens` read in training, in windows of `context`."""
        return tokens

    def limit(self, vocab: int) -> float:
        """A loss that a healthy run stays below after its first steps."""
        return ABOVE_GUESSING * math.log(vocab)

    def rows(self, source: Windows, model: ModelConfig, step: int, start: int, stop: int) -> Any:
        """Rows start … stop−1 of the batch of a step, as a tree of NumPy arrays [rows, …] to send to a device."""
        raise NotImplementedError

    def batch(self, rows: Any) -> Batch:
        """The batch on the device, from the result of `rows`. Traced."""
        raise NotImplementedError

    def count(self, batch: Batch) -> Any:
        """The divisor of a batch's sums, a float32 scalar: the total weight of its targets. Traced."""
        import jax.numpy as jnp

        return jnp.maximum(jnp.sum(batch.weights_BxL), 1.0)

    def sums(self, model: Any, batch: Batch, key: Any) -> Any:
        """`models.LossSums` of a part of a batch. Traced.

        model: bound, see `models.LanguageModel`; `model.reference` is None if the run keeps none. key: for dropout,
        or None.
        """
        return model.loss_sums(*batch, dropout_key=key)

    def held_out(self, batch: Batch, index: int, model: ModelConfig) -> Iterator[Batch]:
        """The predictions for a batch of the held-out split: one batch, or several to average.

        batch: NumPy arrays, tokens and the token that follows each; weight 0 is padding. index: of the batch in the
        split. The loss is Σ weight · −log p(target) over the resulting batches, divided by their number and by the
        weight of `batch`.
        """
        raise NotImplementedError

    def continued(self, prompt: np.ndarray) -> tuple[np.ndarray, int]:
        """The marks of the tokens of a prompt [L], and the mark of the tokens generated after it: see `Batch`.

        Raises UserError for an objective that does not generate in order.
        """
        raise UserError(
            f"objective.kind={self.name} does not train a model to continue a text; next_token and prefix do"
        )

    def spec(self, model: ModelConfig, batch_size: int, context: int, dtype: Any) -> Any:
        """`rows` of a whole batch of `context` zeros per window, for shapes and dtypes. dtype: of stored tokens."""
        return self.rows(_Blank(batch_size, context, dtype), model, 0, 0, batch_size)


class _Blank:
    """Windows of zeros."""

    def __init__(self, batch_size: int, context: int, dtype: Any):
        self.seed, self.batch_size, self._context, self._dtype = 0, batch_size, context, dtype

    def windows(self, step: int, start: int, stop: int) -> np.ndarray:
        return np.broadcast_to(np.zeros((), self._dtype), (stop - start, self._context + 1))
