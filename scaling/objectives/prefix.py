"""Predicting each token behind a prefix that is read as a whole."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from scaling.families import Mask, ModelConfig
from scaling.objectives.draws import random
from scaling.objectives.objective import Batch, Objective, Windows

TRAINING, HELD_OUT = 1, 2  # streams of random numbers


class Prefix(Objective):
    """The prefix language model: tokens of the prefix see one another, those behind it all before them, and only what
    lies behind it is predicted (Raffel et al. 2020, 1910.10683, section 3.2.3; Wang et al. 2022, 2204.05832).

    Of the L tokens that a window reads the first p are the prefix, p uniform on 0 … L − 1. The loss is the mean over
    what is predicted: the last L of the window's L + 1 tokens less those within the prefix.
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
        """One prefix of each window, the same for every model; every window counts alike, whatever is left of it."""
        part = behind(batch, 0, HELD_OUT, index * len(batch.tokens_BxL))
        real_Bx1, left_Bx1 = (x.weights_BxL.sum(-1, keepdims=True) for x in (batch, part))
        yield part._replace(weights_BxL=part.weights_BxL * real_Bx1 / np.maximum(left_Bx1, 1))


def behind(batch: Batch, seed: int, stream: int, first: int) -> Batch:
    """`batch` with a prefix for each window, whose own targets weigh nothing. first: number of its first window.

    A token of the prefix has seen the next one of it; the last one has not seen what follows. Of a window that ends
    in padding the prefix is shorter than what is real.
    """
    rows, length = batch.tokens_BxL.shape
    real_Bx1 = np.maximum((batch.weights_BxL > 0).sum(-1, keepdims=True), 1).astype(np.uint64)
    prefix_Bx1 = (random(seed, stream, first, (rows, 1)) % real_Bx1).astype(np.int32)
    place_L = np.arange(length)
    told_BxL = place_L + 1 < prefix_Bx1
    return batch._replace(
        weights_BxL=np.where(told_BxL, 0, batch.weights_BxL).astype(np.float32),
        marks_BxL=(place_L < prefix_Bx1).astype(np.int32),
    )
