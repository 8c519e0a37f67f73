"""Tiled attention: memory linear in the length, and work only for tiles that the mask does not hide.

The softmax is accumulated over tiles of keys (Dao et al. 2022, 2205.14135), and the backward pass recomputes the
scores. Tiles are processed in loops, not unrolled, so that compile time does not depend on the length. The number of
iterations may depend on the text, which is how tiles of other documents are skipped.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling.families.attention_mask import AttentionMask
from scaling.families.kernels import TILE
from scaling.models.attention_context import LOWEST, Arrays, MaskInputs, attend_to_parts, for_devices
from scaling.models.attention_mask import MARKED, Places, bend, meet, places, softcapped
from scaling.models.positions import alibi_slopes
from scaling.parallel.sharding import on_each_device, ways

# N tiles of T positions; G query heads share each of K key heads, and Q = G · T rows form one product


class Tiles(NamedTuple):
    """Queries, keys and values of windows cut into tiles, and what determines which see which."""

    q_BxNxKxQxd: jax.Array
    k_BxNxKxTxd: jax.Array
    v_BxNxKxTxd: jax.Array
    sinks_KxG: jax.Array | None
    slopes_KxG: jax.Array
    queries: Places
    """positions and marks [B, N, T]"""
    keys: Places


def tiled(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    marks_BxL: jax.Array | None = None,
    sinks_H: jax.Array | None = None,
    way: str = "ulysses",
) -> jax.Array:
    """See `attend`; without dropout. Depending on `way`, each device computes its own windows and heads, one window
    after another, or its own queries."""
    (batch, length, heads), d_head = q_BxLxHxd.shape[:3], q_BxLxHxd.shape[3]
    if mask.kind in MARKED and marks_BxL is None:
        raise ValueError(f"a {mask.kind} mask needs the marks of the batch")
    q = q_BxLxHxd * jnp.asarray(d_head**-0.5, q_BxLxHxd.dtype)
    at_BxL = jnp.broadcast_to(places(slice(0, length), marks_BxL, mask.restart).positions, (batch, length))
    if way != "ulysses":
        whole = Places(at_BxL, marks_BxL)
        return attend_to_parts(TiledParts(mask), way, mask, (q, k_BxLxKxd, v_BxLxKxd), whole, sinks_H)
    by_head, by_position = ("batch", None, "spread_heads", None), ("batch", None)
    arrays: dict[str, tuple[jax.Array, tuple[str | None, ...]]] = {
        "q": (q, by_head),
        "k": (for_devices(k_BxLxKxd, heads, ways("spread_heads")), by_head),
        "v": (for_devices(v_BxLxKxd, heads, ways("spread_heads")), by_head),
        "positions": (at_BxL, by_position),
        "slopes": (jnp.asarray(alibi_slopes(heads), jnp.float32), ("spread_heads",)),
    }
    if marks_BxL is not None:
        arrays["marks"] = marks_BxL, by_position
    if sinks_H is not None:
        arrays["sinks"] = sinks_H, ("spread_heads",)

    def run(*own: jax.Array) -> jax.Array:
        here = dict(zip(arrays, own, strict=True))
        at = Places(here["positions"], here.get("marks"))
        q, k, v = (here[name] for name in "qkv")
        out_BxNxKxQxd = _attend(_tiles((q, k, v), MaskInputs(at, at, here["slopes"]), here.get("sinks")), mask)
        return _joined(out_BxNxKxQxd, length, q.shape[2])

    return on_each_device(run, tuple(axes for _, axes in arrays.values()), *(x for x, _ in arrays.values()))


@dataclass(frozen=True)
class TiledParts:
    """See `attention_context.Parts`."""

    mask: AttentionMask

    def forward(self, arrays: Arrays, inputs: MaskInputs) -> tuple[jax.Array, jax.Array]:
        (out, log_z), q = _forward(_tiles(arrays, inputs), self.mask)[1][1:], arrays[0]
        return _joined(out, *q.shape[1:3]).astype(jnp.float32), _joined(log_z, *q.shape[1:3])

    def backward(
        self, arrays: Arrays, inputs: MaskInputs, out: jax.Array, log_z: jax.Array, dout: jax.Array
    ) -> Arrays:
        tiles, (q, k, _) = _tiles(arrays, inputs), arrays
        saved = tiles, _rows(out, k.shape[2]), _rows(log_z, k.shape[2], -LOWEST)  # padding sees nothing
        ((dq, dk, dv, *_),) = _backward(self.mask, saved, _rows(dout, k.shape[2]))
        dk, dv = (jnp.swapaxes(x, 2, 3).reshape(x.shape[0], -1, x.shape[2], x.shape[4]) for x in (dk, dv))
        return _joined(dq, *q.shape[1:3]), dk[:, : k.shape[1]], dv[:, : k.shape[1]]


def _cut(x_BxLx: jax.Array, filled_with: float = 0) -> jax.Array:
    """[B, N, T, …], padded at the end to whole tiles."""
    tile = min(TILE, x_BxLx.shape[1])
    fill = ((0, 0), (0, -x_BxLx.shape[1] % tile), *((0, 0),) * (x_BxLx.ndim - 2))
    padded = jnp.pad(x_BxLx, fill, constant_values=filled_with)
    return padded.reshape(x_BxLx.shape[0], -1, tile, *x_BxLx.shape[2:])


def _rows(x_BxLxHxd: jax.Array, kv_heads: int, filled_with: float = 0) -> jax.Array:
    """[B, N, K, Q, d]."""
    x_BxNxTxHxd = _cut(x_BxLxHxd, filled_with)
    x_BxNxTxKxGxd = x_BxNxTxHxd.reshape(*x_BxNxTxHxd.shape[:3], kv_heads, -1, x_BxLxHxd.shape[3])
    x_BxNxKxGxTxd = jnp.moveaxis(x_BxNxTxKxGxd, 2, 4)
    return x_BxNxKxGxTxd.reshape(*x_BxNxKxGxTxd.shape[:3], -1, x_BxLxHxd.shape[3])


def _joined(x_BxNxKxQxd: jax.Array, length: int, heads: int) -> jax.Array:
    """[B, L, H, d]."""
    batch, tiles, kv_heads, _, width = x_BxNxKxQxd.shape
    x_BxNxKxGxTxd = x_BxNxKxQxd.reshape(batch, tiles, kv_heads, heads // kv_heads, -1, width)
    return jnp.moveaxis(x_BxNxKxGxTxd, 4, 2).reshape(batch, -1, heads, width)[:, :length]


def _tiles(arrays: Arrays, inputs: MaskInputs, sinks_H: jax.Array | None = None) -> Tiles:
    """Tiles of windows padded at the end to whole tiles; padding keys get position −1, which masks them."""
    (q, k, v), kv_heads = arrays, arrays[1].shape[2]
    queries, keys = jax.tree.map(partial(_cut, filled_with=-1), (inputs.queries, inputs.keys))
    return Tiles(
        _rows(q, kv_heads),
        jnp.swapaxes(_cut(k), 2, 3),
        jnp.swapaxes(_cut(v), 2, 3),
        None if sinks_H is None else sinks_H.reshape(kv_heads, -1),
        inputs.slopes_H.reshape(kv_heads, -1),
        queries,
        keys,
    )


class _Row:
    """The computation for one window."""

    def __init__(self, tiles: Tiles, mask: AttentionMask):
        self.tiles, self.mask = tiles, mask
        self.meet_NxM = meet(tiles.queries, tiles.keys, mask)

    def over_keys(self, n: Any, body: Any, start: Any) -> Any:
        """Loop `body(tile of keys, value)` over the tiles of which queries of tile n see some keys."""
        first_M = jnp.argsort(~self.meet_NxM[n])
        return jax.lax.fori_loop(0, jnp.sum(self.meet_NxM[n]), lambda i, value: body(first_M[i], value), start)

    def scores(self, q_KxQxd: jax.Array, n: Any, t: Any) -> tuple[jax.Array, jax.Array | None]:
        """Scores [K, Q, T] of tile n's queries for the keys of tile t, ready for the softmax; and, if they are
        soft-capped, the scores before the mask."""
        raw = jnp.einsum("kqd,ktd->kqt", q_KxQxd, self.tiles.k_BxNxKxTxd[t], preferred_element_type=jnp.float32)
        capped = raw if self.mask.softcap is None else softcapped(raw, self.mask.softcap)
        rest, slopes_KxG = replace(self.mask, softcap=None), self.tiles.slopes_KxG
        queries, keys = _at(self.tiles.queries, n), _at(self.tiles.keys, t)
        by_head = capped.reshape(1, slopes_KxG.size, -1, capped.shape[-1])
        bent_1xHxTxT = bend(by_head, queries, keys, rest, slopes_KxG.reshape(-1))
        return bent_1xHxTxT.reshape(raw.shape), None if self.mask.softcap is None else capped

    def sinks(self) -> jax.Array | None:
        """[K, Q, 1]."""
        found, tile = self.tiles.sinks_KxG, self.tiles.queries.positions.shape[1]
        return None if found is None else jnp.repeat(found, tile, 1)[..., None].astype(jnp.float32)

    def forward(self) -> tuple[jax.Array, jax.Array]:
        """Output [N, K, Q, d of v], and log Z of every query [N, K, Q, 1]."""
        sinks, v_NxKxTxd = self.sinks(), self.tiles.v_BxNxKxTxd

        def of_queries(own: Any) -> tuple[jax.Array, jax.Array]:
            n, q_KxQxd = own

            def add(t: Any, sums: Any) -> Any:
                top, total, out = sums
                scores, _ = self.scores(q_KxQxd, n, t)
                higher = jnp.maximum(top, jnp.max(scores, -1, keepdims=True))
                weights, shrunk = jnp.exp(scores - higher), jnp.exp(top - higher)
                read = jnp.einsum("kqt,ktd->kqd", weights.astype(v_NxKxTxd.dtype), v_NxKxTxd[t],
                                  preferred_element_type=jnp.float32)  # fmt: skip
                return higher, total * shrunk + jnp.sum(weights, -1, keepdims=True), out * shrunk + read

            one = jnp.zeros((*q_KxQxd.shape[:2], 1), jnp.float32)
            zero = jnp.zeros((*q_KxQxd.shape[:2], v_NxKxTxd.shape[3]), jnp.float32)
            begin = (one + LOWEST, one, zero) if sinks is None else (sinks, one + 1, zero)  # a sink has no value
            top, total, out = self.over_keys(n, add, begin)
            total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)  # padding queries see nothing
            return (out / total).astype(q_KxQxd.dtype), top + jnp.log(total)

        return jax.lax.map(of_queries, (jnp.arange(len(self.meet_NxM)), self.tiles.q_BxNxKxQxd))

    def backward(self, out_NxKxQxd: jax.Array, log_z: jax.Array, dout: jax.Array) -> tuple[Any, ...]:
        """Gradients of q, k, v and sinks.

        Σ p·dp over keys is the output times its gradient. Gradients of keys and values are accumulated as [d, T]: on
        a CPU, XLA's fast matmul wants the contracted axis last on the left (see `attention_blocked`).
        """
        q_NxKxQxd, k_NxKxTxd, v_NxKxTxd, softcap = *self.tiles[:3], self.mask.softcap
        barrier = jax.lax.optimization_barrier
        shift_NxKxQx1 = jnp.sum((out_NxKxQxd * dout).astype(jnp.float32), -1, keepdims=True)

        def of_queries(sums: Any, own: Any) -> Any:
            n, q_KxQxd, dout_KxQxd, log_z_KxQx1, shift_KxQx1 = own
            q_KxdxQ, dout_KxdxQ = barrier((jnp.swapaxes(q_KxQxd, 1, 2), jnp.swapaxes(dout_KxQxd, 1, 2)))

            def add(t: Any, sums: Any) -> Any:
                dq_KxQxd, dk_NxKxdxT, dv_NxKxdxT = sums
                scores, capped = self.scores(q_KxQxd, n, t)
                weights = jnp.exp(scores - log_z_KxQx1)
                dweights = jnp.einsum("kqd,ktd->kqt", dout_KxQxd, v_NxKxTxd[t], preferred_element_type=jnp.float32)
                dscores = weights * (dweights - shift_KxQx1)
                if capped is not None and softcap is not None:
                    dscores = dscores * (1 - (capped / softcap) ** 2)
                weights, dscores = barrier((weights.astype(q_KxQxd.dtype), dscores.astype(q_KxQxd.dtype)))
                exact = partial(jnp.einsum, preferred_element_type=jnp.float32)
                dk_NxKxdxT = dk_NxKxdxT.at[t].add(exact("kdq,kqt->kdt", q_KxdxQ, dscores))
                dv_NxKxdxT = dv_NxKxdxT.at[t].add(exact("kdq,kqt->kdt", dout_KxdxQ, weights))
                return dq_KxQxd + exact("kqt,ktd->kqd", dscores, k_NxKxTxd[t]), dk_NxKxdxT, dv_NxKxdxT

            dq_KxQxd, *sums = self.over_keys(n, add, (jnp.zeros(q_KxQxd.shape, jnp.float32), *sums))
            return tuple(sums), dq_KxQxd.astype(q_KxQxd.dtype)

        zeros = tuple(jnp.zeros(jnp.swapaxes(x, 2, 3).shape, jnp.float32) for x in (k_NxKxTxd, v_NxKxTxd))
        rows = (jnp.arange(len(self.meet_NxM)), q_NxKxQxd, dout, log_z, shift_NxKxQx1)
        (dk, dv), dq = jax.lax.scan(of_queries, zeros, rows)
        dk, dv = (jnp.swapaxes(x, 2, 3).astype(q_NxKxQxd.dtype) for x in (dk, dv))
        sinks, dsinks = self.sinks(), None
        if sinks is not None:  # a sink has no value, so its dp is 0
            dsinks_KxQ = -jnp.sum(jnp.exp(sinks - log_z) * shift_NxKxQx1, (0, 3))
            dsinks = jnp.sum(dsinks_KxQ.reshape(*self.tiles.slopes_KxG.shape, -1), -1)
        return dq, dk, dv, dsinks


def _at(places: Places, n: Any) -> Places:
    """The places of one tile."""
    marks_NxT = places.marks_BxL
    return Places(places.positions[n], None if marks_NxT is None else marks_NxT[n][None])


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _attend(tiles: Tiles, mask: AttentionMask) -> jax.Array:
    return _forward(tiles, mask)[0]


def _forward(tiles: Tiles, mask: AttentionMask) -> tuple[jax.Array, Any]:
    out, log_z = _by_window(tiles, mask, lambda row: row.forward())
    return out, (tiles, out, log_z)


def _backward(mask: AttentionMask, saved: Any, dout: jax.Array) -> tuple[Tiles]:
    tiles, *known = saved
    dq, dk, dv, dsinks = _by_window(tiles, mask, _Row.backward, *known, dout)
    dsinks = None if dsinks is None else jnp.sum(dsinks, 0).astype(tiles.sinks_KxG.dtype)
    none = jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), (tiles.queries, tiles.keys))
    return (Tiles(dq, dk, dv, dsinks, jnp.zeros_like(tiles.slopes_KxG), *none),)


_attend.defvjp(_forward, _backward)


def _by_window(tiles: Tiles, mask: AttentionMask, f: Any, *more: jax.Array) -> Any:
    """`f(row, *its part of more)` for one window after another, since each skips different tiles."""

    def of_window(own: Any) -> Any:
        ((q, k, v), at), more = own
        return f(_Row(Tiles(q, k, v, tiles.sinks_KxG, tiles.slopes_KxG, *at), mask), *more)

    return jax.lax.map(of_window, ((tiles[:3], (tiles.queries, tiles.keys)), more))
