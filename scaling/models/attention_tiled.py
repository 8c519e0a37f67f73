"""Attention tile by tile: memory that grows with the length and not with its square, and work only where a mask lets
a query see something.

The softmax is summed up over tiles of keys as they come (Dao et al. 2022, 2205.14135), and the backward pass computes
the scores again. Loops and not a program for every tile, so that compiling takes as long for any length; and a loop
may end where the text says, which is how tiles of other documents are passed over.
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling.families.attention_mask import AttentionMask, near_blocks
from scaling.families.kernels import TILE
from scaling.models.attention_mask import MARKED, Places, bend, places, softcapped
from scaling.models.positions import alibi_slopes
from scaling.parallel.sharding import on_each_device, ways

LOWEST = -1e30
"""in place of −∞ as the maximum of no scores, of which differences are still numbers"""
# N tiles of T positions; G query heads share the keys of one of K heads, and Q = G · T are rows of one product


class Tiles(NamedTuple):
    """Queries, keys and values of windows, cut, and what tells which see which."""

    q_BxNxKxQxd: jax.Array
    k_BxNxKxTxd: jax.Array
    v_BxNxKxTxd: jax.Array
    sinks_KxG: jax.Array | None
    slopes_KxG: jax.Array
    positions_BxNxT: jax.Array
    marks_BxNxT: jax.Array | None


def tiled(
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    mask: AttentionMask,
    marks_BxL: jax.Array | None = None,
    sinks_H: jax.Array | None = None,
) -> jax.Array:
    """See `attend`; knows no dropout. Each device computes its own windows and heads, one window after another."""
    (batch, length, heads), d_head = q_BxLxHxd.shape[:3], q_BxLxHxd.shape[3]
    if mask.kind in MARKED and marks_BxL is None:
        raise ValueError(f"a {mask.kind} mask needs the marks of the batch")
    k, v = k_BxLxKxd, v_BxLxKxd
    if k.shape[2] % ways("spread_heads"):  # each device needs the keys of its own queries
        k, v = (jnp.repeat(x, heads // k.shape[2], 2) for x in (k, v))
    at_BxL = jnp.broadcast_to(places(slice(0, length), marks_BxL, mask.restart).positions, (batch, length))
    by_head, by_position = ("batch", None, "spread_heads", None), ("batch", None)
    arrays: dict[str, tuple[jax.Array, tuple[str | None, ...]]] = {
        "q": (q_BxLxHxd * jnp.asarray(d_head**-0.5, q_BxLxHxd.dtype), by_head),
        "k": (k, by_head),
        "v": (v, by_head),
        "positions": (at_BxL, by_position),
        "slopes": (jnp.asarray(alibi_slopes(heads), jnp.float32), ("spread_heads",)),
    }
    if marks_BxL is not None:
        arrays["marks"] = marks_BxL, by_position
    if sinks_H is not None:
        arrays["sinks"] = sinks_H, ("spread_heads",)

    def run(*own: jax.Array) -> jax.Array:
        return _on_one_device(dict(zip(arrays, own, strict=True)), mask)

    return on_each_device(run, tuple(axes for _, axes in arrays.values()), *(x for x, _ in arrays.values()))


def _on_one_device(own: dict[str, jax.Array], mask: AttentionMask) -> jax.Array:
    """Windows are filled up to whole tiles at their end, with keys that are not there."""
    batch, length, heads = own["q"].shape[:3]
    kv_heads, fill = own["k"].shape[2], -length % TILE

    def cut(x_BxLx: jax.Array, filled_with: int = 0) -> jax.Array:
        padded = jnp.pad(x_BxLx, ((0, 0), (0, fill)) + ((0, 0),) * (x_BxLx.ndim - 2), constant_values=filled_with)
        return padded.reshape(batch, -1, TILE, *x_BxLx.shape[2:])

    def by_group(x_H: jax.Array) -> jax.Array:
        return x_H.reshape(kv_heads, -1)

    q_BxNxTxKxGxd = cut(own["q"]).reshape(batch, -1, TILE, kv_heads, heads // kv_heads, own["q"].shape[3])
    q_BxNxKxGxTxd = jnp.moveaxis(q_BxNxTxKxGxd, 2, 4)
    tiles = Tiles(
        q_BxNxKxGxTxd.reshape(*q_BxNxKxGxTxd.shape[:3], -1, q_BxNxKxGxTxd.shape[5]),
        jnp.swapaxes(cut(own["k"]), 2, 3),
        jnp.swapaxes(cut(own["v"]), 2, 3),
        by_group(own["sinks"]) if "sinks" in own else None,
        by_group(own["slopes"]),
        cut(own["positions"], -1),
        cut(own["marks"], -1) if "marks" in own else None,
    )
    out_BxNxKxQxd = _attend(tiles, mask, length)
    out_BxNxKxGxTxd = out_BxNxKxQxd.reshape(*q_BxNxKxGxTxd.shape[:5], -1)
    return jnp.moveaxis(out_BxNxKxGxTxd, 4, 2).reshape(batch, length + fill, heads, -1)[:, :length]


class _Row:
    """One window."""

    def __init__(self, tiles: Tiles, mask: AttentionMask, length: int):
        self.tiles, self.mask = tiles, mask
        known = -(-min(mask.global_tokens, length) // TILE)
        near = near_blocks(length, mask, TILE)
        first_N, last_N = (jnp.asarray([end // TILE for end in ends], jnp.int32) for ends in
                           ([k.start for _, k in near], [k.stop + TILE - 1 for _, k in near]))  # fmt: skip
        if tiles.marks_BxNxT is not None:
            first_N, last_N = self._of_text(tiles.marks_BxNxT, first_N, last_N)
        self.known_N = jnp.minimum(known, last_N)
        self.first_N, self.last_N = jnp.maximum(first_N, self.known_N), last_N

    def _of_text(self, marks_NxT: jax.Array, first_N: jax.Array, last_N: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Fewer tiles, by what the text says."""
        if self.mask.kind == "prefix":
            within_N = jnp.max(marks_NxT, 1) > 0
            end = jnp.max(jnp.where(within_N, jnp.arange(1, len(within_N) + 1), 0))
            return first_N, jnp.clip(end, jnp.arange(1, len(within_N) + 1), last_N)
        if self.mask.kind == "document":
            low_N, high_N = jnp.min(marks_NxT, 1), jnp.max(marks_NxT, 1)
            same_NxN = (low_N[:, None] <= high_N) & (high_N[:, None] >= low_N)
            return jnp.maximum(first_N, jnp.argmax(same_NxN, 1)), last_N
        return first_N, last_N

    def over_keys(self, n: Any, body: Any, start: Any) -> Any:
        """`body(tile of keys, value)` over the tiles that queries of tile n see some of."""
        known, first, last = self.known_N[n], self.first_N[n], self.last_N[n]

        def step(k: Any, value: Any) -> Any:
            return body(jnp.where(k < known, k, k - known + first), value)

        return jax.lax.fori_loop(0, known + last - first, step, start)

    def scores(self, q_KxQxd: jax.Array, n: Any, t: Any) -> tuple[jax.Array, jax.Array | None]:
        """Scores [K, Q, T] of tile n's queries for the keys of tile t as the softmax takes them, and before the mask
        where they are soft-capped."""
        raw = jnp.einsum("kqd,ktd->kqt", q_KxQxd, self.tiles.k_BxNxKxTxd[t], preferred_element_type=jnp.float32)
        capped = raw if self.mask.softcap is None else softcapped(raw, self.mask.softcap)
        heads, rest = (1, -1, TILE, TILE), replace(self.mask, softcap=None)
        bent_1xHxTxT = bend(capped.reshape(heads), self._at(n), self._at(t), rest, self.tiles.slopes_KxG.reshape(-1))
        return bent_1xHxTxT.reshape(raw.shape), None if self.mask.softcap is None else capped

    def _at(self, n: Any) -> Places:
        marks = self.tiles.marks_BxNxT
        return Places(self.tiles.positions_BxNxT[n], None if marks is None else marks[n][None])

    def sinks(self) -> jax.Array | None:
        """[K, Q, 1]."""
        found = self.tiles.sinks_KxG
        return None if found is None else jnp.repeat(found, TILE, 1)[..., None].astype(jnp.float32)

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
            begin = (one + LOWEST, one, zero) if sinks is None else (sinks, one + 1, zero)  # a sink reads nothing
            top, total, out = self.over_keys(n, add, begin)
            total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)  # what fills a window up sees nothing
            return (out / total).astype(q_KxQxd.dtype), top + jnp.log(total)

        return jax.lax.map(of_queries, (jnp.arange(len(self.known_N)), self.tiles.q_BxNxKxQxd))

    def backward(self, out_NxKxQxd: jax.Array, log_z: jax.Array, dout: jax.Array) -> tuple[Any, ...]:
        """Gradients of q, k, v and sinks.

        Σ p·dp over keys is the output times its gradient. Those of keys and values are summed up as [d, T]: on a CPU,
        XLA's fast products want the summed axis last on the left (see `attention_blocked`).
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
        rows = (jnp.arange(len(self.known_N)), q_NxKxQxd, dout, log_z, shift_NxKxQx1)
        (dk, dv), dq = jax.lax.scan(of_queries, zeros, rows)
        dk, dv = (jnp.swapaxes(x, 2, 3).astype(q_NxKxQxd.dtype) for x in (dk, dv))
        sinks, dsinks = self.sinks(), None
        if sinks is not None:  # dp of no value is 0
            dsinks_KxQ = -jnp.sum(jnp.exp(sinks - log_z) * shift_NxKxQx1, (0, 3))
            dsinks = jnp.sum(dsinks_KxQ.reshape(len(sinks), -1, TILE), -1)
        return dq, dk, dv, dsinks


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(tiles: Tiles, mask: AttentionMask, length: int) -> jax.Array:
    return _forward(tiles, mask, length)[0]


def _forward(tiles: Tiles, mask: AttentionMask, length: int) -> tuple[jax.Array, Any]:
    out, log_z = _by_window(tiles, mask, length, lambda row: row.forward())
    return out, (tiles, out, log_z)


def _backward(mask: AttentionMask, length: int, saved: Any, dout: jax.Array) -> tuple[Tiles]:
    tiles, *known = saved
    dq, dk, dv, dsinks = _by_window(tiles, mask, length, _Row.backward, *known, dout)
    dsinks = None if dsinks is None else jnp.sum(dsinks, 0).astype(tiles.sinks_KxG.dtype)
    slopes = jnp.zeros_like(tiles.slopes_KxG)
    none: Any = partial(np.zeros, dtype=jax.dtypes.float0)
    marks = None if tiles.marks_BxNxT is None else none(tiles.marks_BxNxT.shape)
    return (Tiles(dq, dk, dv, dsinks, slopes, none(tiles.positions_BxNxT.shape), marks),)


_attend.defvjp(_forward, _backward)


def _by_window(tiles: Tiles, mask: AttentionMask, length: int, f: Any, *more: jax.Array) -> Any:
    """`f(row, *more of it)` for one window after another: each passes over tiles of its own."""

    def of_window(own: Any) -> Any:
        (q, k, v, positions, marks), more = own
        return f(_Row(Tiles(q, k, v, tiles.sinks_KxG, tiles.slopes_KxG, positions, marks), mask, length), *more)

    windows = (*tiles[:3], tiles.positions_BxNxT, tiles.marks_BxNxT)
    return jax.lax.map(of_window, (windows, more))
