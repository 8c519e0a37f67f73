"""Every mask in every kernel, against a dense softmax over a boolean square."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import quick_jit

from scaling.errors import UserError
from scaling.families.attention_mask import AttentionMask, blocks, keys_of_blocks, visible_keys, visible_keys_within
from scaling.families.kernels import BLOCK, KERNELS, choose
from scaling.models.attend import reference
from scaling.models.attention_blocked import blocked
from scaling.models.attention_kernels import splash, splash_mask, xla
from scaling.models.attention_mask import Places, bend, places
from scaling.models.attention_tiled import tiled
from scaling.models.positions import alibi_slopes

Arrays = tuple[jax.Array, jax.Array, jax.Array]


def interpreted(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask, marks: Any = None, sinks_H: Any = None
) -> jax.Array:
    """Splash attention without a TPU."""
    return splash(q, k, v, mask, marks, sinks_H=sinks_H, interpret=True)


def by_tiles(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask, marks: Any = None, sinks_H: Any = None
) -> jax.Array:
    return tiled(q, k, v, mask, None if marks is None else jnp.asarray(marks), sinks_H)


def inputs(length: int, d_head: int = 8) -> Arrays:
    keys = jax.random.split(jax.random.key(length), 3)
    q, k, v = (jax.random.normal(key, (2, length, n, d_head)) for key, n in zip(keys, (4, 2, 2), strict=True))
    return q, k, v


def marks_of(mask: AttentionMask, length: int) -> np.ndarray | None:
    """Of two windows: prefixes of two lengths, or documents that begin at different places."""
    place = np.arange(length)
    if mask.kind == "prefix":
        return np.stack([place < length // 3, place < length - 1]).astype(np.int32)
    if mask.kind == "document":
        return np.stack([np.searchsorted([5, 17, 66], place, "right"), place // 40]).astype(np.int32)
    return None


def visible(length: int, mask: AttentionMask) -> np.ndarray:
    """[2 windows, queries, keys], one by one."""
    marks = marks_of(mask, length)

    def place(window: int, i: int) -> int:
        """Counted from 0 in every document where that is asked for."""
        return int(np.sum(marks[window, :i] == marks[window, i])) if mask.restart and marks is not None else i

    def sees(window: int, i: int, j: int) -> bool:
        chunk = mask.chunk or length
        at, other = place(window, i), place(window, j)
        near = abs(i - j) < mask.window and at // chunk == other // chunk
        if not (near or at < mask.global_tokens or other < mask.global_tokens):
            return False
        mark = np.zeros(length) if marks is None else marks[window]
        if mask.kind == "document":
            return j <= i and mark[i] == mark[j]
        return mask.kind == "full" or j <= i or mark[j] == 1

    return np.array([[[sees(b, i, j) for j in range(length)] for i in range(length)] for b in range(2)])


def dense(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask, marks: Any = None, sinks: Any = None
) -> jax.Array:
    """exp of every score of the square, times what is visible, over its sum. Sinks are the scores of one more key,
    which every query sees and whose value is 0."""
    length, heads, d_head = q.shape[1:]
    k, v = (jnp.repeat(x, heads // k.shape[2], 2) for x in (k, v))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(d_head)
    if mask.softcap:
        scores = mask.softcap * jnp.tanh(scores / mask.softcap)
    if mask.alibi:
        distance = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        scores -= np.array(alibi_slopes(heads))[:, None, None] * distance
    weights = jnp.exp(scores) * visible(length, mask)[:, None]
    if sinks is not None:
        last = jnp.broadcast_to(jnp.exp(sinks)[:, None, None], (*weights.shape[:3], 1))
        weights, v = jnp.concatenate([weights, last], -1), jnp.pad(v, ((0, 0), (0, 1), (0, 0), (0, 0)))
    return jnp.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


def assert_same_with_gradients(run: Any, arrays: Arrays, mask: AttentionMask) -> None:
    direction = jax.random.normal(jax.random.key(9), arrays[0].shape)

    marks = marks_of(mask, arrays[0].shape[1])

    def value_and_gradients(f: Any, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(lambda *x: f(*x, mask, marks), *arrays)
        return (out, *pull(direction))

    both = quick_jit(lambda *x: (value_and_gradients(run, *x), value_and_gradients(dense, *x)))
    for got, want in zip(*both(*arrays), strict=True):
        np.testing.assert_allclose(got, want, atol=3e-5)


def told(value: Any) -> str:
    return str(getattr(value, "__name__", value))


PATTERNS = [  # Llama 4's chunks, StreamingLLM's first tokens, Longformer's global ones, and what may come together
    AttentionMask(150, chunk=20),
    AttentionMask(12, chunk=20, softcap=2.0),
    AttentionMask(30, global_tokens=2),
    AttentionMask(9, global_tokens=70, alibi=True),
    AttentionMask(20, kind="full", global_tokens=1),
    AttentionMask(5, kind="full", global_tokens=66, chunk=70),
    AttentionMask(10, kind="prefix", global_tokens=3),
    AttentionMask(150, kind="document", chunk=30),
    AttentionMask(7, kind="document", global_tokens=3),
    AttentionMask(7, kind="document", global_tokens=3, chunk=10, restart=True),
]
MASKS = [
    AttentionMask(150, kind="full"),
    AttentionMask(70, kind="full", alibi=True),
    AttentionMask(30, kind="full"),
    AttentionMask(30, kind="full", softcap=2.0, alibi=True),
    AttentionMask(1, kind="full"),
    AttentionMask(150, kind="prefix"),
    AttentionMask(30, kind="prefix", alibi=True),
    AttentionMask(150, kind="prefix", softcap=2.0),
    AttentionMask(150, kind="document"),
    AttentionMask(12, kind="document", alibi=True),
    AttentionMask(150, kind="document", softcap=2.0),
    *PATTERNS,
]


@pytest.mark.parametrize(
    "run, length, mask",
    [(reference, 24, mask) for mask in MASKS]
    + [(blocked, 150, mask) for mask in MASKS]
    + [(blocked, length, MASKS[1]) for length in (1, 24, 64, 128)]
    + [(by_tiles, 150, mask) for mask in (AttentionMask(150), AttentionMask(30), *MASKS)]
    + [(by_tiles, length, mask) for length in (1, 128, 300) for mask in (MASKS[1], MASKS[9])],
    ids=told,
)
def test_attention_is_the_dense_square(run: Any, length: int, mask: AttentionMask) -> None:
    """At lengths below, of and beside whole blocks of 64."""
    assert_same_with_gradients(run, inputs(length), mask)


@pytest.mark.parametrize("mask", [AttentionMask(150), *MASKS], ids=str)
def test_scores_of_keys_in_any_order_are_those_of_the_square(mask: AttentionMask) -> None:
    """As in a cache: three queries of each window, keys where they happen to lie and some not there."""
    marks, length = marks_of(mask, 24), 24
    whole = places(slice(0, length), None if marks is None else jnp.asarray(marks))
    scores_BxHxLxL = jax.random.normal(jax.random.key(0), (2, 4, length, length))
    square = np.array(bend(scores_BxHxLxL, whole, whole, mask))
    rng = np.random.default_rng(0)
    i_BxQ = np.stack([rng.choice(length, 3, replace=False) for _ in range(2)])
    j_BxS = np.stack([rng.permutation(length) for _ in range(2)])
    there_BxS = (rng.random(j_BxS.shape) < 0.7) & ~(j_BxS[:, :, None] == i_BxQ[:, None]).any(-1)
    row = np.arange(2)[:, None]

    def some(at: np.ndarray, positions: np.ndarray) -> Places:
        return Places(jnp.asarray(positions), None if marks is None else jnp.asarray(marks[row, at]))

    picked = scores_BxHxLxL[row[..., None], :, i_BxQ[:, :, None], j_BxS[:, None]].transpose(0, 3, 1, 2)
    found = bend(picked, some(i_BxQ, i_BxQ), some(j_BxS, np.where(there_BxS, j_BxS, -1)), mask)
    want = square[row[..., None], :, i_BxQ[:, :, None], j_BxS[:, None]].transpose(0, 3, 1, 2)
    want[~np.broadcast_to(there_BxS[:, None, None], want.shape)] = -np.inf
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(
    "run, d_head, mask",
    [
        (run, 8, mask)
        for run in (reference, blocked, by_tiles)
        for mask in (AttentionMask(150), AttentionMask(30), MASKS[1])
    ]
    + [(blocked, 8, MASKS[3]), (blocked, 8, MASKS[8]), (interpreted, 64, AttentionMask(150))]
    + [(interpreted, 64, AttentionMask(150, kind="document"))],
    ids=told,
)
def test_a_sink_is_one_more_key_of_its_score_and_of_no_value(run: Any, d_head: int, mask: AttentionMask) -> None:
    """Its gradient as well, also where it holds more than all keys and where it holds nothing."""
    marks, sinks = marks_of(mask, 150), jnp.asarray([0.0, 6.0, -30.0, 1.5])
    arrays = (*inputs(150, d_head), sinks)
    direction = jax.random.normal(jax.random.key(9), arrays[0].shape)

    def value_and_gradients(f: Any, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(lambda q, k, v, sinks: f(q, k, v, mask, marks, sinks), *arrays)
        return (out, *pull(direction))

    def by_name(q: Any, k: Any, v: Any, mask: Any, marks: Any, sinks: Any) -> jax.Array:
        out: jax.Array = run(q, k, v, mask, marks, sinks_H=sinks)
        return out

    both = quick_jit(lambda *x: (value_and_gradients(by_name, *x), value_and_gradients(dense, *x)))
    *rest, sunk = zip(*both(*arrays), strict=True)
    for got, want in rest:
        np.testing.assert_allclose(got, want, atol=3e-5)
    assert np.abs(np.delete(sunk[1], 2)).min() > 0.01
    np.testing.assert_allclose(*sunk, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d_v", [5, 12])
@pytest.mark.parametrize("run", [reference, blocked, by_tiles, xla, interpreted])
def test_values_may_have_another_width_than_keys(run: Any, d_v: int) -> None:
    mask, marks = AttentionMask(30, kind="document"), marks_of(AttentionMask(30, kind="document"), 70)
    q, k, _ = inputs(70)
    v, direction = (jax.random.normal(jax.random.key(i), (2, 70, n, d_v)) for i, n in ((1, 2), (2, 4)))

    def value_and_gradients(f: Any, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(lambda *x: f(*x, mask, marks), *arrays)
        return (out, *pull(direction))

    both = quick_jit(lambda *x: (value_and_gradients(run, *x), value_and_gradients(dense, *x)))
    for got, want in zip(*both(q, k, v), strict=True):
        np.testing.assert_allclose(got, want, atol=3e-5)


def can(name: str, mask: AttentionMask, length: int) -> bool:
    """Whether an implementation says that it takes a mask, on its own platform."""
    try:
        choose(name, KERNELS[name].platform or "cpu", mask, length=length, dtype="float32", d_head=64)
    except UserError:
        return False
    return True


XLA = [AttentionMask(window, kind=kind) for kind in ("full", "prefix", "document") for window in (40, 7)]  # type: ignore[arg-type]
SPLASH = [mask for mask in PATTERNS if can("splash", mask, 150)]


@pytest.mark.parametrize("mask", [*XLA, *(mask for mask in PATTERNS if can("xla", mask, 40))], ids=str)
def test_attention_by_xla_is_the_dense_square(mask: AttentionMask) -> None:
    assert_same_with_gradients(xla, inputs(40), mask)


@pytest.mark.parametrize(
    "length, mask",
    [(128, AttentionMask(50, kind="full")), (150, AttentionMask(150, kind="full")),
     (150, AttentionMask(50, kind="full")), (150, AttentionMask(50, kind="document")),
     (150, AttentionMask(150, softcap=2.0)), *((150, mask) for mask in SPLASH)],
    ids=str,
)  # fmt: skip
def test_attention_by_splash_is_the_dense_square(length: int, mask: AttentionMask) -> None:
    """Also where windows are filled up to whole blocks of 128, which no query may see."""
    assert_same_with_gradients(interpreted, inputs(length, 64), mask)


@pytest.mark.parametrize(
    "mask",
    [AttentionMask(150), AttentionMask(30, kind="full"), AttentionMask(150, kind="document"), AttentionMask(30),
     AttentionMask(150, chunk=40), AttentionMask(20, kind="full", global_tokens=1),
     AttentionMask(12, kind="document", global_tokens=2)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("run", [reference, blocked, by_tiles, xla, interpreted])
def test_what_a_query_does_not_see_has_no_part_in_it(run: Any, mask: AttentionMask) -> None:
    """To the last bit, and its gradient is exactly 0."""
    q, k, v = (x[:1] for x in inputs(150, 64))
    seen, marks = visible(150, mask)[0], marks_of(mask, 150)
    marks = None if marks is None else marks[:1]

    @quick_jit
    def of(query: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Arrays]:
        out, pull = jax.vjp(lambda *x: run(*x, mask, marks)[:, query], q, k, v)
        return out, pull(jnp.ones_like(out))

    for query in (0, 63, 64, 100):
        hidden = ~seen[query]
        out, (_, dk, dv) = of(query, k, v)
        other, _ = of(query, k.at[:, hidden].add(7.0), v.at[:, hidden].add(-9.0))
        assert (out == other).all()
        assert (dk[:, hidden] == 0).all() and (dv[:, hidden] == 0).all() and (dv[:, seen[query]] != 0).all()


@st.composite
def static_masks(draw: st.DrawFn) -> tuple[int, AttentionMask]:
    """(length, mask) of any pattern that positions tell."""
    length = draw(st.integers(1, 150))
    return length, AttentionMask(
        draw(st.integers(1, length)),
        kind=draw(st.sampled_from(["causal", "full"])),
        chunk=draw(st.none() | st.integers(1, 2 * length)),
        global_tokens=draw(st.sampled_from([0, 0, 1, 3, 100])),
    )


def square(length: int, mask: AttentionMask) -> np.ndarray:
    """[queries, keys] from the definition, all at once."""
    place = np.arange(length)
    i, j = place[:, None], place[None]
    near = abs(i - j) < mask.window
    if mask.chunk:
        near = near & (i // mask.chunk == j // mask.chunk)
    near = near | (np.minimum(i, j) < mask.global_tokens)
    return near if mask.kind == "full" else np.tril(near)


@given(static_masks())
def test_the_ledger_counts_the_keys_of_the_square(given: tuple[int, AttentionMask]) -> None:
    """And blocks leave none of them out."""
    length, mask = given
    seen = square(length, mask)
    assert visible_keys(length, mask) == pytest.approx(seen.sum() / length)
    assert seen.sum() / length <= keys_of_blocks(length, mask, BLOCK) <= length
    for queries, keys in blocks(length, mask, 16):
        inside = np.zeros(length, bool)
        inside[keys] = True
        assert not seen[queries][:, ~inside].any() and keys.start % 16 == 0


@given(static_masks())
def test_every_kernel_is_told_the_square(given: tuple[int, AttentionMask]) -> None:
    """Those that compute it by positions, and splash attention, whose windows are filled up at their end."""
    length, mask = given
    seen, place = square(length, mask), np.arange(length)
    assert (np.broadcast_to(mask.near(place[:, None], place), seen.shape) == seen).all()
    filled = -(-length // 128) * 128
    found = np.broadcast_to(splash_mask(mask, length, filled)[0:length, 0:filled], (length, filled))
    assert (found[:, :length] == seen).all() and not found[:, length:].any()


def test_the_square_is_the_one_of_the_kernels() -> None:
    for mask in PATTERNS:
        if mask.kind in ("causal", "full"):
            assert (square(90, mask) == visible(90, mask)[0]).all()


@pytest.mark.parametrize("mask", [m for m in MASKS if m.kind == "document"], ids=str)
def test_the_ledger_counts_documents_where_they_are_known(mask: AttentionMask) -> None:
    marks = marks_of(mask, 100)
    assert marks is not None
    starts = np.array([[int(np.argmax(row == mark)) for mark in row] for row in marks])
    assert visible_keys_within(starts, mask) == pytest.approx(visible(100, mask).sum() / 200)
    assert visible_keys_within(starts, mask) < visible_keys(100, replace(mask, restart=False))


@pytest.mark.parametrize("more", [{}, {"chunk": 3}, {"global_tokens": 2}, {"chunk": 4, "global_tokens": 1}], ids=str)
@pytest.mark.parametrize("context, window", [(9, 9), (9, 4), (5, 1), (1, 1)])
def test_the_ledger_counts_the_mean_over_prefixes_of_every_length(context: int, window: int, more: Any) -> None:
    place, mask = np.arange(context), AttentionMask(window, kind="prefix", **more)
    near = square(context, replace(mask, kind="full"))
    squares = [near & ((place[:, None] >= place) | (place < prefix)) for prefix in range(context)]
    assert visible_keys(context, mask) == pytest.approx(np.mean([x.sum() / context for x in squares]))


def test_a_mask_of_marks_does_not_become_causal_without_them() -> None:
    for run in (reference, blocked, by_tiles, xla, interpreted):
        with pytest.raises(ValueError, match="a document mask needs the marks of the batch"):
            run(*inputs(8, 64), AttentionMask(8, kind="document"))


def test_kernels_are_not_asked_for_masks_that_they_do_not_know() -> None:
    """cuDNN's windows are to the left and it has no soft-cap; splash attention knows segments, but no prefix that is
    data."""

    def chosen(asked: str, platform: str, mask: AttentionMask, **more: Any) -> str:
        return choose(asked, platform, mask, length=100, dtype="bfloat16", d_head=64, **more)

    all_keys, full = AttentionMask(100), AttentionMask(100, kind="full")
    near, documents = AttentionMask(30, kind="full"), AttentionMask(100, kind="document")
    assert chosen("auto", "gpu", all_keys) == chosen("auto", "gpu", full) == "cudnn"
    assert chosen("auto", "gpu", AttentionMask(30)) == chosen("auto", "gpu", AttentionMask(100, chunk=100)) == "cudnn"
    assert chosen("auto", "gpu", near) == chosen("auto", "gpu", documents) == "xla"
    assert chosen("auto", "gpu", AttentionMask(100, chunk=50)) == "xla"
    assert chosen("auto", "gpu", AttentionMask(30, global_tokens=4)) == "xla"
    assert chosen("auto", "gpu", AttentionMask(100, softcap=5.0)) == "reference"
    assert chosen("auto", "tpu", documents) == chosen("auto", "tpu", AttentionMask(100, softcap=5.0)) == "splash"
    assert chosen("auto", "tpu", AttentionMask(30, chunk=50, global_tokens=4)) == "splash"
    assert chosen("auto", "tpu", AttentionMask(100, kind="prefix")) == "blocked"
    restarted = AttentionMask(100, kind="document", chunk=10, restart=True)
    assert chosen("auto", "tpu", restarted) == "blocked"
    assert (
        chosen("auto", "tpu", replace(restarted, chunk=None))
        == chosen("auto", "tpu", all_keys, sinks=True)
        == "splash"
    )
    with pytest.raises(
        UserError, match="cudnn does not support a sliding window that reaches behind a query; allowed"
    ):
        chosen("cudnn", "gpu", near)
    for name in ("cudnn", "xla"):
        with pytest.raises(
            UserError, match=rf"{name} does not support attention sinks .*: auto, reference, blocked$"
        ):
            chosen(name, "gpu", all_keys, sinks=True)
    with pytest.raises(UserError, match="cudnn does not support a document mask; allowed here: auto, ref"):
        chosen("cudnn", "gpu", documents)
    with pytest.raises(UserError, match="cudnn does not support attention_chunk; allowed here: auto, ref"):
        chosen("cudnn", "gpu", AttentionMask(100, chunk=50))
    with pytest.raises(UserError, match="cudnn does not support global_tokens; allowed here: auto, ref"):
        chosen("cudnn", "gpu", AttentionMask(30, global_tokens=1))
    with pytest.raises(UserError, match=r"splash does not support attention_chunk .* restart"):
        chosen("splash", "tpu", restarted)
