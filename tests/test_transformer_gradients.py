"""Gradients of transformers: how far they reach, of tied matrices, in bfloat16."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit
from transformer_in_numpy import GPT2, TINY, VOCAB, D, L, draw

from scaling.config import Placement, TransformerConfig
from scaling.errors import UserError
from scaling.models import functional


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("norm_position", ["pre", "post", "sandwich"])
@pytest.mark.parametrize("position", ["rope", "learned", "sinusoidal", "alibi", "none"])
def test_gradients_reach_back_as_far_as_the_windows_let_them_and_never_ahead(
    position: str, norm_position: str, window: int | None
) -> None:
    """Every token of the window is another, so a row of the embedding is one position's input."""
    model, graph, params = draw(position=position, norm_position=norm_position, sliding_window=(window,))
    length = 12
    tokens = jnp.arange(length)[None]

    def outputs(embedding: jax.Array) -> jax.Array:
        hidden = functional.bind(*graph, {**params, "embedding": embedding})(tokens)[0]
        return hidden @ jnp.arange(1.0, D + 1)

    # Not jitted: thirty models of the same few operations, each of which is compiled once.
    jacobian = np.asarray(jax.jacrev(outputs)(params["embedding"]))[:, :length]  # [output position, token, feature]
    reached = (jacobian != 0).any(-1)
    i, j = np.indices((length, length))
    reach = model.layers * (window - 1) if window else length
    np.testing.assert_array_equal(reached, (j <= i) & (i - j <= reach))


MIXED = {**GPT2, "position": "rope", "n_kv_heads": 2, "activation": "swiglu", "qk_norm": True}


@cache
def trained_once(tied: bool = True, compute_dtype: Any = "float32") -> tuple[Any, Any, Any]:
    """(mean loss, hidden states, gradient) of a model whose head is its embedding's transpose, tied or not."""
    _, _, params = draw(**MIXED)
    params = params if tied else {**params, "head": params["embedding"].T}
    graph = TransformerConfig(**{**TINY, **MIXED, "tied": tied}), Placement(compute_dtype=compute_dtype)
    tokens = jnp.asarray(np.random.default_rng(2).integers(0, VOCAB, (2, L)))

    def f(params: Any) -> Any:
        bound = functional.bind(*graph, params)
        return bound.loss_sums(tokens, tokens[:, ::-1], jnp.ones((2, L))).loss / (2 * L), bound(tokens)

    (loss, hidden), gradient = quick_jit(jax.value_and_grad(f, has_aux=True))(params)
    return loss, hidden, gradient


def test_a_tied_matrix_gets_the_gradients_of_embedding_and_head_together() -> None:
    *_, got = trained_once()
    *_, want = trained_once(tied=False)
    assert "head" not in got
    assert all(np.linalg.norm(want[name]) > 0.1 * np.linalg.norm(got["embedding"]) for name in ("embedding", "head"))
    np.testing.assert_allclose(got["embedding"], want["embedding"] + want["head"].T, rtol=1e-4, atol=1e-6)


def test_a_window_longer_than_the_table_of_positions_is_refused() -> None:
    _, graph, params = draw(**GPT2)
    with pytest.raises(UserError, match=rf"window of {L + 1} tokens is longer than model.context={L}"):
        functional.bind(*graph, params)(jnp.zeros((1, L + 1), jnp.int32))


def test_bfloat16_compute_is_close_to_float32_and_gradients_stay_float32() -> None:
    loss, hidden, gradient = trained_once()
    loss16, hidden16, gradient16 = trained_once(compute_dtype="bfloat16")
    assert (hidden.dtype, hidden16.dtype, loss16.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    assert 0 < abs(loss16 - loss) < 0.005 * loss
    error = np.abs(np.asarray(hidden16, np.float32) - hidden)
    assert 0 < error.mean() < 0.02 * np.abs(hidden).mean()  # a rounding to 8 bits is 0.2% on average
    whole, whole16 = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)]) for g in (gradient, gradient16))
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient16))
    assert np.linalg.norm(whole16 - whole) < 0.05 * np.linalg.norm(whole)
