"""Predicting masked tokens from the other tokens of their window, at uniformly distributed masking rates."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from scaling.families import Mask, ModelConfig
from scaling.objectives.draws import random
from scaling.objectives.objective import Batch, Objective, Windows

DRAWS = 4
"""masks drawn for each held-out window: of the variance between windows of the standard library's bytes, one draw
accounts for half, and four spread over the rates for an eighth"""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio: any consecutive multiples are evenly spread
PLACES, RATES, HELD_OUT = 1, 2, 3  # streams of random numbers


class Masked(Objective):
    """An encoder trained to fill in masked tokens: the masked-diffusion, or any-order, language model.

    Of the L tokens of a window k are masked, with k uniform on 1 … L and positions drawn at random; the loss is the
    mean of −log p(token | unmasked tokens) over them. Its expectation over k and positions is the mean over all
    orders of −log p of the window, predicted token by token in that order, divided by L. This is an upper bound of
    −log p of the text, and equal to it if the conditionals are those of one distribution (Uria et al. 2014,
    1310.1757, eq. 8; Hoogeboom et al. 2022, 2110.02037, eq. 5).

    It is the loss of masked diffusion, where a rate t ~ U(0, 1] masks each token independently and each target has
    weight 1/t (Nie et al. 2025, 2502.09992, eq. 3), with less noise. There k is uniform on 0 … L, and given the mask
    1/t has the mean (L+1)/k and, for k = 1, no finite variance. Here a target has weight L/k, no window is empty, and
    the loss of a window is a mean, never more than that of its worst token: over a trained model's windows, two
    thirds of the variance.
    """

    UNIT: ClassVar[str] = "nats per token, upper bound"
    MASK: ClassVar[Mask] = "full"
    EXTRA_TOKENS: ClassVar[int] = 1
    """the mask token, the last row of the embedding"""
    LIKELIHOOD: ClassVar[bool] = True

    kind: Literal["masked"] = "masked"

    def targets(self, tokens: int, context: int) -> int:
        return tokens * (context + 1) // (2 * context)

    def rows(self, source: Windows, model: ModelConfig, step: int, start: int, stop: int) -> Batch:
        """The rate of the n-th row of a run is the n-th multiple of the golden ratio plus an offset from the seed:
        each rate is uniform, and the rates within a batch and across consecutive batches are evenly spread (a
        Kronecker sequence with a random shift; Cranley and Patterson 1976)."""
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
        """The number of all tokens, masked or not, which is the sum of the weights."""
        return np.float32(batch.weights_BxL.size)

    def held_out(self, batch: Batch, index: int, model: ModelConfig) -> Iterator[Batch]:
        """DRAWS masks of each window, the same for every model, at equally spaced rates from a random start.

        Starts differ between windows, so that windows are independent and the error from the draws is included in
        the variance between windows.
        """
        text_BxL, real_BxL = batch.targets_BxL, batch.weights_BxL > 0
        rows, length = text_BxL.shape
        random_BxR = random(0, HELD_OUT, index * rows, (rows, 1 + DRAWS * length))
        for draw in range(DRAWS):
            rate_B = random_BxR[:, 0] + np.uint64(draw * 2**64 // DRAWS)
            masked_BxL = choose(real_BxL, rate_B, random_BxR[:, 1 + draw * length :][:, :length])
            yield corrupt(text_BxL, real_BxL, masked_BxL, model.vocab - 1)


def choose(real_BxL: np.ndarray, rate_B: np.ndarray, random_BxL: np.ndarray) -> np.ndarray:
    """Which positions are masked, bool [B, L]: of a window's n real ones the 1 + ⌊n · rate⌋ with the smallest draws.

    rate_B: uint64, in units of 2⁻⁶⁴. random_BxL: uint64.
    """
    shift = np.uint64(32)  # n · rate in integer arithmetic, with rates to 32 bits
    count_B = ((rate_B >> shift) * real_BxL.sum(-1, dtype=np.uint64)) >> shift
    drawn_BxL = np.where(real_BxL, random_BxL, np.iinfo(np.uint64).max)
    most_Bx1 = np.take_along_axis(np.sort(drawn_BxL, -1), count_B[:, None].astype(np.int64), -1)
    masked_BxL: np.ndarray = real_BxL & (drawn_BxL <= most_Bx1)
    return masked_BxL


def corrupt(text_BxL: np.ndarray, real_BxL: np.ndarray, masked_BxL: np.ndarray, mask_token: int) -> Batch:
    """The batch for predicting the masked tokens of a text; padding (at the end of the last window) is hidden as well
    and is no target."""
    tokens_BxL = np.where(real_BxL & ~masked_BxL, text_BxL, mask_token).astype(np.int32)
    weight_Bx1 = real_BxL.sum(-1, keepdims=True) / np.maximum(masked_BxL.sum(-1, keepdims=True), 1)
    return Batch(tokens_BxL, text_BxL, (masked_BxL * weight_Bx1).astype(np.float32))
