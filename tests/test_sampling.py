"""Filters of logits against plain NumPy over sorted probabilities, and draws against the distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.errors import UserError
from scaling.generation.sampling import Sampling, draw, min_p, top_k, top_p

V, DRAWS = 40, 20_000
LOGITS = np.random.default_rng(0).normal(0, 2, (5, V)).astype(np.float32)


def kept(logits: Any) -> np.ndarray:
    return np.isfinite(np.asarray(logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(-1, keepdims=True), dtype=np.float64)
    return shares / shares.sum(-1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, V])
def test_top_k_keeps_the_k_likeliest(k: int) -> None:
    rank = (-LOGITS).argsort(-1).argsort(-1)
    np.testing.assert_array_equal(kept(top_k(jnp.asarray(LOGITS), k)), rank < k)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 1.0])
def test_top_p_keeps_the_fewest_likeliest_that_reach_p(p: float) -> None:
    for row, probs in zip(kept(top_p(jnp.asarray(LOGITS), p)), softmax(LOGITS), strict=True):
        order = (-probs).argsort()
        needed = 1 + int(np.searchsorted(np.cumsum(probs[order]), p - 1e-7))
        assert set(np.flatnonzero(row)) == set(order[:needed])


@pytest.mark.parametrize("p", [1e-3, 0.5, 1.0])
def test_min_p_keeps_what_is_likely_beside_the_likeliest(p: float) -> None:
    probs = softmax(LOGITS)
    expected = probs >= p * probs.max(-1, keepdims=True) * (1 - 1e-6)
    np.testing.assert_array_equal(kept(min_p(jnp.asarray(LOGITS), p)), expected)


def test_what_is_kept_keeps_its_odds_and_filters_apply_one_after_the_other() -> None:
    sampling = Sampling(0.7, top_k=20, top_p=0.8, min_p=0.05)
    got = np.asarray(sampling(jnp.asarray(LOGITS)))
    scaled = LOGITS / np.float32(0.7)
    np.testing.assert_allclose(got[kept(got)], scaled[kept(got)], rtol=1e-6)
    one_by_one = min_p(top_p(top_k(jnp.asarray(scaled), 20), 0.8), 0.05)
    np.testing.assert_array_equal(kept(got), kept(one_by_one))
    assert (kept(got).sum(-1) < 20).all() and kept(got).any(-1).all()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(0.5), Sampling(2.0, top_k=10), Sampling(top_p=0.7), Sampling(1.5, min_p=0.2)],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_the_distribution_says(sampling: Sampling) -> None:
    """Within four standard deviations of a binomial, token by token."""
    row = jnp.asarray(LOGITS[0])
    keys = jax.random.split(jax.random.key(1), DRAWS)
    tokens = np.asarray(jax.jit(lambda keys: draw(sampling, jnp.broadcast_to(row, (DRAWS, V)), keys))(keys))
    expected = softmax(np.asarray(sampling(row)))
    counts = np.bincount(tokens, minlength=V)
    assert (counts[expected == 0] == 0).all()
    spread = np.sqrt(DRAWS * expected * (1 - expected))
    assert (np.abs(counts - DRAWS * expected) <= 4 * spread + 1e-9).all()


def test_temperature_0_is_the_likeliest_token_and_the_first_of_several() -> None:
    logits = jnp.asarray(np.concatenate([LOGITS, np.zeros((1, V), np.float32)]))
    tokens = draw(Sampling(0.0), logits, jax.random.split(jax.random.key(0), len(logits)))
    np.testing.assert_array_equal(tokens, np.asarray(logits).argmax(-1))


@pytest.mark.parametrize("sampling", [Sampling(1e-30), Sampling(top_p=1e-60), Sampling(min_p=1.0), Sampling(top_k=1)])
def test_the_narrowest_of_every_cut_leaves_the_likeliest_token(sampling: Sampling) -> None:
    tokens = draw(sampling, jnp.asarray(LOGITS), jax.random.split(jax.random.key(0), len(LOGITS)))
    np.testing.assert_array_equal(tokens, LOGITS.argmax(-1))


def test_the_widest_leave_the_models_own_distribution() -> None:
    steep = jnp.asarray(np.linspace(0, 60, V, dtype=np.float32))  # of probabilities that a float32 sum does not tell
    np.testing.assert_array_equal(Sampling(top_k=V, top_p=1.0, min_p=1e-300)(steep), steep)


@pytest.mark.parametrize(
    "sampling, says",
    [
        (Sampling(-1.0), "temperature=-1: should be 0"),
        (Sampling(float("nan")), "temperature=nan"),
        (Sampling(1e-40), "temperature=1e-40: should be 0 .* or 1e-30 to 1e\\+30"),
        (Sampling(1e39), "temperature=1e\\+39"),
        (Sampling(top_k=0), "top_k=0: should be 1 to 40"),
        (Sampling(top_k=41), "top_k=41: should be 1 to 40"),
        pytest.param(Sampling(top_k=10**400), "top_k=1.*: should be 1 to 40", id="beyond floats"),
        (Sampling(top_p=0.0), "top_p=0: should be above 0"),
        (Sampling(min_p=1.5), "min_p=1.5: should be above 0"),
    ],
    ids=str,
)
def test_a_number_that_cannot_be_is_refused(sampling: Sampling, says: str) -> None:
    with pytest.raises(UserError, match=says):
        sampling.check(V)
