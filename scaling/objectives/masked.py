"""Predicting tokens that are masked, at every rate alike, from all others of their window."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from scaling.families import Mask, ModelConfig
from scaling.objectives.draws import random
from scaling.objectives.objective import Batch, Objective, Windows

DRAWS = 4
"""masks of each held-out window: of the variance between windows of the standard library's bytes, one draw is half,
and four spread over the rates are an eighth"""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio: its multiples lie evenly, wherever one begins and ends
PLACES, RATES, HELD_OUT = 1, 2, 3  # streams of random numbers


class Masked(Objective):
    """An encoder, trained to fill in what is masked: the masked diffusion, or any-order, language model.

    Of the L tokens of a window k are masked, k uniform on 1 … L and the places drawn at random; the loss is the mean
    of −log p(token | tokens that are left) over them. Its mean over k and places is the mean over all orders of
    −log p of the window, read token by token in that order, divided by L: an upper bound of −log p of the text, and
    equal to it where the conditionals are those of one distribution (Uria et al. 2014, 1310.1757, eq. 8; Hoogeboom et
    al. 2022, 2110.02037, eq. 5).

    It is the loss of masked diffusion, where a rate t ~ U(0, 1] masks each token by itself and each target weighs 1/t
    (Nie et al. 2025, 2502.09992, eq. 3), with less noise. There k is uniform on 0 … L, and given the mask 1/t has the
    mean (L+1)/k and, where k is 1, no finite variance. Here a target weighs L/k, no window is empty, and the loss of
    each is a mean, never more than that of its worst token: over a trained model's windows, two thirds of the
    variance.
    """

    UNIT: ClassVar[str] = "nats per token, upper bound"
    MASK: ClassVar[Mask] = "full"
    EXTRA_TOKENS: ClassVar[int] = 1
    """the last row of the embedding is what stands in a masked place"""
    LIKELIHOOD: ClassVar[bool] = True

    kind: Literal["masked"] = "masked"

    def targets(self, tokens: int, context: int) -> int:
        return tokens * (context + 1) // (2 * context)

    def rows(self, source: Windows, model: ModelConfig, step: int, start: int, stop: int) -> Batch:
        """The n-th row of a run has its rate from the n-th multiple of the golden ratio, counted from a start by the
        seed: each rate is uniform, and those of a batch, as of several in a row, are spread evenly (a Kronecker
        sequence with a random shift; Cranley and Patterson 1976)."""
        first = step * source.batch_size + start
        text_BxL = source.windows(step, start, stop)[:, 1:].astype(np.int32)
        shift = random(source.seed, RATES, 0, (1, 1))[0]
        rate_B = shift + np.arange(first, first + len(text_BxL), dtype=np.uint64) * GOLDEN
        real_BxL = np.ones(text_BxL.shape, bool)
        masked_BxL = choose(real_BxL, rate_B, random(source.seed, PLACES, first, text_BxL.shape))
        return corrupt(text_BxL, real_BxL, masked_BxL, model.vocab - 1)

    def batch(self, rows: Batch) -> Batch:
        return rows

    def count(self, batch: Batch) -> Any:
        """All tokens, masked or not: what the weights of a window sum to."""
        return np.float32(batch.weights_BxL.size)

    def held_out(self, batch: Batch, index: int, model: ModelConfig) -> Iterator[Batch]:
        """DRAWS masks of each window, the same for every model, with rates an equal step apart from a start of its
        own on. So windows are independent, and what the draws add to the error of the loss is in how windows differ.
        """
        text_BxL, real_BxL = batch.targets_BxL, batch.weights_BxL > 0
        rows, length = text_BxL.shape
        random_BxR = random(0, HELD_OUT, index * rows, (rows, 1 + DRAWS * length))
        for draw in range(DRAWS):
            rate_B = random_BxR[:, 0] + np.uint64(draw * 2**64 // DRAWS)
            masked_BxL = choose(real_BxL, rate_B, random_BxR[:, 1 + draw * length :][:, :length])
            yield corrupt(text_BxL, real_BxL, masked_BxL, model.vocab - 1)


def choose(real_BxL: np.ndarray, rate_B: np.ndarray, random_BxL: np.ndarray) -> np.ndarray:
    """Which places are masked, bool [B, L]: of the n real ones of a window 1 + ⌊n · rate⌋, those that drew least.

    rate_B: uint64, in units of 2⁻⁶⁴. random_BxL: uint64.
    """
    shift = np.uint64(32)  # n · rate in whole numbers: rates are read to 32 bits
    count_B = ((rate_B >> shift) * real_BxL.sum(-1, dtype=np.uint64)) >> shift
    drawn_BxL = np.where(real_BxL, random_BxL, np.iinfo(np.uint64).max)
    most_Bx1 = np.take_along_axis(np.sort(drawn_BxL, -1), count_B[:, None].astype(np.int64), -1)
    masked_BxL: np.ndarray = real_BxL & (drawn_BxL <= most_Bx1)
    return masked_BxL


def corrupt(text_BxL: np.ndarray, real_BxL: np.ndarray, masked_BxL: np.ndarray, mask_token: int) -> Batch:
    """The batch in which the masked tokens of a text are to be predicted; what is not real (the end of the last
    window) is hidden as well, and no target."""
    tokens_BxL = np.where(real_BxL & ~masked_BxL, text_BxL, mask_token).astype(np.int32)
    weight_Bx1 = real_BxL.sum(-1, keepdims=True) / np.maximum(masked_BxL.sum(-1, keepdims=True), 1)
    return Batch(tokens_BxL, text_BxL, (masked_BxL * weight_Bx1).astype(np.float32))
