"""Matrix products of activations and weights, with an explicit backward pass."""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from scaling.parallel.parts import activation_split, beyond, by_parts, joined, scattered
from scaling.parallel.sharding import active_mesh, target_platform
from scaling.parallel.zero import gradient_split

Axes = tuple[str, ...]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def matmul(
    x: jax.Array, w_IxO: jax.Array, dtype: Any = None, axes: Axes | None = None, precision: str | None = None
) -> jax.Array:
    """x [..., I] · w [I, O] → [..., O] in `dtype` (that of x if unset), accumulated in float32 on accelerators.

    axes: logical axes of w; x is then [batch, sequence, I], and the gradient of w is a `matrix_gradient`. If unset,
    there is one device or the layout is left to the compiler. precision: as in `jnp.matmul`.

    Autodiff would compute the gradient of w as a product with a transposed result. On a CPU XLA fuses that
    transposition into the elementwise loop that computes the incoming gradient, which then strides across memory (a
    third of a training step at width 128). Here the product has the layout of w, and a barrier prevents the fusion.
    The incoming gradient is cast to the precision of x, so that float32 logits do not cause float32 products.
    """
    return jnp.matmul(x, w_IxO, preferred_element_type=dtype or x.dtype, precision=precision)


def _forward(
    x: jax.Array, w_IxO: jax.Array, dtype: Any, axes: Axes | None, precision: str | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return matmul(x, w_IxO, dtype, axes, precision), (x, w_IxO)


def _backward(
    dtype: Any, axes: Axes | None, precision: str | None, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w_IxO = saved
    back = partial(jnp.matmul, precision=precision)
    dy = jax.lax.optimization_barrier(dy.astype(x.dtype))
    if axes is not None and active_mesh() is not None:  # merging batch and sequence into one axis would gather them
        return back(dy, w_IxO.T), matrix_gradient(x, dy, axes, ("batch", "sequence"), precision)
    dy_TxO = dy.reshape(-1, dy.shape[-1])
    return back(dy_TxO, w_IxO.T).reshape(x.shape), outer(x.reshape(-1, x.shape[-1]), dy_TxO, precision)


def matrix_gradient(
    x: jax.Array, dy: jax.Array, axes: Axes, tokens: tuple[str, str], precision: str | None = None
) -> jax.Array:
    """`outer` on a mesh that splits the tokens or the matrix: each device sums over its own tokens, and a
    reduce-scatter adds the partial sums into the shards of the matrix.

    Left to the compiler it becomes an all-reduce of the whole matrix followed by a slice, twice the bytes.
    axes: logical axes of the matrix. tokens: those of the first two axes of x and of dy.
    """
    lies = gradient_split(axes, (x.shape[-1], *dy.shape[2:]))
    shared = activation_split(tokens, x.shape[:2])
    own = beyond(shared, lies)
    apart = beyond(own, lies)
    whole = tuple(name for part in beyond(apart, shared) for name in part)

    def local(x: jax.Array, dy: jax.Array) -> jax.Array:
        w = outer(x.reshape(-1, x.shape[-1]), dy.reshape(-1, *dy.shape[2:]), precision)
        w = scattered(w, apart)
        return jax.lax.psum(w, whole) if whole else w

    return by_parts(local, ((*shared, own[0]), (*shared, *own[1:])), joined(own, apart), x, dy)


def outer(x_TxI: jax.Array, dy: jax.Array, precision: str | None = None) -> jax.Array:
    """Σ over tokens of x [T, I] times dy [T, O …]: the gradient [I, O …] of a matrix.

    On a CPU the narrower operand is first transposed into a copy: XLA's fast matmul wants the contracted axis last on
    the left, and without the copy the product took 1.1 to 1.9 times as long.
    """
    if target_platform() != "cpu":
        return jax.lax.dot_general(x_TxI, dy, (((0,), (0,)), ((), ())), precision)

    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        left = jax.lax.optimization_barrier(jnp.moveaxis(left, 0, -1))
        return jax.lax.optimization_barrier(jnp.tensordot(left, right, 1, precision=precision))

    if x_TxI.shape[-1] <= prod(dy.shape[1:]):
        return product(x_TxI, dy)
    return jnp.moveaxis(product(dy, x_TxI), -1, 0)


matmul.defvjp(_forward, _backward)
