"""The product of activations with a matrix, with a backward pass written out."""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from scaling.parallel.sharding import target_platform, ways


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: jax.Array, w_IxO: jax.Array, dtype: Any = None) -> jax.Array:
    """x [..., I] · w [I, O] → [..., O] in `dtype` (that of x where unset), summed in float32 on accelerators.

    Derived automatically, the gradient of w is a product whose result is transposed; on a CPU XLA moves that
    transposition into whatever computed the incoming gradient, an elementwise loop that then runs across the memory
    (a third of a training step at width 128). Here the product has the order of w, and the barrier keeps what comes
    in apart. The incoming gradient takes the precision of x: float32 logits do not make float32 products.
    """
    return jnp.matmul(x, w_IxO, preferred_element_type=dtype or x.dtype)


def _forward(x: jax.Array, w_IxO: jax.Array, dtype: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return matmul(x, w_IxO, dtype), (x, w_IxO)


def _backward(dtype: Any, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w_IxO = saved
    dy = jax.lax.optimization_barrier(dy.astype(x.dtype))
    if ways("sequence") > 1:  # windows and their positions made one axis would be gathered
        return jnp.matmul(dy, w_IxO.T), outer(x, dy)
    dy_TxO = dy.reshape(-1, dy.shape[-1])
    return jnp.matmul(dy_TxO, w_IxO.T).reshape(x.shape), outer(x.reshape(-1, x.shape[-1]), dy_TxO)


def outer(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Σ over tokens of x [tokens …, I] times dy [tokens …, O …]: the gradient [I, O …] of a matrix.

    Several axes of tokens stay apart: made one, an axis that devices share would be gathered. On a CPU the narrower
    side is transposed first, as a copy of its own: XLA's fast products want the summed axis last on the left, and its
    other form took 1.1 to 1.9 times as long as this with its copy.
    """
    tokens = tuple(range(x.ndim - 1))
    if target_platform() != "cpu":
        return jax.lax.dot_general(x, dy, ((tokens, tokens), ((), ())))

    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        last = tuple(range(left.ndim - len(tokens), left.ndim))
        left = jax.lax.optimization_barrier(jnp.moveaxis(left, tokens, last))
        return jax.lax.optimization_barrier(jax.lax.dot_general(left, right, ((last, tokens), ((), ()))))

    if x.shape[-1] <= prod(dy.shape[len(tokens) :]):
        return product(x, dy)
    return jnp.moveaxis(product(dy, x), -1, 0)


matmul.defvjp(_forward, _backward)
