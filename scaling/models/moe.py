"""The forward pass of a mixture of experts."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.families import TransformerConfig, tree
from scaling.families.mlp import MLP as Dense
from scaling.families.moe import MoE as Declared
from scaling.models.expert_parallel import Experts, on_the_mesh
from scaling.models.layer import Arrays, Aux, LayerContext, LayerPart
from scaling.models.matmul import matmul
from scaling.models.mlp import MLP
from scaling.models.parameters import Params
from scaling.models.routing import Routing, by_hash, route, seeded


class MoE(LayerPart):
    """See `families.moe`."""

    def __init__(self, config: TransformerConfig, part: Declared, params: Params):
        self.part, self.activation = part, config.activation
        self.router = nnx.data(params.get("router"))
        self.balance, self.load = params.get("balance"), params.get("load")
        self.experts = nnx.data(params["experts"])
        declared = tree(part.tensors(config))
        self.axes = tuple(tensor.axes for tensor in jax.tree.leaves(declared["experts"]))
        self.router_axes = declared["router"]["kernel"].axes if self.router is not None else None
        self.shared = MLP(config, Dense(), params["shared"]) if part.shared else None

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        return self._apply(self.part, x_BxLxD, context, dropout_key)

    def extend(self, x_BxTxD: jax.Array, context: LayerContext, cache: Arrays) -> tuple[jax.Array, Arrays]:
        """Without expert capacity: a token's output must not depend on the other tokens in the batch."""
        dropless = self.part.model_copy(update={"capacity": None})
        return self._apply(dropless, x_BxTxD, context, None)[0], cache

    def _apply(
        self, part: Declared, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        length = x_BxLxD.shape[1]
        routing = self._route(part, x_BxLxD, context, dropout_key)
        experts = Experts(self.activation, part.experts, part.each, part.slots(length), part.dropout or 0.0)
        pairs = routing.pairs
        if part.dropout and dropout_key is not None:
            pairs = seeded(pairs, jax.random.bits(jax.random.fold_in(dropout_key, 1), x_BxLxD.shape[:2]))
        y_BxLxD = on_the_mesh(experts, context.placement, self.experts, self.axes, x_BxLxD, pairs)
        if self.shared is not None:
            y_BxLxD = y_BxLxD + self.shared(x_BxLxD, context, None)[0]
        losses = {"router_balance": part.balance_weight * routing.balance, "router_z": part.z_loss * routing.z}
        counts = {"tokens": routing.tokens_E, "confidence": routing.confidence, "dropped": routing.dropped}
        return y_BxLxD, Aux(losses, counts)

    def _route(self, part: Declared, x_BxLxD: jax.Array, context: LayerContext, key: jax.Array | None) -> Routing:
        """Routing is computed in float32, whatever precision the experts use."""
        if self.router is None:
            if context.tokens_BxL is None:
                raise ValueError("hash routing needs the ids of the tokens")
            return by_hash(part, context.tokens_BxL)
        x_BxLxD = x_BxLxD.astype(jnp.float32)
        if part.jitter and key is not None:
            near = 1 - part.jitter, 1 + part.jitter
            own_key = jax.random.fold_in(key, 2)  # dropout of the whole branch draws from the key itself
            x_BxLxD = x_BxLxD * jax.random.uniform(own_key, x_BxLxD.shape, jnp.float32, *near)
        logits_BxLxE = matmul(x_BxLxD, self.router["kernel"], None, self.router_axes, "highest")
        return route(part, logits_BxLxE + self.router.get("bias", 0.0), self.balance, self.load)

    @staticmethod
    def metrics(counts: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """load_entropy: entropy of the experts' loads over its maximum; load_violation: the largest load over the
        mean, minus 1 (MaxVio, 2408.15664); router_confidence: mean share of a token's best score; idle_experts:
        experts that received no token; dropped_share: share of token-expert pairs dropped for lack of capacity."""
        load = counts["tokens"] / counts["tokens"].sum()
        entropy = -jnp.sum(jnp.where(load > 0, load * jnp.log(jnp.maximum(load, 1e-30)), 0.0))
        return {
            "load_entropy": entropy / jnp.log(load.size),
            "load_violation": load.max() * load.size - 1,
            "router_confidence": counts["confidence"],
            "idle_experts": jnp.sum(load == 0),
            "dropped_share": counts["dropped"],
        }

    @staticmethod
    def informed(part: Any, params: Params, counts: dict[str, jax.Array]) -> Params:
        return params | {"load": counts["tokens"]} if part.reads_counts else params

    @staticmethod
    def updated(part: Any, params: Params, counts: dict[str, jax.Array]) -> Params:
        if not part.balance_rate:
            return params
        tokens = counts["tokens"]
        return params | {"balance": params["balance"] + part.balance_rate * jnp.sign(tokens.mean() - tokens)}
