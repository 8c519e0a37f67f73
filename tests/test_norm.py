"""Norms against NumPy in float64, value and gradients by finite differences."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.models.norm import layer_norm, rms_norm

EPS = 1e-3


def plain_rms(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * scale


def plain_layer(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return plain_rms(x - x.mean(-1, keepdims=True), scale, bias) + bias


@pytest.mark.parametrize(
    "norm, plain",
    [(lambda x, scale, bias: rms_norm(x, scale, EPS), plain_rms),
     (lambda x, scale, bias: layer_norm(x, scale, bias, EPS), plain_layer)],
    ids=["rmsnorm", "layernorm"],
)  # fmt: skip
@pytest.mark.parametrize("leading", [(3,), (2, 3), (2, 3, 4)], ids=str)
def test_value_and_gradients_are_those_of_the_formula(
    norm: Callable[..., Any], plain: Callable[..., np.ndarray], leading: tuple[int, ...]
) -> None:
    draw = np.random.default_rng(0)
    inputs = [draw.normal(size=shape) for shape in ((*leading, 5), (5,), (5,))]
    dy = draw.normal(size=(*leading, 5))

    @quick_jit
    def both(*given: jax.Array) -> Any:
        y, pull = jax.vjp(norm, *given)
        return y, pull(jnp.asarray(dy, jnp.float32))

    y, slopes = both(*(jnp.asarray(x, jnp.float32) for x in inputs))
    np.testing.assert_allclose(y, plain(*inputs), rtol=1e-5, atol=1e-6)
    for slope, x in zip(slopes, inputs, strict=True):
        wanted = np.zeros_like(x)
        for at in np.ndindex(x.shape):
            kept, sums = x[at], []
            for step in (1e-6, -1e-6):
                x[at] = kept + step
                sums.append((plain(*inputs) * dy).sum())
            x[at], wanted[at] = kept, (sums[0] - sums[1]) / 2e-6
        np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-5)
