"""The transformer against one written in NumPy, and what must hold of any: causality, precision, dropout."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from tiny_run import quick_jit

from scaling.config import Placement, TransformerConfig
from scaling.errors import UserError
from scaling.families import Mask
from scaling.families.rope import Rope
from scaling.models import functional
from scaling.models.attention_mask import dropout

VOCAB, L, D = 32, 24, 16
TINY: dict[str, Any] = {"vocab": VOCAB, "context": L, "layers": 2, "d_model": D, "n_heads": 4, "d_ff": 24}


@cache
def _draw(model: TransformerConfig) -> tuple[Any, Any]:
    graph, shapes = (model, Placement()), functional.abstract(model)
    rng = np.random.default_rng(0)

    def value(path: Any, shape: Any) -> np.ndarray:
        mean = 1.0 if path[-1].key.endswith("scale") else 0.0
        return (mean + 0.3 * rng.normal(size=shape.shape)).astype(np.float32)

    return graph, jax.tree_util.tree_map_with_path(value, shapes)


def draw(**values: Any) -> tuple[TransformerConfig, Any, Any]:
    """(config, graph, parameters) of a tiny model, all parameters random: no bias is zero and no scale one."""
    model = TransformerConfig(**{**TINY, **values})
    return model, *_draw(model)


# ---------------------------------------------------------------- the same in NumPy, float64, one window at a time


def normed(x: np.ndarray, p: Any, model: TransformerConfig) -> np.ndarray:
    if model.norm == "layernorm":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + model.norm_eps)
        return x * p["scale"] + p.get("bias", 0)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + model.norm_eps) * p["scale"]


def linear(x: np.ndarray, p: Any) -> np.ndarray:
    return x @ p["kernel"] + p.get("bias", 0)


def turned(x_Lxd: np.ndarray, theta: float, fraction: float, divided: float) -> np.ndarray:
    """Rotary positions in LLaMA's half layout, by complex numbers; `divided` is the factor of interpolation."""
    half = round(x_Lxd.shape[1] * fraction) // 2
    angle = np.outer(np.arange(len(x_Lxd)) / divided, theta ** (-np.arange(half) / max(half, 1)))
    z = (x_Lxd[:, :half] + 1j * x_Lxd[:, half : 2 * half]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag, x_Lxd[:, 2 * half :]], 1)


def of_layer(pattern: Any, n: int) -> Any:
    return pattern[n % len(pattern)] if pattern else None


def attention(x_LxD: np.ndarray, p: Any, model: TransformerConfig, n: int, mask: Mask) -> np.ndarray:
    out_LxW = read(x_LxD, p, model, n, mask)
    if getattr(model.parts[0][0], "global_projections", None):
        known = of_layer(model.global_tokens, n)
        out_LxW[:known] = read(x_LxD, p | {name: p[f"{name}_global"] for name in "qkv"}, model, n, mask)[:known]
    return linear(out_LxW, p["o"])


def read(x_LxD: np.ndarray, p: Any, model: TransformerConfig, n: int, mask: Mask) -> np.ndarray:
    d, q, k, v = model.d_head, *(linear(x_LxD, p[name]) for name in "qkv")
    mixer: Any = model.parts[0][0]
    if mixer.qk_norm == "width":
        q, k = (normed(x, {"scale": p[f"{name}_scale"]}, model) for name, x in (("q", q), ("k", k)))
    i, j = np.indices((len(x_LxD), len(x_LxD)))
    distance = np.abs(i - j)
    near = distance < (of_layer(model.sliding_window, n) or len(x_LxD))
    if chunk := of_layer(model.attention_chunk, n):
        near = near & (i // chunk == j // chunk)
    if known := of_layer(model.global_tokens, n):
        near = near | (i < known) | (j < known)
    seen = near & ((j <= i) | (mask == "full"))
    rope: Any = of_layer(model.rope, n) or Rope()
    outs = []
    for h in range(model.n_heads):
        kv = h // (model.n_heads // model.n_kv_heads)
        qh, kh, vh = q[:, h * d : (h + 1) * d], k[:, kv * d : (kv + 1) * d], v[:, kv * d : (kv + 1) * d]
        if model.qk_norm:
            rms = [np.sqrt((x**2).mean(1, keepdims=True) + model.norm_eps) for x in (qh, kh)]
            qh, kh = qh / rms[0] * p["q_scale"], kh / rms[1] * p["k_scale"]
        if model.position == "rope":
            fraction = 1.0 if rope.fraction is None else rope.fraction
            divided = rope.scaling.factor if rope.scaling else 1.0
            qh, kh = (turned(x, rope.theta or model.rope_theta, fraction, divided) for x in (qh, kh))
            if getattr(rope.scaling, "attention_factor", None):
                qh, kh = (x * rope.scaling.attention_factor for x in (qh, kh))
            if rope.temperature:
                grown = np.log(np.floor((np.arange(len(qh)) + 1) / rope.temperature.floor) + 1)
                qh = qh * (grown * rope.temperature.scale + 1)[:, None]
        scores = qh @ kh.T / np.sqrt(d)
        if model.mup and model.mup.d_head:
            scores = qh @ kh.T * np.sqrt(model.mup.d_head) / d  # 1/d as heads grow (µP), the same at the base
        if model.attention_softcap:
            scores = model.attention_softcap * np.tanh(scores / model.attention_softcap)
        if model.position == "alibi":
            scores = scores - 2.0 ** (-8 * (h + 1) / model.n_heads) * distance
        weights = np.where(seen, np.exp(scores), 0)
        nothing = np.exp(p["sinks"][h]) if mixer.sinks else 0.0
        outs.append(weights / (weights.sum(1, keepdims=True) + nothing) @ vh)
    return np.concatenate(outs, 1)


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_erf": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "relu": lambda x: x * (x > 0),
    "relu2": lambda x: x**2 * (x > 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def mlp(x: np.ndarray, p: Any, model: TransformerConfig) -> np.ndarray:
    if model.activation == "clamped_swiglu":
        gate, up = np.minimum(linear(x, p["gate"]), 7), np.clip(linear(x, p["up"]), -7, 7)
        return linear(gate / (1 + np.exp(-1.702 * gate)) * (up + 1), p["down"])
    act = ACTIVATIONS[{"geglu": "gelu", "swiglu": "silu"}.get(model.activation, model.activation)]
    gated = model.activation in ("geglu", "swiglu")
    return linear(act(linear(x, p["gate"])) * linear(x, p["up"]) if gated else act(linear(x, p["up"])), p["down"])


def layer(x: np.ndarray, p: Any, model: TransformerConfig, n: int, mask: Mask) -> np.ndarray:
    post, on_output = model.norm_position == "post", model.norm_position in ("sandwich", "output")
    share = model.mup.layers / model.layers if model.mup and model.mup.layers else 1  # of a branch (CompleteP)

    def attend(y: np.ndarray) -> np.ndarray:
        out = attention(y, p["attention"], model, n, mask)
        return share * (normed(out, p["attention_out_norm"], model) if on_output else out)

    def feed(y: np.ndarray) -> np.ndarray:
        out = mlp(y, p["mlp"], model)
        return share * (normed(out, p["mlp_out_norm"], model) if on_output else out)

    if model.norm_position == "output":
        x, mixed = (x, attend(x)) if model.parallel_block else (x + attend(x), 0)
        return x + mixed + feed(x)
    if model.parallel_block and post:
        return normed(x + attend(x) + feed(x), p["attention_norm"], model)
    if model.parallel_block:
        y = normed(x, p["attention_norm"], model)
        z = normed(x, p["mlp_norm"], model) if model.parallel_block == "two_norms" else y
        return x + attend(y) + feed(z)
    if post:
        x = normed(x + attend(x), p["attention_norm"], model)
        return normed(x + feed(x), p["mlp_norm"], model)
    x = x + attend(normed(x, p["attention_norm"], model))
    return x + feed(normed(x, p["mlp_norm"], model))


def numpy_logits(model: TransformerConfig, params: Any, tokens: np.ndarray, mask: Mask = "causal") -> np.ndarray:
    params = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    x = params["embedding"][tokens]
    if model.scaled_input:
        x = x * np.sqrt(model.mup.width if model.mup else D)
    if model.position == "learned":
        x = x + params["position"][: len(x)]
    if model.position == "sinusoidal":
        feature, position = np.arange(0, D, 2), np.arange(len(x))[:, None]
        x[:, 0::2] += np.sin(position / 10_000 ** (feature / D))
        x[:, 1::2] += np.cos(position / 10_000 ** (feature / D))
    unique = [jax.tree.map(lambda w, n=n: w[n], params["layers"]) for n in range(model.unique_layers)]
    for n in range(model.layers):
        x = layer(x, unique[n // model.layer_sharing], model, n, mask)
    if model.norm_position != "post":
        x = normed(x, params["norm"], model)
    logits = x @ (params["embedding"].T if model.tied else params["head"])
    logits = logits * model.mup.width / model.d_model if model.mup else logits
    return model.logit_softcap * np.tanh(logits / model.logit_softcap) if model.logit_softcap else logits


GPT2 = {"norm": "layernorm", "bias": True, "position": "learned", "activation": "gelu", "tied": True}
LLAMA = {"n_kv_heads": 2, "rope_theta": 500_000.0, "activation": "swiglu", "tied": False, "norm_eps": 1e-6}
LAYOUTS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "post (the original transformer)": {
        **GPT2,
        "norm_position": "post",
        "position": "sinusoidal",
        "activation": "relu",
    },
    "sandwich, windows and soft-caps (gemma 2)": {
        **LLAMA,
        "scaled_input": True,
        "norm_position": "sandwich",
        "activation": "geglu",
        "sliding_window": (5, None),
        "attention_softcap": 2.0,
        "logit_softcap": 1.5,
        "layers": 3,
    },
    "parallel (palm)": {**LLAMA, "parallel_block": True, "n_kv_heads": 1, "tied": True},
    "parallel, sandwich": {**GPT2, "parallel_block": True, "norm_position": "sandwich"},
    "norms of outputs (olmo 2)": {
        **LLAMA,
        "norm_position": "output",
        "mixer": {"kind": "attention", "qk_norm": "width"},
    },
    "parallel, norms of outputs": {**GPT2, "parallel_block": True, "norm_position": "output"},
    "parallel, post": {"parallel_block": True, "norm_position": "post", "position": "none", "activation": "silu"},
    "query-key norm (qwen 3)": {**LLAMA, "qk_norm": True, "d_head": 6},
    "query-key norm of the whole width (olmoe)": {**LLAMA, "mixer": {"kind": "attention", "qk_norm": "width"}},
    "sinks, biases, every other layer with a window (gpt-oss)": {
        **LLAMA,
        "bias": True,
        "activation": "clamped_swiglu",
        "sliding_window": (5, None),
        "mixer": {"kind": "attention", "sinks": True},
    },
    "erf": {**GPT2, "activation": "gelu_erf"},
    "alibi, relu2, no bias in layer norms": {"norm": "layernorm", "position": "alibi", "activation": "relu2"},
    "partial rotary (pythia)": {**GPT2, "position": "rope", "parallel_block": "two_norms", "rope": {"fraction": 0.5}},
    "two norms, sandwich": {**GPT2, "parallel_block": "two_norms", "norm_position": "sandwich"},
    "near layers and far ones, of other frequencies (gemma 3)": {
        **LLAMA,
        "norm_position": "sandwich",
        "qk_norm": True,
        "layers": 4,
        "sliding_window": (5, None),
        "rope": [{"theta": 100.0}, {"scaling": {"kind": "linear", "factor": 8}}],
    },
    "chunks, and layers without positions whose queries grow (llama 4)": {
        **LLAMA,
        "layers": 4,
        "attention_chunk": (8, None),
        "rope": [{}, {"fraction": 0, "temperature": {"floor": 6, "scale": 0.7}}],
    },
    "yarn in every other layer, all pairs slow": {
        **LLAMA,
        "rope_theta": 30.0,
        "rope": [
            {
                "scaling": {
                    "kind": "yarn",
                    "factor": 4,
                    "original_context": 5,
                    "attention_factor": 1.4,
                    "ramp": "turns",
                }
            },
            {},
        ],
    },
    "a window and the first tokens (streaming)": {**LLAMA, "sliding_window": (4,), "global_tokens": 2},
    "shared layers (albert)": {**GPT2, "layers": 4, "layer_sharing": 2},
    "transferred in width": {**GPT2, "mup": {"width": 12}, "scaled_input": True},
    "transferred in width, depth and heads": {
        **LLAMA,
        "qk_norm": True,
        "layers": 3,
        "logit_softcap": 1.5,
        "mup": {"width": 10, "layers": 2, "d_head": 1},
    },
    "transferred, sandwich, windows": {
        **GPT2,
        "norm_position": "sandwich",
        "sliding_window": (5, None),
        "mup": {"width": 40, "layers": 5, "d_head": 9},
    },
    "transferred, parallel, post": {
        "parallel_block": True,
        "norm_position": "post",
        "attention_softcap": 2.0,
        "mup": {"width": 20, "layers": 1, "d_head": 2},
    },
}


@pytest.mark.parametrize("values", LAYOUTS.values(), ids=LAYOUTS)
def test_logits_are_those_of_a_transformer_in_numpy(values: dict[str, Any]) -> None:
    model, graph, params = draw(**values)
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, L))
    got = quick_jit(lambda p, t: functional.bind(*graph, p).logits(t))(params, tokens)
    want = np.stack([numpy_logits(model, params, row) for row in tokens])
    assert got.dtype == jnp.float32 and want.std() > 0.1
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


ENCODERS = {
    "rope, windows and soft-caps": LAYOUTS["sandwich, windows and soft-caps (gemma 2)"],
    "learned (bert)": {**GPT2, "norm_position": "post"},
    "a window and global tokens (longformer)": {
        **GPT2,
        "norm_position": "post",
        "sliding_window": (4,),
        "global_tokens": (1, 2),
    },
    "global tokens that read by projections of their own": {
        "n_kv_heads": 2,
        "qk_norm": True,
        "bias": True,
        "sliding_window": (3, None),
        "global_tokens": 2,
        "attention_softcap": 3.0,
        "rope": {"temperature": {"floor": 3, "scale": 0.5}},
        "mixer": {"kind": "attention", "sinks": True, "global_projections": True},
    },
    "sinusoidal": {"position": "sinusoidal"},
    "alibi": {"position": "alibi"},
}


@pytest.mark.parametrize("values", ENCODERS.values(), ids=ENCODERS)
def test_logits_of_an_encoder_are_those_of_one_in_numpy(values: dict[str, Any]) -> None:
    """Every position sees those on either side of it."""
    model, graph, params = draw(**values)
    tokens = np.random.default_rng(1).integers(0, VOCAB, (2, L))
    got = quick_jit(lambda p, t: functional.bind(*graph, p, "full").logits(t))(params, tokens)
    want = np.stack([numpy_logits(model, params, row, "full") for row in tokens])
    causal = np.stack([numpy_logits(model, params, row) for row in tokens])
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)
    assert np.abs(want[:, 0] - causal[:, 0]).max() > 0.1


# ------------------------------------------------------------------------------------------------------- causality


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


# ------------------------------------------------------------------------------ tied heads, windows too long, types


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


# --------------------------------------------------------------------------------------------------------- dropout


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
