"""A small layer of experts, for the tests of its parts."""

from typing import Any

import jax

from scaling.config import Placement, TransformerConfig
from scaling.models import functional
from scaling.models.layer import LayerContext
from scaling.models.moe import MoE

B, L, D, E = 2, 24, 16, 6
CONTEXT = LayerContext(None, L, "causal", None, Placement())


def model(**feed_forward: Any) -> TransformerConfig:
    part = {"kind": "moe", "experts": E, "d_ff": 20} | feed_forward
    values = {"vocab": 64, "context": L, "layers": 1, "d_model": D, "n_heads": 2, "bias": "router_bias" in part}
    return TransformerConfig.model_validate(values | {"feed_forward": part})


def parameters(config: TransformerConfig, seed: int = 0) -> Any:
    """Of its only layer, none of them 0."""
    own = jax.tree.map(lambda w: w[0], functional.init(config, jax.random.key(seed))["layers"]["mlp"])
    keys = iter(jax.random.split(jax.random.key(seed + 1), 99))
    return jax.tree.map(lambda w: w + 0.1 * jax.random.normal(next(keys), w.shape), own)


def layer(config: TransformerConfig, params: Any, x: jax.Array, way: Any, tokens: jax.Array) -> Any:
    context = LayerContext(None, L, "causal", None, Placement(experts=way), tokens)
    return MoE(config, config.parts[0][1], params)(x, context, None)
