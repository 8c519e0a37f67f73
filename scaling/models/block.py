"""One layer: attention and MLP around the residual stream, with the norms where the configuration puts them."""

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.config.model import ModelConfig
from scaling.models.attention import attend
from scaling.models.attention_mask import AttentionMask, dropout
from scaling.models.linear import Linear
from scaling.models.norm import Norm, rms_norm
from scaling.models.parameters import ParamFacts, declare
from scaling.models.positions import rotate
from scaling.models.width_transfer import width_transfer
from scaling.parallel.sharding import constrain

Rope = tuple[jax.Array, jax.Array] | None


class Attention(nnx.Module):
    """Multi-head attention with grouped keys and values."""

    def __init__(self, config: ModelConfig, *, layers: int, rngs: nnx.Rngs):
        self.config, self.scores = config, width_transfer(config).scores
        d_model, d_head = config.d_model, config.d_head
        queries, keys = config.n_heads * d_head, config.n_kv_heads * d_head
        self.q = Linear(config, (d_model, queries), ("embed", "heads"), layers=layers, rngs=rngs)
        self.k = Linear(config, (d_model, keys), ("embed", "kv_heads"), layers=layers, rngs=rngs)
        self.v = Linear(config, (d_model, keys), ("embed", "kv_heads"), layers=layers, rngs=rngs)
        self.o = Linear(config, (queries, d_model), ("heads", "embed"), layers=layers, rngs=rngs, residual=True)
        facts = ParamFacts(("head_dim",), 1, decay=False, role="vector")
        self.q_scale = declare((d_head,), facts, rngs=rngs, layers=layers, mean=1.0) if config.qk_norm else None
        self.k_scale = declare((d_head,), facts, rngs=rngs, layers=layers, mean=1.0) if config.qk_norm else None

    def __call__(
        self, x_BxLxD: jax.Array, rope: Rope, *, window: int, implementation: str, dropout_key: jax.Array | None
    ) -> jax.Array:
        config = self.config
        batch, length, _ = x_BxLxD.shape
        q_BxLxHxd = self.q(x_BxLxD).reshape(batch, length, config.n_heads, config.d_head)
        k_BxLxKxd = self.k(x_BxLxD).reshape(batch, length, config.n_kv_heads, config.d_head)
        v_BxLxKxd = self.v(x_BxLxD).reshape(batch, length, config.n_kv_heads, config.d_head)
        if self.q_scale is not None and self.k_scale is not None:
            q_BxLxHxd = rms_norm(q_BxLxHxd, self.q_scale[...], config.norm_eps)
            k_BxLxKxd = rms_norm(k_BxLxKxd, self.k_scale[...], config.norm_eps)
        if rope is not None:
            q_BxLxHxd, k_BxLxKxd = rotate(q_BxLxHxd, *rope), rotate(k_BxLxKxd, *rope)
        q_BxLxHxd = scaled(q_BxLxHxd, self.scores)
        q_BxLxHxd = constrain(q_BxLxHxd, "batch", "sequence", "heads", None)
        k_BxLxKxd = constrain(k_BxLxKxd, "batch", "sequence", "kv_heads", None)
        v_BxLxKxd = constrain(v_BxLxKxd, "batch", "sequence", "kv_heads", None)
        out_BxLxHxd = attend(
            q_BxLxHxd,
            k_BxLxKxd,
            v_BxLxKxd,
            AttentionMask(window, config.attention_softcap, config.position == "alibi", config.dropout),
            key=dropout_key,
            implementation=implementation,
        )
        return self.o(out_BxLxHxd.reshape(batch, length, -1))


class MLP(nnx.Module):
    """down(activation(up(x))), or down(activation(gate(x)) · up(x)) where the activation is gated."""

    def __init__(self, config: ModelConfig, *, layers: int, rngs: nnx.Rngs):
        self.activation = config.activation
        into, out = (config.d_model, config.d_ff), (config.d_ff, config.d_model)
        self.up = Linear(config, into, ("embed", "mlp"), layers=layers, rngs=rngs)
        self.gate = Linear(config, into, ("embed", "mlp"), layers=layers, rngs=rngs) if config.gated else None
        self.down = Linear(config, out, ("mlp", "embed"), layers=layers, rngs=rngs, residual=True)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        up_BxLxF = constrain(self.up(x_BxLxD), "batch", "sequence", "mlp")
        if self.gate is not None:
            gate_BxLxF = constrain(self.gate(x_BxLxD), "batch", "sequence", "mlp")
            return self.down(activate(gate_BxLxF, self.activation) * up_BxLxF)
        return self.down(activate(up_BxLxF, self.activation))


def activate(x: jax.Array, name: str) -> jax.Array:
    """The activation of that name; a gated one's is that of its gate. GELU is the tanh form (GPT-2)."""
    if name in ("gelu", "geglu"):
        return jax.nn.gelu(x, approximate=True)
    if name in ("silu", "swiglu"):
        return jax.nn.silu(x)
    x = jnp.maximum(x, 0)
    return x * x if name == "relu2" else x  # ReLU²: So et al. 2021, 2109.08668


def scaled(x: jax.Array, factor: float) -> jax.Array:
    """`x` times `factor`; `x` itself where that is 1, to the last bit and operation."""
    return x if factor == 1 else x * factor


class Block(nnx.Module):
    """A layer, or all layers stacked: every parameter has a leading `layers` axis until a slice is bound."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        layers = config.unique_layers
        self.position, self.parallel, self.rate = config.norm_position, config.parallel_block, config.dropout
        self.branch = width_transfer(config).branch
        self.attention = Attention(config, layers=layers, rngs=rngs)
        self.mlp = MLP(config, layers=layers, rngs=rngs)
        self.attention_norm = Norm(config, layers=layers, rngs=rngs)
        self.mlp_norm = None if self.parallel else Norm(config, layers=layers, rngs=rngs)
        sandwich = config.norm_position == "sandwich"
        self.attention_out_norm = Norm(config, layers=layers, rngs=rngs) if sandwich else None
        self.mlp_out_norm = Norm(config, layers=layers, rngs=rngs) if sandwich else None

    def __call__(
        self,
        x_BxLxD: jax.Array,
        rope: Rope,
        *,
        window: int,
        implementation: str,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        keys = [None] * 3 if dropout_key is None else list(jax.random.split(dropout_key, 3))

        def attention(h_BxLxD: jax.Array) -> jax.Array:
            h_BxLxD = self.attention(h_BxLxD, rope, window=window, implementation=implementation, dropout_key=keys[0])
            h_BxLxD = constrain(h_BxLxD, "batch", "sequence", "embed")
            h_BxLxD = h_BxLxD if self.attention_out_norm is None else self.attention_out_norm(h_BxLxD)
            return scaled(dropout(h_BxLxD, self.rate, keys[1]), self.branch)

        def mlp(h_BxLxD: jax.Array) -> jax.Array:
            h_BxLxD = constrain(self.mlp(h_BxLxD), "batch", "sequence", "embed")
            h_BxLxD = h_BxLxD if self.mlp_out_norm is None else self.mlp_out_norm(h_BxLxD)
            return scaled(dropout(h_BxLxD, self.rate, keys[2]), self.branch)

        first, second = self.attention_norm, self.mlp_norm
        if second is None:  # a parallel block has one shared norm
            if self.position == "post":
                return first(x_BxLxD + attention(x_BxLxD) + mlp(x_BxLxD))
            h_BxLxD = first(x_BxLxD)
            return x_BxLxD + attention(h_BxLxD) + mlp(h_BxLxD)
        if self.position == "post":
            x_BxLxD = first(x_BxLxD + attention(x_BxLxD))
            return second(x_BxLxD + mlp(x_BxLxD))
        x_BxLxD = x_BxLxD + attention(first(x_BxLxD))
        return x_BxLxD + mlp(second(x_BxLxD))
