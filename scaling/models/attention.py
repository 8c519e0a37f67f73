"""The attention mixer: multi-head attention with grouped keys and values."""

import jax
from flax import nnx

from scaling.families import TransformerConfig, tree
from scaling.families.attention import Attention as Declared
from scaling.families.attention_mask import AttentionMask
from scaling.families.context import choose_context
from scaling.models.attend import attend
from scaling.models.attention_cache import attend_cached
from scaling.models.attention_mask import Places
from scaling.models.language_model import scaled
from scaling.models.layer import NOTHING, Arrays, Aux, LayerContext, LayerPart
from scaling.models.linear import Linear
from scaling.models.norm import rms_norm
from scaling.models.parameters import Params
from scaling.models.positions import rotate
from scaling.parallel.sharding import constrain, ways


class Attention(LayerPart):
    """See `families.attention`."""

    def __init__(self, config: TransformerConfig, part: Declared, params: Params):
        self.config = config
        declared = tree(part.tensors(config))
        self.q, self.k, self.v, self.o = (Linear(params[name], declared[name]) for name in "qkvo")
        self.q_scale, self.k_scale, self.sinks = (
            nnx.Param(params[name]) if name in params else None for name in ("q_scale", "k_scale", "sinks")
        )

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        q_BxLxHxd, k_BxLxKxd, v_BxLxKxd = self._made(x_BxLxD, context)
        sinks_H = None if self.sinks is None else self.sinks[...]
        out_BxLxW = attended(self.config, context, q_BxLxHxd, k_BxLxKxd, v_BxLxKxd, dropout_key, sinks_H)
        return self.o(out_BxLxW), NOTHING

    def extend(self, x_BxTxD: jax.Array, context: LayerContext, cache: Arrays) -> tuple[jax.Array, Arrays]:
        q_BxTxHxd, k_BxTxKxd, v_BxTxKxd = self._made(x_BxTxD, context)
        new, sinks_H = {"keys": k_BxTxKxd, "values": v_BxTxKxd}, None if self.sinks is None else self.sinks[...]
        d_head = self.config.d_head
        out_BxTxHxd, cache = extended(self.config, context, q_BxTxHxd, new, cache, d_head, d_head, sinks_H)
        return self.o(out_BxTxHxd.reshape(*x_BxTxD.shape[:2], -1)), cache

    def _made(self, x_BxLxD: jax.Array, context: LayerContext) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values, turned by their positions."""
        q_BxLxHxd = self._heads(self.q(x_BxLxD), "heads", self.q_scale)
        k_BxLxKxd = self._heads(self.k(x_BxLxD), "kv_heads", self.k_scale)
        v_BxLxKxd = self._heads(self.v(x_BxLxD), "kv_heads", None)
        if context.rope is not None:
            q_BxLxHxd, k_BxLxKxd = rotate(q_BxLxHxd, *context.rope), rotate(k_BxLxKxd, *context.rope)
        return scaled(q_BxLxHxd, self.config.transfer.scores), k_BxLxKxd, v_BxLxKxd

    def _heads(self, x_BxLxW: jax.Array, axis: str, scale: nnx.Param[jax.Array] | None) -> jax.Array:
        """[B, L, heads, d], normed over as many features as there is a scale for: those of one head or of all.

        Fewer heads than devices are gathered before anything is made of them: positions turn a head as a whole.
        """
        shape = (*x_BxLxW.shape[:2], -1, self.config.d_head)
        whole = x_BxLxW.shape[-1] // self.config.d_head % ways(axis) == 0
        x_BxLxW = constrain(x_BxLxW, "batch", "sequence", axis if whole else None)
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
    (length, heads), q_BxLxHxd = q_BxLxHxd.shape[1:3], _scaled_by_position(context, q_BxLxHxd)
    out_BxLxHxd = attend(
        constrain(q_BxLxHxd, "batch", "sequence", "heads", None),
        constrain(k_BxLxKxd, "batch", "sequence", "kv_heads", None),
        constrain(v_BxLxKxd, "batch", "sequence", "kv_heads", None),
        _mask(config, context),
        marks_BxL=context.marks_BxL,
        key=dropout_key,
        sinks_H=sinks_H,
        implementation=context.placement.attention,
        way=choose_context(context.placement.context, heads, length, ways("heads"), ways("sequence")),
    )
    out_BxLxHxd = constrain(out_BxLxHxd, "batch", "sequence", "heads", None)
    return out_BxLxHxd.reshape(*out_BxLxHxd.shape[:2], -1)


def extended(
    config: TransformerConfig,
    context: LayerContext,
    q_BxTxHxd: jax.Array,
    new: Arrays,
    cache: Arrays,
    d_qk: int,
    d_v: int,
    sinks_H: jax.Array | None = None,
) -> tuple[jax.Array, Arrays]:
    """What a layer's heads read for tokens that follow those in the cache, and the cache with them.

    new, d_v: as of `attend_cached`. d_qk: the width that scores are scaled by.
    """
    if context.positions is None or context.marks_BxL is None:
        raise ValueError("tokens that follow others have positions and marks")
    q_BxTxHxd = _scaled_by_position(context, q_BxTxHxd)
    places = Places(context.positions, context.marks_BxL)
    return attend_cached(
        q_BxTxHxd, new, cache, _mask(config, context), places, d_v=d_v, scale=d_qk**-0.5, sinks_H=sinks_H
    )


def _scaled_by_position(context: LayerContext, q_BxLxHxd: jax.Array) -> jax.Array:
    if context.query_scale is None:
        return q_BxLxHxd
    return (q_BxLxHxd * context.query_scale).astype(q_BxLxHxd.dtype)


def _mask(config: TransformerConfig, context: LayerContext) -> AttentionMask:
    """What a layer's queries see."""
    return AttentionMask(
        context.window,
        config.attention_softcap,
        config.position == "alibi",
        config.dropout,
        context.mask,
        context.chunk,
        context.global_tokens,
        config.restart_positions is True,
    )
