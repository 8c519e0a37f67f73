"""The product with its backward pass written out against NumPy and against the derivative JAX finds by itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.models.matmul import matmul

LEADING = [(), (5,), (2, 3)]


def draw(leading: tuple[int, ...], dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [..., 7], w [7, 4] and an incoming gradient [..., 4]."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, w, dy = (jax.random.normal(k, s) for k, s in zip(keys, [(*leading, 7), (7, 4), (*leading, 4)], strict=True))
    return x.astype(dtype), w.astype(dtype), dy


@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_value_and_gradients_are_those_of_a_plain_product(leading: tuple[int, ...]) -> None:
    x, w, dy = draw(leading, jnp.float32)

    @quick_jit
    def both(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[tuple[jax.Array, ...], ...]:
        got, pull = jax.vjp(matmul, x, w)
        want, plain_pull = jax.vjp(lambda x, w: jnp.einsum("...i,io->...o", x, w), x, w)
        return (got, *pull(dy)), (want, *plain_pull(dy))

    for a, b in zip(*both(x, w, dy), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("out", [None, jnp.float32], ids=["same", "float32"])
def test_bfloat16_comes_out_as_asked_and_gradients_keep_the_precision_of_their_inputs(out: Any) -> None:
    x, w, dy = draw((2, 3), jnp.bfloat16)

    @quick_jit
    def run(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        got, pull = jax.vjp(lambda x, w: matmul(x, w, out), x, w)
        return got, *pull(dy.astype(got.dtype))

    got, dx, dw = run(x, w, dy)
    assert (got.dtype, dx.dtype, dw.dtype) == (out or jnp.bfloat16, jnp.bfloat16, jnp.bfloat16)
    x64, w64, dy64 = (np.asarray(a, np.float64) for a in (x, w, dy))
    step = 2.0**-8  # of one rounding to bfloat16; a product of rounded numbers is one rounding more
    np.testing.assert_allclose(np.asarray(got, np.float64), x64 @ w64, atol=1e-5 if out else 4 * step, rtol=step)
    np.testing.assert_allclose(np.asarray(dx, np.float64), dy64 @ w64.T, atol=8 * step, rtol=2 * step)
    np.testing.assert_allclose(
        np.asarray(dw, np.float64), np.einsum("bli,blo->io", x64, dy64), atol=8 * step, rtol=2 * step
    )
