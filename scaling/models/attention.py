"""The attention mixer: multi-head attention with grouped keys and values (GQA)."""

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.families import TransformerConfig, tree
from scaling.families.attention import Attention as Declared
from scaling.families.attention_mask import AttentionMask
from scaling.families.context import choose_context
from scaling.models.attend import attend
from scaling.models.attention_cache import attend_cached
from scaling.models.attention_mask import Places, dropout, masked_softmax
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
        own = [f"{name}_global" for name in "qkv" if part.global_projections]
        self.global_maps = nnx.List([Linear(params[name], declared[name]) for name in own])
        self.q_scale, self.k_scale, self.sinks = (
            nnx.Param(params[name]) if name in params else None for name in ("q_scale", "k_scale", "sinks")
        )

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        qkv = self._qkv(x_BxLxD, context, (self.q, self.k, self.v))
        sinks_H = None if self.sinks is None else self.sinks[...]
        out_BxLxW = attended(self.config, context, *qkv, dropout_key, sinks_H)
        if self.global_maps:
            length = x_BxLxD.shape[1]
            known = min(context.global_tokens, length)
            qkv = self._qkv(x_BxLxD, context, tuple(self.global_maps), slice(known))
            # `blocked` folds in the start of each block of queries, all of them below the length
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, length)
            out_BxLxW = out_BxLxW.at[:, :known].set(first_attended(self.config, context, *qkv, key, sinks_H))
        return self.o(out_BxLxW), NOTHING

    def extend(self, x_BxTxD: jax.Array, context: LayerContext, cache: Arrays) -> tuple[jax.Array, Arrays]:
        q_BxTxHxd, k_BxTxKxd, v_BxTxKxd = self._qkv(x_BxTxD, context, (self.q, self.k, self.v))
        new, sinks_H = {"keys": k_BxTxKxd, "values": v_BxTxKxd}, None if self.sinks is None else self.sinks[...]
        d_head = self.config.d_head
        out_BxTxHxd, cache = extended(self.config, context, q_BxTxHxd, new, cache, d_head, d_head, sinks_H)
        return self.o(out_BxTxHxd.reshape(*x_BxTxD.shape[:2], -1)), cache

    def _qkv(
        self, x_BxLxD: jax.Array, context: LayerContext, maps: tuple[Linear, ...], queries: slice = slice(None)
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries at the positions `queries`, keys and values at all positions, rotated if RoPE is used.

        maps: the linear maps of q, k and v."""
        q_BxQxHxd = self._heads(maps[0](x_BxLxD[:, queries]), "heads", self.q_scale)
        k_BxLxKxd = self._heads(maps[1](x_BxLxD), "kv_heads", self.k_scale)
        v_BxLxKxd = self._heads(maps[2](x_BxLxD), "kv_heads", None)
        if context.rope is not None:
            q_BxQxHxd = rotate(q_BxQxHxd, *(table[..., queries, :] for table in context.rope))
            k_BxLxKxd = rotate(k_BxLxKxd, *context.rope)
        return scaled(q_BxQxHxd, self.config.transfer.scores), k_BxLxKxd, v_BxLxKxd

    def _heads(self, x_BxLxW: jax.Array, axis: str, scale: nnx.Param[jax.Array] | None) -> jax.Array:
        """[B, L, heads, d], normalised over the features that `scale` covers: those of one head, or of all heads.

        If there are fewer heads than devices they are gathered first, since RoPE rotates whole heads.
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
    """The outputs of a layer's heads, concatenated: [B, L, H·d]."""
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


def first_attended(
    config: TransformerConfig,
    context: LayerContext,
    q_BxQxHxd: jax.Array,
    k_BxLxKxd: jax.Array,
    v_BxLxKxd: jax.Array,
    dropout_key: jax.Array | None,
    sinks_H: jax.Array | None = None,
) -> jax.Array:
    """The outputs of the heads for a window's first Q queries over all its keys, concatenated: [B, Q, H·d].

    Q is small: all scores are materialised at once."""
    (batch, queries, heads, d_head), length = q_BxQxHxd.shape, k_BxLxKxd.shape[1]
    mask, q_BxQxHxd = _mask(config, context), _scaled_by_position(context, q_BxQxHxd)
    q_BxQxKxGxd = q_BxQxHxd.reshape(batch, queries, k_BxLxKxd.shape[2], -1, d_head)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", q_BxQxKxGxd, k_BxLxKxd, preferred_element_type=jnp.float32)
    scores_BxHxQxL = scores.reshape(batch, heads, queries, length) * d_head**-0.5
    own, all_keys = Places(jnp.arange(queries)), Places(jnp.arange(length))
    probs = dropout(masked_softmax(scores_BxHxQxL, own, all_keys, mask, sinks_H), mask.dropout, dropout_key)
    probs = probs.reshape(scores.shape).astype(v_BxLxKxd.dtype)
    return jnp.einsum("bkgqs,bskd->bqkgd", probs, v_BxLxKxd).reshape(batch, queries, -1)


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
    """The outputs of a layer's heads for tokens that follow those in the cache, and the updated cache.

    new, d_v: as in `attend_cached`. d_qk: the width by which scores are scaled.
    """
    if context.positions is None or context.marks_BxL is None:
        raise ValueError("tokens that follow others have positions and marks")
    q_BxTxHxd = _scaled_by_position(context, q_BxTxHxd)
    places = Places(context.positions, context.marks_BxL)
    return attend_cached(
        q_BxTxHxd, new, cache, _mask(config, context), places, d_v=d_v, scale=d_qk**-0.5, sinks_H=sinks_H
    )


def _scaled_by_position(context: LayerContext, q_BxLxHxd: jax.Array) -> jax.Array:
    if (scale := context.query_scale) is None:
        return q_BxLxHxd
    scale = scale[..., : q_BxLxHxd.shape[1], :, :] if isinstance(scale, jax.Array) else scale
    return (q_BxLxHxd * scale).astype(q_BxLxHxd.dtype)


def _mask(config: TransformerConfig, context: LayerContext) -> AttentionMask:
    """The attention mask of a layer."""
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
