"""A transformer written in NumPy, in float64 and one window at a time, and tiny models with random parameters."""

from functools import cache
from typing import Any

import jax
import numpy as np
from scipy.special import erf

from scaling.config import Placement, TransformerConfig
from scaling.families import Mask
from scaling.families.rope import Rope
from scaling.models import functional

VOCAB, L, D = 32, 24, 16
TINY: dict[str, Any] = {"vocab": VOCAB, "context": L, "layers": 2, "d_model": D, "n_heads": 4, "d_ff": 24}
GPT2 = {"norm": "layernorm", "bias": True, "position": "learned", "activation": "gelu", "tied": True}


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
