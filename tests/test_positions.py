"""Positions against their papers' formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.models.positions import alibi_slopes, rope_tables, rotate, sinusoids


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_rope_multiplies_pairs_as_complex_numbers(theta: float) -> None:
    """Features i and i + d/2 are one complex number, turned by position · theta^(−2i/d)."""
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 50, 3, 8)), np.float64)
    turned = np.asarray(quick_jit(rotate)(jnp.asarray(x, jnp.float32), *rope_tables(50, 8, theta)))
    for position, i in np.ndindex(50, 4):
        pair = x[:, position, :, i] + 1j * x[:, position, :, i + 4]
        want = pair * np.exp(1j * position * theta ** (-2 * i / 8))
        np.testing.assert_allclose(turned[:, position, :, i], want.real, atol=1e-5)
        np.testing.assert_allclose(turned[:, position, :, i + 4], want.imag, atol=1e-5)


def test_rope_scores_depend_on_the_distance_only() -> None:
    q, k = jax.random.normal(jax.random.key(0), (2, 16))
    tables = rope_tables(40, 16, 100.0)
    turned_q, turned_k = (quick_jit(rotate)(jnp.broadcast_to(x, (1, 40, 1, 16)), *tables)[0, :, 0] for x in (q, k))
    scores = np.asarray(turned_q @ turned_k.T)
    for distance in (0, 3, 17):
        diagonal = np.diagonal(scores, -distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert np.ptp(scores[:, 0]) > 0.5  # and they do depend on it


def test_rope_angles_are_exact_far_out() -> None:
    cos, _ = rope_tables(100_001, 4, 10_000.0)
    assert float(cos[100_000, 0]) == pytest.approx(math.cos(100_000.0), abs=1e-6)


def test_sinusoids_are_those_of_the_paper() -> None:
    table = np.asarray(sinusoids(30, 6))
    for position, i in np.ndindex(30, 3):
        angle = position / 10_000 ** (2 * i / 6)
        assert table[position, 2 * i] == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[position, 2 * i + 1] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 16, 20])
def test_every_head_has_its_own_alibi_slope(heads: int) -> None:
    slopes = alibi_slopes(heads)
    assert len(set(slopes)) == heads
    assert all(0 < slope < 1 for slope in slopes)
