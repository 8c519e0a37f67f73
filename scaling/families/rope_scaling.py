"""RoPE scaling: how the frequencies of rotary positions are changed for a context longer than the original one."""

from math import ceil, floor, log, pi, sqrt
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from scaling.frozen import Config


def frequencies(theta: float, width: int) -> np.ndarray:
    """Radians per position for every pair of `width` features: θ^(−2i/width) (Su et al. 2021, 2104.09864)."""
    return theta ** (-np.arange(0, width, 2) / width)


class RopeScaling(Config):
    """A scaling method: a subclass with a line in `ROPE_SCALINGS`."""

    factor: float = Field(ge=1)
    """how many times longer the context is"""

    def check(self, width: int) -> None:
        """Raises ValueError if it does not fit `width` features."""

    def frequencies(self, theta: float, width: int, context: int) -> np.ndarray:
        """Radians per position for every pair of features, float64. context: of the model."""
        raise NotImplementedError

    def magnitude(self, context: int) -> float:
        """Factor on both queries and keys, so that scores are multiplied by its square."""
        return 1.0


class Linear(RopeScaling):
    """Position interpolation: every position divided by the factor (Chen et al. 2023, 2306.15595, eq. 4)."""

    kind: Literal["linear"]

    def frequencies(self, theta: float, width: int, context: int) -> np.ndarray:
        return frequencies(theta, width) / self.factor


class NTK(RopeScaling):
    """NTK-aware: θ is multiplied by factor^(d/(d − 2)), so that the slowest pair is interpolated and the fastest is
    unchanged (bloc97 2023; Peng et al. 2023, 2309.00071, eq. 16)."""

    kind: Literal["ntk"]

    def check(self, width: int) -> None:
        if width < 4:
            raise ValueError(f"rope.scaling of kind ntk needs at least 4 rotated features, got {width}")

    def frequencies(self, theta: float, width: int, context: int) -> np.ndarray:
        return frequencies(theta * self.factor ** (width / (width - 2)), width)


class YaRN(RopeScaling):
    """YaRN: pairs that turn often within the original context are unchanged, slow ones are interpolated, with a ramp
    in between; scores are scaled up (Peng et al. 2023, 2309.00071, section 3)."""

    kind: Literal["yarn"]
    original_context: int = Field(ge=1)
    """context that the model was originally trained for"""
    beta_fast: float = Field(default=32.0, gt=0)
    """turns within the original context from which on a pair is unchanged"""
    beta_slow: float = Field(default=1.0, gt=0)
    """turns within the original context below which a pair is interpolated"""
    ramp: Literal["exact", "turns"] | None = None
    """the ramp between the two; unset: linear in the index of the pair, between rounded indices as in the authors'
    code; exact: without rounding (gpt-oss); turns: linear in the number of turns, as in the paper (eq. 18)"""
    attention_factor: float | None = Field(default=None, gt=0)
    """the attention factor; unset: 0.1 · ln(factor) + 1 (eq. 22)"""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.beta_slow >= self.beta_fast:
            raise ValueError(
                f"beta_slow={self.beta_slow:g} should be less than beta_fast={self.beta_fast:g}, the turns from "
                "which on a pair is not scaled"
            )
        return self

    def frequencies(self, theta: float, width: int, context: int) -> np.ndarray:
        own = frequencies(theta, width)
        if self.ramp == "turns":
            turns = self.original_context * own / (2 * pi)
            stays: np.ndarray = (turns - self.beta_slow) / (self.beta_fast - self.beta_slow)
        else:
            first, last = (self._pair(turns, theta, width) for turns in (self.beta_fast, self.beta_slow))
            if self.ramp is None:
                first, last = floor(first), ceil(last)
            first, last = max(first, 0), min(last, width - 1)
            stays = 1 - (np.arange(width // 2) - first) / (max(last - first, 0) or 0.001)
        stays = np.clip(stays, 0, 1)
        return own * stays + own / self.factor * (1 - stays)

    def _pair(self, turns: float, theta: float, width: int) -> float:
        """The fractional index of the pair that makes this many turns within the original context."""
        return width * log(self.original_context / (2 * pi * turns)) / (2 * log(theta))

    def magnitude(self, context: int) -> float:
        return 0.1 * log(self.factor) + 1 if self.attention_factor is None else self.attention_factor


class Llama3(RopeScaling):
    """Llama 3.1's scaling: pairs of a short wavelength are unchanged, those of a long one are interpolated, and in
    between both are mixed by turns within the original context (Llama 3, 2407.21783; its published code)."""

    kind: Literal["llama3"]
    original_context: int = Field(ge=1)
    """context that the model was originally trained for"""
    low_freq_factor: float = Field(default=1.0, gt=0)
    """turns within the original context below which a pair is interpolated"""
    high_freq_factor: float = Field(default=4.0, gt=0)
    """turns within the original context above which a pair is unchanged"""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor:g} should be less than high_freq_factor="
                f"{self.high_freq_factor:g}: pairs are interpolated below the first and unchanged above the second"
            )
        return self

    def frequencies(self, theta: float, width: int, context: int) -> np.ndarray:
        own = frequencies(theta, width)
        turns = self.original_context * own / (2 * pi)
        stays = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return own * stays + own / self.factor * (1 - stays)


class LongRoPE(RopeScaling):
    """LongRoPE: every pair has its own factor, found by search, with one list for contexts up to the original one and
    one for longer contexts (Ding et al. 2024, 2402.13753; Phi-3, 2404.14219)."""

    kind: Literal["longrope"]
    original_context: int = Field(ge=2)
    """context that the model was originally trained for"""
    short_factor: tuple[float, ...]
    """divisor of each pair's frequency if `model.context` is at most the original context"""
    long_factor: tuple[float, ...]
    """divisor of each pair's frequency if `model.context` is longer"""
    attention_factor: float | None = Field(default=None, gt=0)
    """the attention factor; unset: √(1 + ln(factor) / ln(original_context))"""

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name in ("short_factor", "long_factor"):
            if wrong := [x for x in getattr(self, name) if x <= 0]:
                raise ValueError(f"{name} divides frequencies and must be positive, got {wrong[0]:g}")
        return self

    def check(self, width: int) -> None:
        for name in ("short_factor", "long_factor"):
            if (found := len(getattr(self, name))) != width // 2:
                raise ValueError(
                    f"rope.scaling.{name} has {found} numbers, but needs one for each of {width // 2} rotated pairs"
                )

    def frequencies(self, theta: float, width: int, context: int) -> np.ndarray:
        return frequencies(theta, width) / np.array(
            self.long_factor if context > self.original_context else self.short_factor
        )

    def magnitude(self, context: int) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return sqrt(1 + log(self.factor) / log(self.original_context))


ROPE_SCALINGS: dict[str, type[RopeScaling]] = {
    "linear": Linear,
    "ntk": NTK,
    "yarn": YaRN,
    "llama3": Llama3,
    "longrope": LongRoPE,
}
