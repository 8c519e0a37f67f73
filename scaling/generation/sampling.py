"""Sampling the next token from its logits: composed filters over logits, and a draw."""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from scaling.errors import UserError

TEMPERATURES = 1e-30, 1e30
"""the range of temperatures by which logits of any size can be divided in float32"""


@dataclass(frozen=True)
class Sampling:
    """The sampling distribution: the model's at a temperature, then with the filters that are set, in order."""

    temperature: float = 1.0
    """logits are divided by it; 0: always the likeliest token"""
    top_k: int | None = None
    """only the k likeliest tokens"""
    top_p: float | None = None
    """only the likeliest tokens that together reach probability p (nucleus sampling, Holtzman et al. 2020)"""
    min_p: float | None = None
    """only tokens at least this many times as likely as the likeliest (Nguyen et al. 2024, 2407.01082)"""

    def check(self, vocab: int) -> None:
        """Raises UserError for a number out of range. vocab: number of tokens to draw from."""
        least, most = TEMPERATURES
        for name in ("temperature", "top_k", "top_p", "min_p"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real | None):
                raise UserError(f"{name}={value!r}: should be a number")
        if not (self.temperature == 0 or least <= self.temperature <= most):
            raise UserError(
                f"temperature={self.temperature:g}: should be 0 (always the likeliest token) or {least:g} to {most:g}"
            )
        if self.top_k is not None and not (is_whole(self.top_k) and 1 <= self.top_k <= vocab):
            raise UserError(f"top_k={self.top_k}: should be 1 to {vocab}, the size of the vocabulary, or unset")
        for name in ("top_p", "min_p"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise UserError(f"{name}={share:g}: should be above 0 and at most 1, or unset")

    def __call__(self, logits: jax.Array) -> jax.Array:
        """float32 logits [..., V] of the sampling distribution; −∞ for tokens that are never drawn."""
        if self.temperature == 0:
            return greedy(logits)
        logits = logits / self.temperature
        logits = logits if self.top_k is None else top_k(logits, int(self.top_k))
        logits = logits if self.top_p in (None, 1) else top_p(logits, self.top_p)
        return logits if self.min_p is None else min_p(logits, self.min_p)


def is_whole(value: Any) -> bool:
    """Whether it is an integer or a float without a fraction."""
    return isinstance(value, Real) and not isinstance(value, bool) and value % 1 == 0


def draw(sampling: Sampling, logits_BxV: jax.Array, key_B: jax.Array) -> jax.Array:
    """A token for each row, [B] int32, drawn with the row's key."""
    return jax.vmap(jax.random.categorical)(key_B, sampling(logits_BxV)).astype(jnp.int32)


def greedy(logits: jax.Array) -> jax.Array:
    """Only the likeliest token, the first one in case of ties."""
    first = jnp.argmax(logits, -1, keepdims=True)
    return jnp.where(jnp.arange(logits.shape[-1]) == first, 0.0, -jnp.inf)


def top_k(logits: jax.Array, k: int) -> jax.Array:
    """Only the k likeliest tokens, and any that are as likely as the last of them."""
    return _at_least(logits, jax.lax.top_k(logits, k)[0][..., -1:])


def top_p(logits: jax.Array, p: float) -> jax.Array:
    """Only the smallest set of likeliest tokens that reaches probability p, and any as likely as the last of them."""
    sorted_ = -jnp.sort(-logits, -1)
    probs = jax.nn.softmax(sorted_, -1)
    needed = (jnp.cumsum(probs, -1) - probs < p).at[..., 0].set(True)  # in case p rounds to 0 in float32
    return _at_least(logits, jnp.min(jnp.where(needed, sorted_, jnp.inf), -1, keepdims=True))


def min_p(logits: jax.Array, p: float) -> jax.Array:
    """Only tokens at least p times as likely as the likeliest."""
    return _at_least(logits, jnp.max(logits, -1, keepdims=True) + math.log(p))


def _at_least(logits: jax.Array, least: jax.Array) -> jax.Array:
    return jnp.where(logits >= least, logits, -jnp.inf)
