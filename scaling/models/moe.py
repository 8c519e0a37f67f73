"""The forward pass of a mixture of experts."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.families import TransformerConfig
from scaling.families.moe import MoE as Declared
from scaling.models.experts import apply_experts
from scaling.models.layer import Aux, LayerContext, LayerPart
from scaling.models.mlp import activate
from scaling.models.parameters import Params
from scaling.models.routing import route


class MoE(LayerPart):
    """See `families.moe`."""

    def __init__(self, config: TransformerConfig, part: Declared, params: Params):
        self.part, self.activation = part, config.activation
        self.router = nnx.data(params["router"])
        self.balance = params.get("balance")
        self.experts = nnx.data(params["experts"])
        self.shared = nnx.data(params["shared"]) if part.shared else None

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        part, width = self.part, x_BxLxD.shape[-1]
        logits_BxLxE = jnp.matmul(x_BxLxD.astype(jnp.float32), self.router["kernel"], precision="highest")
        routing = route(part, logits_BxLxE + self.router.get("bias", 0.0), self.balance)

        def expert(x_nxD: jax.Array, w: Any) -> jax.Array:
            return mlp(x_nxD, w, self.activation)

        pairs = (part.top_k,)
        said_TxD = apply_experts(
            expert, self.experts, x_BxLxD.reshape(-1, width),
            routing.chosen_BxLxK.reshape(-1, *pairs), routing.weights_BxLxK.reshape(-1, *pairs),
        )  # fmt: skip
        y_BxLxD = said_TxD.reshape(x_BxLxD.shape)
        if self.shared is not None:
            y_BxLxD = y_BxLxD + mlp(x_BxLxD, self.shared, self.activation)
        losses = {"router_balance": part.balance * routing.balance, "router_z": part.z_loss * routing.z}
        return y_BxLxD, Aux(losses, {"tokens": routing.tokens_E, "confidence": routing.confidence})

    @staticmethod
    def metrics(counts: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """load_entropy: of the experts' shares, over its largest; load_violation: the largest share over the mean,
        less 1 (MaxVio, 2408.15664); router_confidence: mean share of a token's best score; idle_experts: those that
        got nothing."""
        load = counts["tokens"] / counts["tokens"].sum()
        entropy = -jnp.sum(jnp.where(load > 0, load * jnp.log(jnp.maximum(load, 1e-30)), 0.0))
        return {
            "load_entropy": entropy / jnp.log(load.size),
            "load_violation": load.max() * load.size - 1,
            "router_confidence": counts["confidence"],
            "idle_experts": jnp.sum(load == 0),
        }

    @staticmethod
    def updated(part: Any, params: Params, counts: dict[str, jax.Array]) -> Params:
        if not part.balance_rate:
            return params
        tokens = counts["tokens"]
        return params | {"balance": params["balance"] + part.balance_rate * jnp.sign(tokens.mean() - tokens)}


def mlp(x: jax.Array, w: Params, activation: str) -> jax.Array:
    """One MLP over its parameters `up`, `down` and, where gated, `gate`."""

    def of(name: str, x: jax.Array) -> jax.Array:
        y = x @ w[name]["kernel"]
        return y + w[name]["bias"].astype(y.dtype) if "bias" in w[name] else y

    up = of("up", x)
    inner = activate(of("gate", x), activation) * up if "gate" in w else activate(up, activation)
    return of("down", inner)
