"""Every implementation of attention against the plain one, forward and gradient, and the plain one against loops."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.config import TransformerConfig, build
from scaling.errors import UserError
from scaling.families.attention_mask import AttentionMask
from scaling.families.kernels import KERNELS
from scaling.models import attention_blocked, attention_kernels, attention_tiled
from scaling.models.attend import Implementation, attend, reference
from scaling.models.positions import alibi_slopes


def inputs(length: int, heads: int = 4, kv_heads: int = 2, d_head: int = 8) -> tuple[jax.Array, ...]:
    return tuple(normal(length + i, (2, length, n, d_head)) for i, n in enumerate((heads, kv_heads, kv_heads)))


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def by_loops(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: AttentionMask) -> np.ndarray:
    """Attention query by query in float64."""
    out = np.zeros_like(q, dtype=np.float64)
    groups = q.shape[2] // k.shape[2]
    for b, i, h in np.ndindex(*q.shape[:3]):
        seen = range(max(0, i - mask.window + 1), i + 1)
        scores = np.array([q[b, i, h] @ k[b, j, h // groups] / np.sqrt(q.shape[3]) for j in seen], np.float64)
        if mask.softcap:
            scores = mask.softcap * np.tanh(scores / mask.softcap)
        if mask.alibi:
            scores = scores + np.array([alibi_slopes(q.shape[2])[h] * (j - i) for j in seen])
        weights = np.exp(scores - scores.max())
        out[b, i, h] = sum(w * v[b, j, h // groups] for w, j in zip(weights / weights.sum(), seen, strict=True))
    return out


MASKS = [
    AttentionMask(24),
    AttentionMask(5),
    AttentionMask(1),
    AttentionMask(24, softcap=2.0),
    AttentionMask(24, alibi=True),
    AttentionMask(7, softcap=3.0, alibi=True),
]


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_the_reference_is_attention_written_with_loops(mask: AttentionMask) -> None:
    q, k, v = inputs(24)
    found = quick_jit(lambda *x: reference(*x, mask))(q, k, v)
    np.testing.assert_allclose(found, by_loops(*map(np.asarray, (q, k, v)), mask), atol=2e-6)


def assert_same_with_gradients(
    run: Implementation, q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask
) -> None:
    """`run` and the reference agree, and so do their gradients along a random direction of the output."""
    direction = normal(9, q.shape)

    def value_and_gradients(f: Implementation) -> tuple[jax.Array, ...]:
        def both(*x: jax.Array) -> tuple[jax.Array, ...]:
            out, pull = jax.vjp(lambda *x: f(*x, mask, None), *x)
            return (out, *pull(direction))

        return quick_jit(both)(q, k, v)

    for got, want in zip(value_and_gradients(run), value_and_gradients(reference), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("length", [1, 24, 64, 65, 150])
@pytest.mark.parametrize("mask", [AttentionMask(150), AttentionMask(30), AttentionMask(70, 2.0, True)], ids=str)
def test_blocked_is_the_reference_at_any_length_and_window(length: int, mask: AttentionMask) -> None:
    assert_same_with_gradients(attention_blocked.blocked, *inputs(length), mask)


@pytest.mark.parametrize("window", [40, 7])
def test_xla_is_the_reference(window: int) -> None:
    assert_same_with_gradients(attention_kernels.xla, *inputs(40), AttentionMask(window))


def interpreted(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask, key: jax.Array | None = None
) -> jax.Array:
    """Splash attention without a TPU."""
    return attention_kernels.splash(q, k, v, mask, interpret=True)


@pytest.mark.parametrize(
    "run", [attention_blocked.blocked, attention_tiled.tiled, attention_kernels.xla, interpreted]
)
def test_runs_side_by_side_have_the_attention_of_each(run: Implementation) -> None:
    """Mapped over a leading axis of runs, here the two windows, as the step of a pack is."""

    def mapped(q: jax.Array, k: jax.Array, v: jax.Array, mask: AttentionMask, key: None) -> jax.Array:
        return jax.vmap(lambda *x: run(*(a[None] for a in x), mask, None)[0])(q, k, v)

    assert_same_with_gradients(mapped, *inputs(128, 4, 2, 64), AttentionMask(100))


@pytest.mark.parametrize("length, window", [(128, 128), (150, 50)])
def test_splash_is_the_reference_where_pallas_interprets_it(length: int, window: int) -> None:
    assert_same_with_gradients(interpreted, *inputs(length, 4, 2, 64), AttentionMask(window))


def test_auto_is_blocked_on_a_cpu() -> None:
    q, k, v = inputs(40)
    mask = AttentionMask(40)
    auto, blocked = (quick_jit(lambda *x, f=f: f(*x, mask))(q, k, v) for f in (attend, attention_blocked.blocked))
    assert (auto == blocked).all()


@pytest.mark.parametrize("name, why", [("cudnn", "only on gpu"), ("splash", "only on tpu")])
def test_asking_for_a_kernel_of_another_platform_says_what_can_run(name: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"{name} runs {why}.*allowed here: auto, reference, blocked, xla"):
        attend(*inputs(8), AttentionMask(8), implementation=name)


def test_asking_for_a_kernel_that_knows_no_softcap_raises() -> None:
    with pytest.raises(
        UserError, match=r"xla does not support attention_softcap.*allowed here: auto, reference, blocked"
    ):
        attend(*inputs(8), AttentionMask(8, softcap=1.0), implementation="xla")


def test_a_mixer_of_attention_alone_is_the_model_without_one_and_two_norms_are_refused() -> None:
    shape: dict[str, Any] = {"vocab": 8, "context": 8, "layers": 1, "d_model": 8, "n_heads": 2}
    plain = build(TransformerConfig, shape, "test")
    off = {"kind": "attention", "sinks": False, "qkv_bias": False}
    assert build(TransformerConfig, shape | {"mixer": off}, "test") == plain
    with pytest.raises(
        UserError, match=r"mixer.qkv_bias=true has no effect with bias=true, biases in every linear map; leave one"
    ):
        build(TransformerConfig, shape | {"mixer": {"kind": "attention", "qkv_bias": True}, "bias": True}, "test")
    with pytest.raises(UserError, match=r"mixer.qk_norm=width and qk_norm=true are two norms"):
        mixer = {"kind": "attention", "qk_norm": "width"}
        build(TransformerConfig, shape | {"mixer": mixer, "qk_norm": True}, "test")


def test_cudnn_says_what_it_needs() -> None:
    assert "float32" in KERNELS["cudnn"].refuses("float32", 64)
    assert "d_head" in KERNELS["cudnn"].refuses("bfloat16", 12)
    assert KERNELS["cudnn"].refuses("bfloat16", 64) == ""


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
def test_dropout_keeps_the_mean_and_drops_its_share(implementation: str) -> None:
    """Over values of one, the output is the sum of the kept probabilities: mean 1, and 1/(1 − rate) or less each."""
    q, k, _ = inputs(70)
    ones, mask = jnp.ones_like(k), AttentionMask(70, dropout=0.25)
    attention = quick_jit(lambda q, k, v, key: attend(q, k, v, mask, key=key, implementation=implementation))
    out = attention(q, k, ones, jax.random.key(0))
    assert out.mean() == pytest.approx(1.0, abs=0.02)
    first = np.asarray(out[:, 0, :, 0])  # the first query sees one key: kept at 4/3 or dropped
    assert set(np.round(first.ravel(), 5)) <= {0.0, np.float32(1.33333)}
    assert attention(q, k, ones, None) == pytest.approx(1.0, abs=1e-5)


def test_alibi_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8) == pytest.approx([2**-i for i in range(1, 9)])
    assert alibi_slopes(12)[8:] == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
