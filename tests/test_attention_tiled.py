"""Attention tile by tile: it passes over what a mask hides, and its memory grows with the length alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.families.attention_mask import AttentionMask
from scaling.families.kernels import TILE, TILED_FROM
from scaling.models import attention_blocked
from scaling.models.attend import reference
from scaling.models.attention_blocked import blocked
from scaling.models.attention_tiled import tiled

TILES = 5
L = TILES * TILE
DOCUMENTS = np.searchsorted([30, 100, 2 * TILE, 2 * TILE + 10, 4 * TILE - 1], np.arange(L), "right").astype(np.int32)
PREFIX = (np.arange(L) < TILE + 20).astype(np.int32)


def drawn(length: int = L, batch: int = 1, dtype: Any = jnp.float32) -> tuple[jax.Array, ...]:
    shapes = [(batch, length, heads, 8) for heads in (2, 1, 1)]
    return tuple(jax.random.normal(jax.random.key(i), shape, dtype) for i, shape in enumerate(shapes))


@pytest.mark.parametrize(
    ("mask", "marks", "met"),
    [  # tiles of keys that queries of each tile meet
        (AttentionMask(L), None, ["0", "01", "012", "0123", "01234"]),
        (AttentionMask(TILE + 1), None, ["0", "01", "12", "23", "34"]),
        (AttentionMask(TILE + 2), None, ["0", "01", "012", "123", "234"]),
        (AttentionMask(2, kind="full"), None, ["01", "012", "123", "234", "34"]),
        (AttentionMask(L, chunk=2 * TILE), None, ["0", "01", "2", "23", "4"]),
        (AttentionMask(1, global_tokens=2), None, ["0", "01", "02", "03", "04"]),
        (AttentionMask(1, kind="full", global_tokens=2), None, ["01234", "01", "02", "03", "04"]),
        (AttentionMask(L, kind="document"), DOCUMENTS, ["0", "01", "2", "23", "34"]),
        (AttentionMask(L, kind="prefix"), PREFIX, ["01", "01", "012", "0123", "01234"]),
    ],
    ids=str,
)
def test_tiles_that_a_mask_hides_are_passed_over(mask: AttentionMask, marks: Any, met: list[str]) -> None:
    """A tile that is met, hidden or not, brings its values: 0 · NaN is no number."""
    q, k, v = drawn()
    told = None if marks is None else jnp.asarray(marks)[None]
    run = quick_jit(lambda v: tiled(q, k, v, mask, told))
    for tile in range(TILES):
        poisoned = v.at[:, tile * TILE : (tile + 1) * TILE].set(jnp.nan)
        hurt = np.isnan(np.asarray(run(poisoned))).reshape(TILES, -1).any(1)
        assert hurt.tolist() == [str(tile) in keys for keys in met], tile


def test_each_window_passes_over_tiles_of_its_own() -> None:
    q, k, v = drawn(batch=2)
    marks = jnp.asarray(np.stack([DOCUMENTS, np.zeros_like(DOCUMENTS)]))
    out = quick_jit(lambda v: tiled(q, k, v, AttentionMask(L, kind="document"), marks))(v.at[:, :TILE].set(jnp.nan))
    assert np.isnan(np.asarray(out)).reshape(2, TILES, -1).any(2).tolist() == [[True, True, False, False, False],
                                                                               [True] * TILES]  # fmt: skip


def planned(length: int, mask: AttentionMask) -> int:
    """Bytes that XLA takes for a value and its gradients."""

    def both(*x: jax.Array) -> Any:
        out, pull = jax.vjp(lambda *x: blocked(*x, mask), *x)
        return out, pull(out)

    arrays = [jax.ShapeDtypeStruct((1, length, 4, 8), jnp.float32)] * 3
    return int(quick_jit(both).lower(*arrays).compile().memory_analysis().temp_size_in_bytes)


@pytest.mark.parametrize("mask", [AttentionMask(10**6), AttentionMask(10**6, softcap=5.0)], ids=["plain", "soft-cap"])
def test_memory_of_long_windows_grows_with_their_length(mask: AttentionMask) -> None:
    lengths = [TILED_FROM * 2**n for n in (1, 2, 3)]
    taken = [planned(length, mask) for length in lengths]
    assert taken[1] < 2.1 * taken[0] and taken[2] < 2.1 * taken[1]
    assert taken[2] < 4 * lengths[2] ** 2  # less than one head's scores


def test_long_windows_go_by_tiles_and_dropped_ones_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    met = []
    monkeypatch.setattr(attention_blocked, "tiled", lambda q, *_: met.append(q.shape[1]) or q)
    mask = AttentionMask(TILED_FROM, dropout=0.1)
    for length in (TILED_FROM - 1, TILED_FROM):
        blocked(*drawn(length), mask)
    out = jax.eval_shape(lambda *x: blocked(*x, mask, None, jax.random.key(0)), *drawn(TILED_FROM))
    assert met == [TILED_FROM] and out.shape == (1, TILED_FROM, 2, 8)


def test_bfloat16_is_summed_in_float32() -> None:
    exact = drawn(2 * TILE)
    rounded = tuple(x.astype(jnp.bfloat16) for x in exact)

    def value_and_gradients(f: Any, *x: jax.Array) -> Any:
        out, pull = jax.vjp(lambda *x: f(*x, AttentionMask(2 * TILE)), *x)
        return out, *pull(jnp.ones_like(out))

    found = quick_jit(lambda *x: value_and_gradients(tiled, *x))(*rounded)
    want = quick_jit(lambda *x: value_and_gradients(reference, *x))(*(x.astype(jnp.float32) for x in rounded))
    for got, true in zip(found, want, strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), true, atol=0.02 * float(jnp.abs(true).max()))
