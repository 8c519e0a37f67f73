"""The attention mixer: multi-head attention with grouped keys and values."""

import jax
from flax import nnx

from scaling.families import TransformerConfig
from scaling.families.attention import Attention as Declared
from scaling.families.attention_mask import AttentionMask
from scaling.families.context import CONTEXTS, choose_context
from scaling.models.attend import attend
from scaling.models.language_model import scaled
from scaling.models.layer import NOTHING, Aux, LayerContext, LayerPart
from scaling.models.linear import Linear
from scaling.models.norm import rms_norm
from scaling.models.parameters import Params
from scaling.models.positions import rotate
from scaling.parallel.sharding import constrain, ways


class Attention(LayerPart):
    """See `families.attention`."""

    def __init__(self, config: TransformerConfig, part: Declared, params: Params):
        self.config = config
        self.q, self.k, self.v, self.o = (Linear(params[name]) for name in "qkvo")
        self.q_scale, self.k_scale, self.sinks = (
            nnx.Param(params[name]) if name in params else None for name in ("q_scale", "k_scale", "sinks")
        )

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        config = self.config
        q_BxLxHxd = self._heads(self.q(x_BxLxD), self.q_scale)
        k_BxLxKxd = self._heads(self.k(x_BxLxD), self.k_scale)
        v_BxLxKxd = self._heads(self.v(x_BxLxD), None)
        if context.rope is not None:
            q_BxLxHxd, k_BxLxKxd = rotate(q_BxLxHxd, *context.rope), rotate(k_BxLxKxd, *context.rope)
        q_BxLxHxd = scaled(q_BxLxHxd, config.transfer.scores)
        sinks_H = None if self.sinks is None else self.sinks[...]
        return self.o(attended(config, context, q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, dropout_key, sinks_H)), NOTHING

    def _heads(self, x_BxLxW: jax.Array, scale: nnx.Param[jax.Array] | None) -> jax.Array:
        """[B, L, heads, d], normed over as many features as there is a scale for: those of one head or of all."""
        shape = (*x_BxLxW.shape[:2], -1, self.config.d_head)
        if scale is None:
            return x_BxLxW.reshape(shape)
        parts = x_BxLxW.reshape(*shape[:2], -1, scale.shape[0])
        return rms_norm(parts, scale[...], self.config.norm_eps).reshape(shape)


def attended(
    config: TransformerConfig,
    context: LayerContext,
    q_BxLxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    dropout_key: jax.Array | None,
    sinks_H: jax.Array | None = None,
) -> jax.Array:
    """What a layer's heads read, side by side: [B, L, H·d]."""
    if context.query_scale is not None:
        q_BxLxHxd = (q_BxLxHxd * context.query_scale).astype(q_BxLxHxd.dtype)
    heads = q_BxLxHxd.shape[2]
    meet = CONTEXTS[choose_context(context.placement.context, heads, ways("heads"), ways("sequence"))]
    q_BxLxHxd = constrain(constrain(q_BxLxHxd, "batch", "sequence", "heads", None), *meet[0])
    k_BxLxKxd = constrain(constrain(k_BxLxKxd, "batch", "sequence", "kv_heads", None), *meet[1])
    v_BxLxKxd = constrain(constrain(v_BxLxKxd, "batch", "sequence", "kv_heads", None), *meet[1])
    out_BxLxHxd = attend(
        q_BxLxHxd,
        k_BxLxKxd,
        v_BxLxKxd,
        AttentionMask(
            context.window,
            config.attention_softcap,
            config.position == "alibi",
            config.dropout,
            context.mask,
            context.chunk,
            context.global_tokens,
            config.restart_positions is True,
        ),
        marks_BxL=context.marks_BxL,
        key=dropout_key,
        sinks_H=sinks_H,
        implementation=context.placement.attention,
    )
    out_BxLxHxd = constrain(constrain(out_BxLxHxd, *meet[0]), "batch", "sequence", "heads", None)
    return out_BxLxHxd.reshape(*out_BxLxHxd.shape[:2], -1)
