"""Position encodings: rotary, sinusoidal and ALiBi (learned positions are a table in the transformer)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from scaling.families.rope import Rope
from scaling.families.rope_scaling import RopeScaling, frequencies


def rope_tables(
    length: int, width: int, theta: float, scaling: RopeScaling | None = None, context: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """cos and sin [length, width/2] of position · theta^(−2i/width) (Su et al. 2021, 2104.09864), or of the scaled
    frequencies. context: of the model, for `scaling`; `length` if None."""
    if scaling is None:
        frequency = frequencies(theta, width)
    else:
        frequency = scaling.frequencies(theta, width, context or length)
    angle = np.arange(length)[:, None] * frequency  # float64 keeps positions exact at any length
    return jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)


def rotate(x_BxLxHxd: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate pairs of every head's features by their position's angle; tables are [L, pairs] or [B, L, pairs].

    Features i and i + pairs form a pair (LLaMA's half layout); features from 2·pairs on stay unchanged.
    """
    cos, sin = cos[..., None, :], sin[..., None, :]
    turning = 2 * cos.shape[-1]
    x1, x2 = jnp.split(x_BxLxHxd[..., :turning].astype(jnp.float32), 2, -1)
    turned = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1).astype(x_BxLxHxd.dtype)
    return turned if turning == x_BxLxHxd.shape[-1] else jnp.concatenate([turned, x_BxLxHxd[..., turning:]], -1)


def query_scale(rope: Rope, context: int, positions: jax.Array | None) -> jax.Array | float | None:
    """The factor on a layer's queries in addition to 1/√d: [L, 1, 1] or [B, L, 1, 1] for `positions` [L] or [B, L],
    one number, or None for 1. context: of the model."""
    factor = 1.0 if rope.scaling is None else rope.scaling.magnitude(context) ** 2  # of queries and of keys at once
    if rope.temperature is None or positions is None:
        return None if factor == 1 else factor
    grown = jnp.log1p((positions + 1) // rope.temperature.floor)
    return (factor * (1 + rope.temperature.scale * grown))[..., None, None]


def sinusoids(length: int, d_model: int) -> jax.Array:
    """[length, d_model]: sin at even features, cos at odd ones (Vaswani et al. 2017, section 3.5)."""
    feature = np.arange(d_model)
    angle = np.arange(length)[:, None] / 10_000 ** (feature // 2 * 2 / d_model)
    return jnp.asarray(np.where(feature % 2, np.cos(angle), np.sin(angle)), jnp.float32)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Slope of each head's linear bias: 2^(−8i/heads), i from 1 (Press et al. 2021, 2108.12409, section 3).

    If the number of heads is not a power of two: the slopes for the next lower power, then every other slope for the
    next higher one, as in the authors' code.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    extra = [2 ** (-4 * i / power) for i in range(1, 2 * power, 2)]
    return tuple(slopes + extra[: heads - power])
