"""The forward pass of multi-head latent attention."""

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.families import TransformerConfig
from scaling.families.mla import MLA as Declared
from scaling.models.attention import attended
from scaling.models.layer import NOTHING, Aux, LayerContext, LayerPart
from scaling.models.linear import Linear
from scaling.models.norm import rms_norm
from scaling.models.parameters import Params
from scaling.models.positions import rotate
from scaling.parallel.sharding import constrain


class MLA(LayerPart):
    """See `families.mla`."""

    def __init__(self, config: TransformerConfig, part: Declared, params: Params):
        self.config, self.part = config, part
        self.q, self.o = Linear(params["q"]), Linear(params["o"])
        self.q_down = Linear(params["q_down"]) if "q_down" in params else None
        self.q_scale = nnx.Param(params["q_scale"]) if "q_scale" in params else None
        self.kv_down, self.k_rope = Linear(params["kv_down"]), Linear(params["k_rope"])
        self.kv_scale = nnx.Param(params["kv_scale"])
        self.k_up, self.v_up = Linear(params["k_up"]), Linear(params["v_up"])

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        config, nope = self.config, self.part.nope
        if context.rope is None:
            raise ValueError("mla turns a part of queries and keys by rotary positions, and there are none")
        read_BxLxQ = x_BxLxD
        if self.q_down is not None and self.q_scale is not None:
            read_BxLxQ = self._latent(self.q_down(x_BxLxD), self.q_scale)
        latent_BxLxR = self._latent(self.kv_down(x_BxLxD), self.kv_scale)
        shape = (*x_BxLxD.shape[:2], config.n_heads, -1)
        q_BxLxHxd, k_BxLxHxd, v_BxLxHxd = (
            up(read).reshape(shape)
            for up, read in ((self.q, read_BxLxQ), (self.k_up, latent_BxLxR), (self.v_up, latent_BxLxR))
        )
        turned_BxLxHxr = rotate(q_BxLxHxd[..., nope:], *context.rope)
        shared_BxLx1xr = rotate(self.k_rope(x_BxLxD)[:, :, None], *context.rope)
        q_BxLxHxd = jnp.concatenate([q_BxLxHxd[..., :nope], turned_BxLxHxr], -1)
        k_BxLxHxd = jnp.concatenate([k_BxLxHxd, jnp.broadcast_to(shared_BxLx1xr, turned_BxLxHxr.shape)], -1)
        return self.o(attended(config, context, q_BxLxHxd, k_BxLxHxd, v_BxLxHxd, dropout_key)), NOTHING

    def _latent(self, x_BxLxR: jax.Array, scale: nnx.Param[jax.Array]) -> jax.Array:
        return rms_norm(constrain(x_BxLxR, "batch", "sequence", None), scale[...], self.config.norm_eps)
