"""Cross-entropy, whole and in pieces, against a log-softmax in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.models.loss import token_losses

B, L, D, V = 3, 10, 8, 37


@pytest.fixture(scope="module")
def arrays() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hidden states, head and targets."""
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, head = jax.random.normal(keys[0], (B, L, D)), jax.random.normal(keys[1], (D, V))
    return hidden, head, jax.random.randint(keys[2], (B, L), 0, V)


def by_numpy(hidden: Any, head: Any, targets: Any, softcap: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """−log p(target), log Z and the probabilities, float64."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    log_z = np.log(np.exp(logits).sum(-1))
    probs = np.exp(logits - log_z[..., None])
    return -np.log(np.take_along_axis(probs, np.asarray(targets)[..., None], -1)[..., 0]), log_z, probs


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("chunk", [None, 1, 7, 12, 29, 30, 1000])
def test_losses_of_any_chunk_are_those_of_numpy(arrays: Any, chunk: int | None, softcap: float | None) -> None:
    nll, log_z = token_losses(*arrays, softcap=softcap, chunk=chunk)
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

    got_hidden, got_head = jax.grad(objective, (0, 1))(hidden, head)
    _, log_z, probs = by_numpy(hidden, head, targets, None)
    dlogits = np.asarray(a)[..., None] * (probs - np.eye(V)[targets])
    dlogits += 2 * np.asarray(b)[..., None] * log_z[..., None] * probs
    np.testing.assert_allclose(got_hidden, dlogits @ np.asarray(head).T, atol=2e-4)
    np.testing.assert_allclose(got_head, np.einsum("bld,blv->dv", hidden, dlogits), atol=2e-4)


def test_gradient_through_the_soft_cap_is_that_of_finite_differences(arrays: Any) -> None:
    hidden, head, targets = arrays
    direction = np.asarray(jax.random.normal(jax.random.key(5), hidden.shape))
    got = jax.grad(lambda h: token_losses(h, head, targets, softcap=3.0, chunk=9)[0].sum())(hidden)
    high, low = (by_numpy(hidden + s * direction, head, targets, 3.0)[0].sum() for s in (1e-3, -1e-3))
    assert np.sum(np.asarray(got) * direction) == pytest.approx((high - low) / 2e-3, rel=1e-3)


def largest_array(jaxpr: Any) -> int:
    """Elements of the largest intermediate array of a jaxpr, inner jaxprs included."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [variable.aval.size for variable in equation.outvars if hasattr(variable.aval, "size")]
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                sizes.append(largest_array(inner))
    return max(sizes)


@pytest.mark.parametrize("chunk, whole", [(3 * L, False), (None, False), (B * 512, True)])
def test_logits_of_a_large_vocabulary_never_exist_all_at_once(chunk: int | None, whole: bool) -> None:
    """512 tokens by 70,000 are 143 MB in float32: more than the 64 MiB that an unset chunk takes."""
    hidden, head, targets = jnp.zeros((1, 512, 2)), jnp.zeros((2, 70_000)), jnp.zeros((1, 512), jnp.int32)
    jaxpr = jax.make_jaxpr(jax.grad(lambda h, w: token_losses(h, w, targets, chunk=chunk)[0].sum(), (0, 1)))
    assert (largest_array(jaxpr(hidden, head).jaxpr) >= 512 * 70_000) == whole
