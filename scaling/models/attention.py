"""The attention mixer: multi-head attention with grouped keys and values."""

import jax
from flax import nnx

from scaling.families import TransformerConfig
from scaling.families.attention import Attention as Declared
from scaling.models.attend import attend
from scaling.models.attention_mask import AttentionMask
from scaling.models.language_model import scaled
from scaling.models.layer import NOTHING, Aux, LayerContext, LayerPart
from scaling.models.linear import Linear
from scaling.models.norm import rms_norm
from scaling.models.parameters import Params
from scaling.models.positions import rotate
from scaling.parallel.sharding import constrain


class Attention(LayerPart):
    """See `families.attention`."""

    def __init__(self, config: TransformerConfig, part: Declared, params: Params):
        self.config = config
        self.q, self.k, self.v, self.o = (Linear(params[name]) for name in "qkvo")
        self.q_scale = nnx.Param(params["q_scale"]) if config.qk_norm else None
        self.k_scale = nnx.Param(params["k_scale"]) if config.qk_norm else None

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        config = self.config
        batch, length, _ = x_BxLxD.shape
        q_BxLxHxd = self.q(x_BxLxD).reshape(batch, length, config.n_heads, config.d_head)
        k_BxLxKxd = self.k(x_BxLxD).reshape(batch, length, config.n_kv_heads, config.d_head)
        v_BxLxKxd = self.v(x_BxLxD).reshape(batch, length, config.n_kv_heads, config.d_head)
        if self.q_scale is not None and self.k_scale is not None:
            q_BxLxHxd = rms_norm(q_BxLxHxd, self.q_scale[...], config.norm_eps)
            k_BxLxKxd = rms_norm(k_BxLxKxd, self.k_scale[...], config.norm_eps)
        if context.rope is not None:
            q_BxLxHxd, k_BxLxKxd = rotate(q_BxLxHxd, *context.rope), rotate(k_BxLxKxd, *context.rope)
        q_BxLxHxd = scaled(q_BxLxHxd, config.transfer.scores)
        q_BxLxHxd = constrain(q_BxLxHxd, "batch", "sequence", "heads", None)
        k_BxLxKxd = constrain(k_BxLxKxd, "batch", "sequence", "kv_heads", None)
        v_BxLxKxd = constrain(v_BxLxKxd, "batch", "sequence", "kv_heads", None)
        out_BxLxHxd = attend(
            q_BxLxHxd,
            k_BxLxKxd,
            v_BxLxKxd,
            AttentionMask(
                context.window, config.attention_softcap, config.position == "alibi", config.dropout, context.mask
            ),
            marks_BxL=context.marks_BxL,
            key=dropout_key,
            implementation=context.placement.attention,
        )
        return self.o(out_BxLxHxd.reshape(batch, length, -1)), NOTHING
