"""Logits of transformers of every layout against one written in NumPy."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import quick_jit
from transformer_in_numpy import GPT2, VOCAB, L, draw, numpy_logits

from scaling.models import functional

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
