"""Context parallelism where each device attends for its own queries: all-gathered keys, and ring attention.

Both process blocks of keys with a running log-sum-exp (Liu et al. 2023, 2310.01889): one block of all keys, or each
device's block in turn, passed on to the next device while it is computed with. The backward pass fetches keys again,
so that a device saves only its own, and gradients of keys travel with them back to their device.
"""

from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from scaling.families.attention_mask import AttentionMask
from scaling.families.context import hops, is_balanced, kv_heads_held, pieces
from scaling.models.attention_mask import Places
from scaling.models.positions import alibi_slopes
from scaling.parallel.sharding import on_each_device, ways

AXIS = "context"
LOWEST = -1e30
"""stands for −∞ as the maximum over no scores; differences from it stay finite"""
Arrays = tuple[jax.Array, jax.Array, jax.Array]
"""scaled queries, keys and values"""
# S: tokens of a window on one device


class MaskInputs(NamedTuple):
    """The arrays that determine which keys a query sees and how scores are modified."""

    queries: Places
    """positions and marks [B, S]"""
    keys: Places
    slopes_H: jax.Array


class Parts(Protocol):
    """Attention of some queries over some of their keys. Hashable."""

    def forward(self, arrays: Arrays, inputs: MaskInputs) -> tuple[jax.Array, jax.Array]:
        """Output [B, S, H, d of v], and log Z of every query [B, S, H, 1], float32, which is about LOWEST or below if
        the query sees none of these keys. Query heads share key heads in groups."""

    def backward(
        self, arrays: Arrays, inputs: MaskInputs, out: jax.Array, log_z: jax.Array, dout: jax.Array
    ) -> Arrays:
        """Gradients of the arrays. out, log_z: over all keys that the queries see, not only these."""


def for_devices(x_BxLxKxd: jax.Array, heads: int, devices: int) -> jax.Array:
    """Keys or values, their heads repeated if fewer than the `devices` that share the `heads` of queries."""
    kv_heads = x_BxLxKxd.shape[2]
    copies = kv_heads_held(kv_heads, heads, devices) // kv_heads
    return x_BxLxKxd if copies == 1 else jnp.repeat(x_BxLxKxd, copies, 2)


def attend_to_parts(
    parts: Parts,
    way: str,
    mask: AttentionMask,
    arrays: Arrays,
    places: Places,
    sinks_H: jax.Array | None,
) -> jax.Array:
    """Attention [B, L, H, d of v]. way: gather or ring. arrays, places: those of whole windows, [B, L, …]."""
    q_BxLxHxd, k_BxLxKxd, v_BxLxKxd = arrays
    (length, heads), devices = q_BxLxHxd.shape[1:3], ways("sequence")
    k, v = (for_devices(x, heads, ways("heads")) for x in (k_BxLxKxd, v_BxLxKxd))
    by_head: tuple[str | None, ...] = ("batch", "sequence", "heads", None)
    held = [(q_BxLxHxd, by_head), (k, by_head), (v, by_head)]
    held += [(x, by_head[:2]) for x in places if x is not None]
    held += [(jnp.asarray(alibi_slopes(heads), jnp.float32), ("heads",))]
    held += [] if sinks_H is None else [(sinks_H, ("heads",))]
    marked = places.marks_BxL is not None

    def run(q: jax.Array, k: jax.Array, v: jax.Array, *inputs: jax.Array) -> jax.Array:
        own, slopes_H, sinks_H = Places(*inputs[: 1 + marked]), inputs[1 + marked], inputs[2 + marked :]
        turned = is_balanced(mask, length, devices)
        change = partial(_exchanged, devices) if turned else lambda x: x
        q, queries = jax.tree.map(change, (q, own))
        if way == "ring":
            k, v, own = jax.tree.map(change, (k, v, own))
        start = jnp.broadcast_to(sinks_H[0][:, None], (*q.shape[:3], 1)).astype(jnp.float32) if sinks_H else None
        rounds = hops(mask, length, devices) if way == "ring" else None
        out = _attend(parts, rounds, (q, k, v), start, MaskInputs(queries, own, slopes_H))
        return _exchanged(devices, out, back=True) if turned else out

    return on_each_device(run, tuple(axes for _, axes in held), *(x for x, _ in held))


def _exchanged(devices: int, x_BxSx: jax.Array, *, back: bool = False) -> jax.Array:
    """Exchange two adjacent pieces of a window for the two that `pieces` assigns to a device, or `back`."""
    halves = []
    for half, from_there in zip(jnp.split(x_BxSx, 2, 1), np.array(pieces(devices)).T // 2, strict=True):
        pairs = [(int(source), to) for to, source in enumerate(from_there)]
        halves.append(jax.lax.ppermute(half, AXIS, [(b, a) for a, b in pairs] if back else pairs))
    return jnp.concatenate(halves, 1)


def _passed_on(tree: Any, by: int = 1) -> Any:
    """Send every device's arrays to the device `by` places after it in the ring."""
    devices = jax.lax.axis_size(AXIS)
    return jax.lax.ppermute(tree, AXIS, [(i, (i + by) % devices) for i in range(devices)])


def _gathered(tree: Any) -> Any:
    return jax.lax.all_gather(tree, AXIS, axis=1, tiled=True)


Sums = tuple[jax.Array, jax.Array]
"""output, and log of the sum of exp(scores), over the keys processed so far"""


def _merged(a: Sums, b: Sums) -> Sums:
    log_z = jnp.logaddexp(a[1], b[1])
    return a[0] * jnp.exp(a[1] - log_z) + b[0] * jnp.exp(b[1] - log_z), log_z


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    parts: Parts, rounds: int | None, arrays: Arrays, start: jax.Array | None, inputs: MaskInputs
) -> jax.Array:
    """Attention of a device's queries. rounds: number of key blocks that a ring passes, the device's own first; None
    to gather all keys. start: initial log Z [B, S, H, 1], from sinks; None without sinks."""
    return _forward(parts, rounds, arrays, start, inputs)[0]


def _forward(
    parts: Parts, rounds: int | None, arrays: Arrays, start: jax.Array | None, inputs: MaskInputs
) -> tuple[jax.Array, Any]:
    q, *kv = arrays

    def add(sums: Sums, block: Any) -> Sums:
        return _merged(sums, parts.forward((q, *block[0]), inputs._replace(keys=block[1])))

    def step(_: Any, carry: tuple[Any, Sums]) -> tuple[Any, Sums]:
        block, sums = carry
        return _passed_on(block), add(sums, block)

    block, shape = (kv, inputs.keys), (*q.shape[:3], kv[1].shape[3])
    sums = jnp.zeros(shape, jnp.float32), jnp.full((*shape[:3], 1), LOWEST) if start is None else start
    if rounds is None:
        out, log_z = add(sums, _gathered(block))
    else:
        out, log_z = add(*reversed(jax.lax.fori_loop(0, rounds - 1, step, (block, sums))))
    out = out.astype(q.dtype)
    return out, (arrays, start, inputs, out, log_z)


def _backward(parts: Parts, rounds: int | None, saved: Any, dout: jax.Array) -> tuple[Any, ...]:
    # otherwise the compiler would see keys gathered twice and keep those of the forward pass for the backward pass
    (saved, dout) = jax.lax.optimization_barrier((saved, dout))
    (q, *kv), start, inputs, out, log_z = saved

    def of_block(block: Any) -> tuple[jax.Array, Any]:
        dq, *dkv = parts.backward((q, *block[0]), inputs._replace(keys=block[1]), out, log_z, dout)
        return dq, dkv

    def exact(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    def step(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        block, (dq, dkv) = carry
        return _passed_on(block), jax.tree.map(jnp.add, (dq, _passed_on(dkv)), exact(of_block(block)))

    block = kv, inputs.keys
    if rounds is None:
        dq, dkv = of_block(_gathered(block))
        dkv = jax.lax.psum_scatter(dkv, AXIS, scatter_dimension=1, tiled=True)
    else:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (q, kv))
        block, sums = jax.lax.fori_loop(0, rounds - 1, step, (block, zeros))
        dq, dkv = step(None, (block, sums))[1]
        dkv = _passed_on(dkv, 1 - rounds)
    darrays = jax.tree.map(lambda dx, x: dx.astype(x.dtype), (dq, *dkv), (q, *kv))
    shift = jnp.sum((out * dout).astype(jnp.float32), -1, keepdims=True)
    return darrays, None if start is None else -jnp.exp(start - log_z) * shift, jax.tree.map(_none, inputs)


def _none(x: jax.Array) -> Any:
    """A zero cotangent, float0 for integers."""
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)


_attend.defvjp(_forward, _backward)
