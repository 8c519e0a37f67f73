"""Positions and masks in a whole model, each against its paper's definition in plain NumPy."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from plain_transformer import Turn, plain_logits
from tiny_run import quick_jit

from scaling.config.placement import Placement
from scaling.families import TransformerConfig
from scaling.models import functional

LENGTH, HEADS, D, D_HEAD = 21, 4, 32, 8
BASE: dict[str, Any] = {
    "vocab": 64, "context": LENGTH, "layers": 2, "d_model": D, "n_heads": HEADS, "n_kv_heads": 2,
    "activation": "relu2",
}  # fmt: skip
DOCUMENT, PREFIX = np.searchsorted([6, 15], np.arange(LENGTH), "right"), 9  # document numbers, and a prefix's tokens
PLACE = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5])  # of a token in its document


def sinusoid(position: int) -> np.ndarray:
    """Vaswani et al. 2017, section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i + 1) the cosine."""
    found = np.zeros(D)
    for i in range(D // 2):
        angle = position / 10_000 ** (2 * i / D)
        found[2 * i], found[2 * i + 1] = np.sin(angle), np.cos(angle)
    return found


def rope(base: float, stretch: float = 1.0) -> Turn:
    """Su et al. 2021, section 3.2: features i and i + d/2 as one complex number, times e^(i m θᵢ), θᵢ = base^(−2i/d).

    stretch: positions are divided by it (Chen et al. 2023, eq. 4)."""

    def turned(x: np.ndarray, position: int) -> np.ndarray:
        half = D_HEAD // 2
        angle = position / stretch * base ** (-2 * np.arange(half) / D_HEAD)
        z = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag])

    return turned


def causal(i: int, j: int) -> bool:
    return j <= i


CASES: dict[str, tuple[dict[str, Any], str, Any, dict[str, Callable[..., Any]]]] = {
    # changes of the model, the kind of mask, its marks, and what the plain model is given
    "sinusoids": ({"position": "sinusoidal"}, "causal", None, {"added": sinusoid}),
    "sinusoids in documents": (
        {"position": "sinusoidal", "restart_positions": True}, "document", DOCUMENT,
        {"added": lambda i: sinusoid(PLACE[i]), "sees": lambda i, j: j <= i and DOCUMENT[i] == DOCUMENT[j]},
    ),
    "ntk": (  # Peng et al. 2023, definition 1: b' = b · s^(d/(d − 2))
        {"rope": {"theta": 100.0, "scaling": {"kind": "ntk", "factor": 4.0}}}, "causal", None,
        {"turned": rope(100.0 * 4.0 ** (D_HEAD / (D_HEAD - 2)))},
    ),
    "interpolation": (
        {"rope": {"theta": 100.0, "scaling": {"kind": "linear", "factor": 4.0}}}, "causal", None,
        {"turned": rope(100.0, 4.0)},
    ),
    "prefix": (  # Raffel et al. 2020, section 3.2.1: fully visible over the prefix, causal after it
        {"position": "none"}, "prefix", np.arange(LENGTH) < PREFIX, {"sees": lambda i, j: j <= i or j < PREFIX},
    ),
    "kept first tokens": (  # Xiao et al. 2023, section 3.2: the last tokens, and the first ones
        {"position": "none", "sliding_window": 5, "global_tokens": 3}, "causal", None,
        {"sees": lambda i, j: j <= i and (i - j < 5 or j < 3)},
    ),
    "kept first tokens of chunks": (
        {"position": "none", "attention_chunk": 4, "global_tokens": 2}, "causal", None,
        {"sees": lambda i, j: j <= i and (i // 4 == j // 4 or j < 2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_the_plain_one(name: str) -> None:
    changes, mask, marks, plain = CASES[name]
    model = TransformerConfig.model_validate(BASE | changes)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda w: w + 0.1 * rng.standard_normal(w.shape).astype(np.float32),
        functional.init(model, jax.random.key(0)),
    )
    tokens = rng.integers(0, 64, LENGTH)
    bound = functional.bind(model, Placement(), params, mask)  # type: ignore[arg-type]
    told = None if marks is None else marks[None].astype(np.int32)
    hidden = quick_jit(lambda tokens, marks: bound(tokens, marks))(tokens[None], told)
    exact = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    wanted = plain_logits(exact, tokens, HEADS, **{"sees": causal, **plain})
    np.testing.assert_allclose(hidden[0] @ bound.head_matrix(), wanted, rtol=1e-4, atol=1e-4)
