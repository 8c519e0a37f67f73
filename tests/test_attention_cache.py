"""Tokens that are read on over a cache have the hidden states that they have in the whole text."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.accounting import cache_bytes
from scaling.config.placement import Placement
from scaling.errors import UserError
from scaling.families import LSTMConfig, Mask, ModelConfig, TransformerConfig
from scaling.models import attention_cache, functional
from scaling.models.layer import PADDING

pytestmark = pytest.mark.usefixtures("runs_once")

LENGTH, ROWS = 40, 3
BASE: dict[str, Any] = {"vocab": 64, "context": 24, "layers": 2, "d_model": 32, "n_heads": 4}
MLA = {"kind": "mla", "kv_rank": 16, "nope": 8, "rope": 4, "v": 6}
MOE = {"kind": "moe", "experts": 4, "top_k": 2}
KINDS: dict[str, dict[str, Any]] = {
    "longer than the context": {},
    "grouped keys": {"n_kv_heads": 2},
    "windows": {"layers": 3, "sliding_window": [5, None]},
    "chunks": {"attention_chunk": [6, None]},
    "window and global tokens": {"sliding_window": [5], "global_tokens": [3]},
    "chunks and global tokens": {"attention_chunk": [6], "global_tokens": [2]},
    "alibi": {"position": "alibi", "sliding_window": [7]},
    "learned": {"position": "learned", "context": LENGTH, "norm": "layernorm", "bias": True},
    "sinusoidal": {"position": "sinusoidal"},
    "no positions": {"position": "none"},
    "ropes": {"layers": 4, "rope": [
        {"theta": 500.0, "fraction": 0.5},
        {"fraction": 0.0},
        {"scaling": {"kind": "yarn", "factor": 4.0, "original_context": 16}},
        {"temperature": {"floor": 8, "scale": 0.1}},
    ]},
    "sinks": {"mixer": {"kind": "attention", "sinks": True}},
    "qk_norm": {"qk_norm": True},
    "qk_norm over the width": {"mixer": {"kind": "attention", "qk_norm": "width"}},
    "softcap": {"attention_softcap": 5.0},
    "mla": {"mixer": MLA | {"q_rank": 12}},
    "mla with biases and softcap": {"mixer": MLA, "bias": True, "attention_softcap": 3.0, "sliding_window": [6]},
    "moe": {"feed_forward": MOE | {"shared": 1}},
    "hash": {"feed_forward": MOE | {"routing": "hash"}},
    "slots for all": {"feed_forward": MOE | {"capacity": 2.0}},
    "shared layers": {"layers": 4, "layer_sharing": 2, "norm_position": "sandwich"},
    "parallel block": {"norm_position": "post", "parallel_block": True},
    "norms of outputs": {"norm_position": "output"},
    "mup": {"mup": {"width": 16, "layers": 1, "d_head": 4}},
}  # fmt: skip


def transformer(**changes: Any) -> TransformerConfig:
    return TransformerConfig.model_validate(BASE | changes)


def lstm(**changes: Any) -> LSTMConfig:
    return LSTMConfig.model_validate(
        {"kind": "lstm", "vocab": 64, "context": 24, "layers": 2, "d_model": 32} | changes
    )


def params_of(model: ModelConfig) -> Any:
    """All of them away from where they start: no zero bias, no scale of one."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda w: w + 0.1 * jnp.asarray(rng.standard_normal(w.shape), jnp.float32),
        functional.init(model, jax.random.key(0)),
    )


TOKENS = np.random.default_rng(1).integers(1, 64, (ROWS, LENGTH))


def whole(model: ModelConfig, mask: Mask = "causal", marks: np.ndarray | None = None) -> np.ndarray:
    """Hidden states by the forward pass of training."""
    bound = functional.bind(model, Placement(), params_of(model), mask)
    return np.asarray(quick_jit(lambda t, m: bound(t, m))(TOKENS, marks))


def assert_read_on_as_a_whole(
    model: ModelConfig, mask: Mask = "causal", marks: np.ndarray | None = None, want: np.ndarray | None = None
) -> None:
    """Rows of three lengths, padded in front, read in chunks of 7 and one by one. want: unset, the model's whole."""
    bound, tokens = functional.bind(model, Placement(), params_of(model), mask), TOKENS
    want = whole(model, mask, marks) if want is None else want
    extend = quick_jit(lambda *new: bound.decoder(LENGTH)(*new))
    told = np.zeros_like(tokens) if marks is None else marks
    places = np.stack([model.positions(row) for row in told])
    row, padding = np.arange(ROWS)[:, None], np.array([[0], [2], [6]])
    if mask == "prefix":
        padding[:] = 0
    got, cache = np.full_like(want, np.nan), functional.empty_cache(model, ROWS, LENGTH, jnp.float32)
    start = 0
    for size in (7, 7, 1, 1, 1, 7, *[1] * (LENGTH - 24)):
        column = np.arange(start, start + size) - padding
        there, at = column >= 0, np.maximum(column, 0)
        positions = np.where(there, places[row, at], PADDING)
        marked = None if marks is None else np.where(there, marks[row, at], 0)
        hidden, cache = extend(np.where(there, tokens[row, at], 0), positions, marked, cache)
        got[np.broadcast_to(row, at.shape)[there], at[there]] = np.asarray(hidden)[there]
        start += size
    read = np.arange(LENGTH) < LENGTH - padding
    np.testing.assert_allclose(got[read], want[read], atol=1e-5)
    assert np.isnan(got[~read]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_transformer_reads_on_as_it_reads_a_whole(kind: str) -> None:
    assert_read_on_as_a_whole(transformer(**KINDS[kind]))


@pytest.mark.parametrize("routing", [{}, {"routing": "hash"}])
def test_experts_of_limited_capacity_take_all_tokens_that_are_read_on(routing: dict[str, Any]) -> None:
    """As the same model without the limit does in a window, while its own windows lack some; see `written`."""
    limited = transformer(feed_forward=MOE | routing | {"capacity": 0.5})
    without = whole(transformer(feed_forward=MOE | routing))
    assert np.abs(whole(limited) - without).max() > 0.1
    assert_read_on_as_a_whole(limited, want=without)
    (said,) = limited.written
    assert (
        "capacity=0.5 limits the tokens of an expert in training" in said
        and transformer(**KINDS["slots for all"]).written == ()
    )


@pytest.mark.parametrize("kind", ["grouped keys", "window and global tokens"])
def test_a_cache_is_read_as_far_as_it_is_filled(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_cache, "PART", 8)  # so that these short ones have several parts
    assert_read_on_as_a_whole(transformer(**KINDS[kind]))


def test_slots_that_nothing_is_in_yet_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in them would show: they hold nan, and a probability of 0 times nan is nan."""
    monkeypatch.setattr(attention_cache, "PART", 8)
    model = transformer(layers=1, context=LENGTH)
    (layer,) = functional.empty_cache(model, 1, LENGTH, jnp.float32)
    part = layer["attention"]
    held = {name: part[name].at[:, :, 8:].set(jnp.nan) for name in ("keys", "values")}
    extend = quick_jit(functional.bind(model, Placement(), params_of(model)).decoder(LENGTH))
    cache, finite = [layer | {"attention": part | held}], []
    for start, size in ((0, 7), (7, 1), (8, 1)):
        at = np.arange(start, start + size)[None]
        hidden, cache = extend(TOKENS[:1, at[0]], at, None, cache)
        finite.append(bool(jnp.isfinite(hidden).all()))
    assert finite == [True, True, False]  # the ninth token begins the second part


@pytest.mark.parametrize("projection", [False, True])
def test_an_lstm_reads_on_as_it_reads_a_whole(projection: bool) -> None:
    assert_read_on_as_a_whole(lstm(projection=projection))


@pytest.mark.parametrize("restart", [None, True])
@pytest.mark.parametrize("kind", ["windows", "window and global tokens", "chunks", "learned", "sinusoidal", "alibi"])
def test_documents_are_masked_in_a_cache_as_in_a_whole(kind: str, restart: bool | None) -> None:
    marks = np.cumsum(np.random.default_rng(2).random((ROWS, LENGTH)) < 0.1, 1).astype(np.int32)
    assert_read_on_as_a_whole(transformer(**KINDS[kind], restart_positions=restart), "document", marks)


def test_what_follows_a_prefix_is_read_on_as_in_a_whole() -> None:
    marks = np.broadcast_to(np.arange(LENGTH) < 7, (ROWS, LENGTH)).astype(np.int32)
    assert_read_on_as_a_whole(transformer(), "prefix", marks)


@pytest.mark.parametrize(
    "changes, places",
    [
        ({"sliding_window": [5, None]}, [5, 24]),
        ({"sliding_window": [5], "global_tokens": [3, None]}, [8, 5]),
        ({"attention_chunk": [6], "sliding_window": [9, 4]}, [6, 4]),
        ({"context": 10_000}, [LENGTH, LENGTH]),
    ],
)
def test_a_layer_keeps_what_its_queries_see_and_no_more(changes: dict[str, Any], places: list[int]) -> None:
    model = transformer(n_kv_heads=2, **changes)
    cache = functional.empty_cache(model, ROWS, LENGTH, jnp.bfloat16)
    assert [layer["attention"]["keys"].shape for layer in cache] == [(ROWS, 2, n, 8) for n in places]
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
    assert held == ROWS * cache_bytes(model, LENGTH, "bfloat16")
    assert held == ROWS * sum(n * (2 * 2 * 8 * 2 + 2 * 4) for n in places)


def test_mla_keeps_latents_and_an_lstm_its_state() -> None:
    assert cache_bytes(transformer(mixer=MLA), 10, "float32") == 2 * 10 * (4 * (16 + 4) + 2 * 4)
    assert cache_bytes(lstm(), 10, "bfloat16") == cache_bytes(lstm(), 10_000, "bfloat16") == 2 * 32 * (2 + 4)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"feed_forward": MOE | {"routing": "expert_choice"}}, "routing=expert_choice"),
        ({"position": "learned"}, "model.context=24"),
    ],
)
def test_what_cannot_be_read_on_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        transformer(**changes).cache(LENGTH)
