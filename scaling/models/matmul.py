"""The product of activations with a matrix, with a backward pass written out."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


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
    dy_TxO = jax.lax.optimization_barrier(dy.astype(x.dtype)).reshape(-1, dy.shape[-1])
    dw_IxO = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), dy_TxO, (((0,), (0,)), ((), ())))
    return jnp.matmul(dy_TxO, w_IxO.T).reshape(x.shape), dw_IxO


matmul.defvjp(_forward, _backward)
