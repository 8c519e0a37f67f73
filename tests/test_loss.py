"""Cross-entropy, whole and in pieces, against a log-softmax in NumPy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.config import Placement, TransformerConfig
from scaling.models import functional
from scaling.models.loss import LossSums, token_losses

B, L, D, V = 3, 10, 8, 37


@pytest.fixture(scope="module")
def arrays() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hidden states, head and targets."""
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, head = jax.random.normal(keys[0], (B, L, D)), jax.random.normal(keys[1], (D, V))
    return hidden, head, jax.random.randint(keys[2], (B, L), 0, V)


def by_numpy(
    hidden: Any, head: Any, targets: Any, softcap: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """−log p(target), log Z and the probabilities, float64."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    log_z = np.log(np.exp(logits).sum(-1))
    probs = np.exp(logits - log_z[..., None])
    return -np.log(np.take_along_axis(probs, np.asarray(targets)[..., None], -1)[..., 0]), log_z, probs


@pytest.mark.parametrize("chunk, softcap", [(None, None), (1, None), (7, 2.0), (12, None), (29, 2.0), (1000, 2.0)])
def test_losses_of_any_chunk_are_those_of_numpy(arrays: Any, chunk: int | None, softcap: float | None) -> None:
    nll, log_z = quick_jit(partial(token_losses, softcap=softcap, chunk=chunk))(*arrays)
    want_nll, want_log_z, _ = by_numpy(*arrays, softcap)
    np.testing.assert_allclose(nll, want_nll, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(log_z, want_log_z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 7])
def test_gradients_are_those_in_closed_form(arrays: Any, chunk: int | None) -> None:
    """d/dlogits of Σ a·nll + b·(log Z)² is a·(p − 1[target]) + 2·b·log Z·p."""
    hidden, head, targets = arrays
    a, b = jax.random.uniform(jax.random.key(4), (2, B, L))

    def objective(hidden: jax.Array, head: jax.Array) -> jax.Array:
        nll, log_z = token_losses(hidden, head, targets, chunk=chunk)
        return jnp.sum(a * nll + b * log_z**2)

    got_hidden, got_head = quick_jit(jax.grad(objective, (0, 1)))(hidden, head)
    _, log_z, probs = by_numpy(hidden, head, targets, None)
    dlogits = np.asarray(a)[..., None] * (probs - np.eye(V)[targets])
    dlogits += 2 * np.asarray(b)[..., None] * log_z[..., None] * probs
    np.testing.assert_allclose(got_hidden, dlogits @ np.asarray(head).T, atol=2e-4)
    np.testing.assert_allclose(got_head, np.einsum("bld,blv->dv", hidden, dlogits), atol=2e-4)


def test_gradient_through_the_soft_cap_is_that_of_finite_differences(arrays: Any) -> None:
    hidden, head, targets = arrays
    direction = np.asarray(jax.random.normal(jax.random.key(5), hidden.shape))
    got = quick_jit(jax.grad(lambda h: token_losses(h, head, targets, softcap=3.0, chunk=9)[0].sum()))(hidden)
    high, low = (by_numpy(hidden + s * direction, head, targets, 3.0)[0].sum() for s in (1e-3, -1e-3))
    assert np.sum(np.asarray(got) * direction) == pytest.approx((high - low) / 2e-3, rel=1e-3)


def largest_logits(jaxpr: Any, vocab: int) -> int:
    """Elements of the largest float32 array [..., vocab] that a jaxpr makes, inner jaxprs included."""
    sizes = [0]
    for equation in jaxpr.eqns:
        made = [v.aval for v in equation.outvars if getattr(v.aval, "dtype", None) == jnp.float32]
        sizes += [array.size for array in made if vocab in array.shape]
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                sizes.append(largest_logits(inner, vocab))
    return max(sizes)


@pytest.mark.parametrize("chunk, most", [(3 * 64, 3 * 64), (None, 239), (3 * 512, 3 * 512)])
def test_logits_of_a_large_vocabulary_never_exist_all_at_once(chunk: int | None, most: int) -> None:
    """Forward and backward hold one chunk's; an unset chunk is 239 tokens, 64 MiB at 70,000 float32 each."""
    head, targets = jax.ShapeDtypeStruct((2, 70_000), jnp.float32), jnp.zeros((3, 512), jnp.int32)
    hidden = jax.ShapeDtypeStruct((3, 512, 2), jnp.float32)
    value = jax.value_and_grad(lambda h, w: token_losses(h, w, targets, chunk=chunk)[0].sum(), (0, 1))
    found = largest_logits(jax.make_jaxpr(value)(hidden, head).jaxpr, 70_000) / 70_000
    assert 0.9 * most < found <= most


MODEL = TransformerConfig(
    vocab=V, context=L, layers=1, d_model=8, n_heads=2, d_ff=16, init="normal", init_std=0.5, logit_softcap=3.0
)


@pytest.fixture(scope="module")
def sums() -> Any:
    """(tokens → logits, (tokens, targets, weights) → LossSums, nats per window, gradient of nats + 0.1 · z)."""
    graph = MODEL, Placement(loss_chunk=7)
    params = quick_jit(partial(functional.init, MODEL))(jax.random.key(0))

    def objective(params: Any, *batch: jax.Array) -> tuple[jax.Array, tuple[LossSums, jax.Array]]:
        bound = functional.bind(*graph, params)
        sums = bound.loss_sums(*batch)
        return sums.loss + 0.1 * sums.z, (sums, bound.window_losses(*batch)[0])

    run = quick_jit(jax.value_and_grad(objective, has_aux=True))

    def call(*batch: jax.Array) -> tuple[LossSums, jax.Array, Any]:
        (_, (sums, per_window)), gradient = run(params, *batch)
        return sums, per_window, gradient

    return quick_jit(lambda tokens: functional.bind(*graph, params).logits(tokens)), call


def draw_batch() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens, targets and weights of 0, ½ and 1."""
    keys = jax.random.split(jax.random.key(2), 3)
    tokens, targets = (jax.random.randint(key, (B, L), 0, V) for key in keys[:2])
    return tokens, targets, jax.random.randint(keys[2], (B, L), 0, 3) / 2


def test_sums_of_the_model_are_weighted_sums_over_its_logits(sums: Any) -> None:
    logits_of, run = sums
    tokens, targets, weights = draw_batch()
    got, per_window, _ = run(tokens, targets, weights)
    logits, w = np.asarray(logits_of(tokens), np.float64), np.asarray(weights, np.float64)
    assert np.abs(logits).max() > 1.5 and np.abs(logits).max() < 3  # the soft-cap is at work
    log_z = np.log(np.exp(logits).sum(-1))
    nll = log_z - np.take_along_axis(logits, np.asarray(targets)[..., None], -1)[..., 0]
    np.testing.assert_allclose([got.loss, got.z], [np.sum(w * nll), np.sum(w * log_z**2)], rtol=1e-5)
    np.testing.assert_allclose(per_window, np.sum(w * nll, -1), rtol=1e-5)
    assert got.loss.dtype == got.z.dtype == jnp.float32 and jax.tree.leaves(got.aux) == []


def test_targets_of_weight_zero_change_neither_the_sums_nor_the_gradient(sums: Any) -> None:
    _, run = sums
    tokens, targets, weights = draw_batch()
    other = jnp.where(weights == 0, (targets + 5) % V, targets)
    assert (other != targets).any()
    for a, b in zip(*(jax.tree.leaves(run(tokens, t, weights)) for t in (targets, other)), strict=True):
        np.testing.assert_array_equal(a, b)
    *_, gradient = run(tokens, targets, jnp.zeros_like(weights))
    assert not any(np.any(x) for x in jax.tree.leaves(gradient))


def test_twice_the_weight_is_twice_the_sum_and_twice_the_gradient(sums: Any) -> None:
    _, run = sums
    tokens, targets, weights = draw_batch()
    for a, b in zip(*(jax.tree.leaves(run(tokens, targets, w)) for w in (weights, 2 * weights)), strict=True):
        np.testing.assert_allclose(2 * a, b, rtol=1e-5, atol=1e-6)
