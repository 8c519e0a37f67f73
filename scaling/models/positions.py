"""Positions: rotary, sinusoidal and ALiBi (learned positions are a table of the transformer's own)."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def rope_tables(length: int, d_head: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """cos and sin [length, d_head/2] of position · theta^(−2i/d_head) (Su et al. 2021, 2104.09864)."""
    frequency = theta ** (-np.arange(0, d_head, 2) / d_head)
    angle = np.arange(length)[:, None] * frequency  # float64: exact positions at any length
    return jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)


def rotate(x_BxLxHxd: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turn the pairs (x[i], x[i + d/2]) of every head by its position's angle (the half layout of LLaMA).

    cos, sin: [L, d/2], or [B, L, d/2].
    """
    cos, sin = cos[..., None, :], sin[..., None, :]
    x1, x2 = jnp.split(x_BxLxHxd.astype(jnp.float32), 2, -1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x_BxLxHxd.dtype)


def sinusoids(length: int, d_model: int) -> jax.Array:
    """[length, d_model]: sin at even features, cos at odd ones (Vaswani et al. 2017, section 3.5)."""
    feature = np.arange(d_model)
    angle = np.arange(length)[:, None] / 10_000 ** (feature // 2 * 2 / d_model)
    return jnp.asarray(np.where(feature % 2, np.cos(angle), np.sin(angle)), jnp.float32)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Slope of each head's linear bias: 2^(−8i/heads), i from 1 (Press et al. 2021, 2108.12409, section 3).

    For a number of heads that is no power of two: the slopes of the power below it, then every other slope of the
    power above it, as in the authors' code.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    extra = [2 ** (-4 * i / power) for i in range(1, 2 * power, 2)]
    return tuple(slopes + extra[: heads - power])
