"""The forward pass of multi-head latent attention."""

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.families import TransformerConfig, tree
from scaling.families.mla import MLA as Declared
from scaling.models.attention import attended, extended
from scaling.models.layer import NOTHING, Arrays, Aux, LayerContext, LayerPart
from scaling.models.linear import Linear
from scaling.models.norm import rms_norm
from scaling.models.parameters import Params
from scaling.models.positions import rotate
from scaling.parallel.sharding import constrain


class MLA(LayerPart):
    """See `families.mla`."""

    def __init__(self, config: TransformerConfig, part: Declared, params: Params):
        self.config, self.part = config, part
        declared = tree(part.tensors(config))
        self.q, self.o, self.kv_down, self.k_rope, self.k_up, self.v_up = (
            Linear(params[name], declared[name]) for name in ("q", "o", "kv_down", "k_rope", "k_up", "v_up")
        )
        self.q_down = Linear(params["q_down"], declared["q_down"]) if "q_down" in params else None
        self.q_scale = nnx.Param(params["q_scale"]) if "q_scale" in params else None
        self.kv_scale = nnx.Param(params["kv_scale"])

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        config = self.config
        q_BxLxHxn, turned_BxLxHxr, latent_BxLxR, shared_BxLx1xr = self._projections(x_BxLxD, context)
        shape = (*x_BxLxD.shape[:2], config.n_heads, -1)
        k_BxLxHxd, v_BxLxHxd = (up(latent_BxLxR).reshape(shape) for up in (self.k_up, self.v_up))
        q_BxLxHxd = jnp.concatenate([q_BxLxHxn, turned_BxLxHxr], -1)
        k_BxLxHxd = jnp.concatenate([k_BxLxHxd, jnp.broadcast_to(shared_BxLx1xr, turned_BxLxHxr.shape)], -1)
        return self.o(attended(config, context, q_BxLxHxd, k_BxLxHxd, v_BxLxHxd, dropout_key)), NOTHING

    def extend(self, x_BxTxD: jax.Array, context: LayerContext, cache: Arrays) -> tuple[jax.Array, Arrays]:
        """The up-projection of keys is applied to the queries instead, and that of values to the attention output
        (2405.04434, section 2.1.2), so that only the latents are cached, which all heads share."""
        q_BxTxHxn, turned_BxTxHxr, latent_BxTxR, shared_BxTx1xr = self._projections(x_BxTxD, context)
        k_RxHxn, v_RxHxv = self._by_head(self.k_up), self._by_head(self.v_up)
        q_BxTxHxR = jnp.einsum("bthn,rhn->bthr", q_BxTxHxn, k_RxHxn)
        if self.config.bias:
            latent_BxTxR = jnp.pad(latent_BxTxR, ((0, 0), (0, 0), (0, 1)), constant_values=1)
        q_BxTxHxd = jnp.concatenate([q_BxTxHxR, turned_BxTxHxr], -1)
        new = {"keys": jnp.concatenate([latent_BxTxR[:, :, None], shared_BxTx1xr], -1)}
        widths = self.part.nope + self.part.rope, latent_BxTxR.shape[-1]
        read_BxTxHxR, cache = extended(self.config, context, q_BxTxHxd, new, cache, *widths)
        out_BxTxHxv = jnp.einsum("bthr,rhv->bthv", read_BxTxHxR, v_RxHxv)
        return self.o(out_BxTxHxv.reshape(*x_BxTxD.shape[:2], -1)), cache

    def _projections(self, x_BxLxD: jax.Array, context: LayerContext) -> tuple[jax.Array, ...]:
        """(unrotated part of queries, rotated part of queries, latents of keys and values, rotated part of the keys,
        shared by the heads)."""
        if context.rope is None:
            raise ValueError("mla rotates a part of queries and keys by rotary positions, but there are none")
        read_BxLxQ = x_BxLxD
        if self.q_down is not None and self.q_scale is not None:
            read_BxLxQ = self._latent(self.q_down(x_BxLxD), self.q_scale)
        latent_BxLxR = self._latent(self.kv_down(x_BxLxD), self.kv_scale)
        q_BxLxHxd = self.q(read_BxLxQ).reshape(*x_BxLxD.shape[:2], self.config.n_heads, -1)
        q_BxLxHxn, turned_BxLxHxr = jnp.split(q_BxLxHxd, (self.part.nope,), -1)
        shared_BxLx1xr = rotate(self.k_rope(x_BxLxD)[:, :, None], *context.rope)
        return q_BxLxHxn, rotate(turned_BxLxHxr, *context.rope), latent_BxLxR, shared_BxLx1xr

    def _by_head(self, up: Linear) -> jax.Array:
        """The map `up` as [R, H, width]; a bias is appended as one more row, for a constant latent of 1."""
        kernel = up.kernel[...]
        if up.bias is not None:
            kernel = jnp.concatenate([kernel, up.bias[...][None].astype(kernel.dtype)])
        return kernel.reshape(len(kernel), self.config.n_heads, -1)

    def _latent(self, x_BxLxR: jax.Array, scale: nnx.Param[jax.Array]) -> jax.Array:
        return rms_norm(constrain(x_BxLxR, "batch", "sequence", None), scale[...], self.config.norm_eps)
