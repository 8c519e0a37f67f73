"""Predicting each token after a prefix with full attention."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from scaling.families import Mask, ModelConfig
from scaling.objectives.draws import random
from scaling.objectives.objective import Batch, Objective, Windows

TRAINING, HELD_OUT = 1, 2  # streams of random numbers


class Prefix(Objective):
    """The prefix language model: tokens of the prefix see each other, later tokens see all before them, and only the
    latter are predicted (Raffel et al. 2020, 1910.10683, section 3.2.3; Wang et al. 2022, 2204.05832).

    Of the L input tokens of a window the first p are the prefix, with p uniform on 0 … L − 1. The loss is the mean
    over the predicted tokens: the last L of the window's L + 1 tokens without those in the prefix.
    """

    UNIT: ClassVar[str] = "nats per token behind a prefix"
    MASK: ClassVar[Mask] = "prefix"
    LIKELIHOOD: ClassVar[bool] = False

    kind: Literal["prefix"] = "prefix"

    def targets(self, tokens: int, context: int) -> int:
        return tokens - tokens * (context - 1) * (context - 2) // (2 * context * context)

    def rows(self, source: Windows, model: ModelConfig, step: int, start: int, stop: int) -> Batch:
        text_BxL1 = source.windows(step, start, stop).astype(np.int32)
        first = step * source.batch_size + start
        weights_BxL = np.ones(text_BxL1[:, 1:].shape, np.float32)
        return behind(Batch(text_BxL1[:, :-1], text_BxL1[:, 1:], weights_BxL), source.seed, TRAINING, first)

    def batch(self, rows: Batch) -> Batch:
        return rows

    def continued(self, prompt: np.ndarray) -> tuple[np.ndarray, int]:
        """The prompt is the prefix."""
        return np.ones(len(prompt), np.int32), 0

    def held_out(self, batch: Batch, index: int, model: ModelConfig) -> Iterator[Batch]:
        """One prefix per window, the same for every model; all windows weigh the same, however few targets remain."""
        part = behind(batch, 0, HELD_OUT, index * len(batch.tokens_BxL))
        real_Bx1, left_Bx1 = (x.weights_BxL.sum(-1, keepdims=True) for x in (batch, part))
        yield part._replace(weights_BxL=part.weights_BxL * real_Bx1 / np.maximum(left_Bx1, 1))


def behind(batch: Batch, seed: int, stream: int, first: int) -> Batch:
    """`batch` with a prefix in each window, whose tokens are no targets. first: number of the batch's first window.

    A token in the prefix has seen the next token of it, except the last one, so that one predicts what follows. In a
    window that ends in padding the prefix is shorter than the real text.
    """
    rows, length = batch.tokens_BxL.shape
    real_Bx1 = np.maximum((batch.weights_BxL > 0).sum(-1, keepdims=True), 1).astype(np.uint64)
    prefix_Bx1 = (random(seed, stream, first, (rows, 1)) % real_Bx1).astype(np.int32)
    place_L = np.arange(length)
    inside_BxL = place_L + 1 < prefix_Bx1
    return batch._replace(
        weights_BxL=np.where(inside_BxL, 0, batch.weights_BxL).astype(np.float32),
        marks_BxL=(place_L < prefix_Bx1).astype(np.int32),
    )
