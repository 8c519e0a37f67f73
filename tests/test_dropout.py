"""What dropout zeroes, how much of it, and that the mean stays."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit
from transformer_in_numpy import VOCAB, D, L, draw

from scaling.config import Placement
from scaling.families import TransformerConfig
from scaling.families.kernels import BLOCK
from scaling.models import functional
from scaling.models.attention_mask import dropout

RATE = 0.25
ONES, EYES = np.ones((2, D), np.float32), np.stack([np.eye(D, dtype=np.float32)] * 2)
DROPPED: dict[str, tuple[dict[str, Any], float]] = {
    "embedding": ({"embedding": np.ones((VOCAB, D), np.float32)}, RATE),
    "attention's output": ({"layers": {"attention": {"o": {"bias": ONES}}}}, RATE**2),
    "mlp's output": ({"layers": {"mlp": {"down": {"bias": ONES}}}}, RATE**2),
    "probabilities and output": (
        {"layers": {"attention": {"v": {"bias": ONES}, "o": {"kernel": EYES}}}},
        (1 - (1 - RATE) ** 2) ** 2,
    ),
}
"""what is not zero in a model of two layers, and the share of zeros that dropout then makes of its ones"""


def put(tree: Any, values: Any) -> Any:
    """`tree` with `values` in it."""
    if not isinstance(tree, dict):
        return values
    return {k: put(v, values[k]) if k in values else v for k, v in tree.items()}


@cache
def dropout_run() -> tuple[Any, Any]:
    """(parameters all zero but the final norm's scale, jitted hidden states): zero in is zero out."""
    _, graph, params = draw(bias=True, position="none", activation="relu", dropout=RATE)
    tokens = jnp.zeros((256, 2), jnp.int32)
    zero = put(jax.tree.map(np.zeros_like, params), {"norm": {"scale": np.ones(D, np.float32)}})
    return zero, quick_jit(lambda p, seed: functional.bind(*graph, p)(tokens, dropout_key=jax.random.key(seed)))


@pytest.mark.parametrize("case", DROPPED)
def test_dropout_zeroes_its_share_independently_in_every_place_and_layer(case: str) -> None:
    values, share = DROPPED[case]
    zero, run = dropout_run()
    hidden = run(put(zero, values), 0)[:, 0]  # the first query's one key has probability one
    assert (hidden == 0).mean() == pytest.approx(share, abs=0.06)
    assert (run(put(zero, values), 0)[:, 0] == hidden).all()
    assert (run(put(zero, values), 1)[:, 0] != hidden).any()


def test_dropout_keeps_the_mean() -> None:
    x = jnp.full((200, 200), 3.0)
    dropped = np.asarray(dropout(x, RATE, jax.random.key(0)))
    assert set(np.unique(dropped)) == {0.0, 4.0}
    assert dropped.mean() == pytest.approx(3.0, abs=0.04)
    assert dropout(x.astype(jnp.bfloat16), RATE, jax.random.key(0)).dtype == jnp.bfloat16


def test_without_a_key_nothing_is_dropped() -> None:
    tokens = jnp.arange(L)[None]
    with_dropout, without = draw(dropout=0.5), draw(dropout=0.0)
    a, b = (quick_jit(lambda p, g=g: functional.bind(*g, p)(tokens))(p) for _, g, p in (with_dropout, without))
    np.testing.assert_array_equal(a, b)


def test_no_key_is_drawn_from_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many global tokens as a block of queries has. (For jitter see `test_moe`.)"""
    drawn: list[bytes] = []

    def noted(key: jax.Array, share: float, shape: tuple[int, ...]) -> np.ndarray:
        drawn.append(np.asarray(jax.random.key_data(key)).tobytes())
        return np.ones(shape, bool)

    monkeypatch.setattr(jax.random, "bernoulli", noted)
    config = TransformerConfig.model_validate({
        "vocab": 8, "context": 2 * BLOCK, "layers": 1, "d_model": 8, "n_heads": 1, "dropout": RATE,
        "sliding_window": 4, "global_tokens": BLOCK, "mixer": {"kind": "attention", "global_projections": True},
    })  # fmt: skip
    params = jax.tree.map(lambda w: np.zeros(w.shape, np.float32), functional.abstract(config))
    model = functional.bind(config, Placement(layers="unroll", attention="blocked"), params, "full")
    model(jnp.zeros((1, 2 * BLOCK), jnp.int32), dropout_key=jax.random.key(1))
    assert len(drawn) == len(set(drawn)) == 6  # embedding, two blocks, global tokens, two branches
