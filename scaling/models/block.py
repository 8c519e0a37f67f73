"""One layer: a mixer and a feed-forward part on the residual stream, with norms where the config puts them."""

from collections.abc import Callable

import jax
from flax import nnx

from scaling.families import TransformerConfig
from scaling.families.transformer import Stack
from scaling.models.attention_mask import dropout
from scaling.models.functional import load_class
from scaling.models.language_model import scaled
from scaling.models.layer import Arrays, Aux, LayerContext, total
from scaling.models.norm import Norm
from scaling.models.parameters import Params
from scaling.parallel.sharding import constrain

Branch = Callable[[jax.Array], jax.Array]


class Block(nnx.Module):
    """One layer of a stack, over that layer's parameters."""

    def __init__(self, config: TransformerConfig, stack: Stack, params: Params):
        self.after_sum, self.parallel = config.norm_position == "post", bool(config.parallel_block)
        self.rate = config.dropout
        self.branch = config.transfer.branch
        self.mixer = load_class(stack.mixer.MODULE)(config, stack.mixer, params["attention"])
        self.feed_forward = load_class(stack.feed_forward.MODULE)(config, stack.feed_forward, params["mlp"])
        self.first, self.second, self.mixer_out, self.feed_forward_out = (
            Norm(config, params[name]) if name in params else None
            for name in ("attention_norm", "mlp_norm", "attention_out_norm", "mlp_out_norm")
        )

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None = None
    ) -> tuple[jax.Array, Aux]:
        keys = [None] * 3 if dropout_key is None else list(jax.random.split(dropout_key, 3))
        aux_by_part: dict[str, Aux] = {}

        def mix(h_BxLxD: jax.Array) -> jax.Array:
            h_BxLxD, aux_by_part["attention"] = self.mixer(h_BxLxD, context, keys[0])
            return self._branch(h_BxLxD, self.mixer_out, keys[1])

        def feed(h_BxLxD: jax.Array) -> jax.Array:
            h_BxLxD, aux_by_part["mlp"] = self.feed_forward(h_BxLxD, context, keys[2])
            return self._branch(h_BxLxD, self.feed_forward_out, keys[2])

        x_BxLxD = self._around(x_BxLxD, mix, feed)
        losses = total(aux.losses for aux in aux_by_part.values())
        return x_BxLxD, Aux(losses, {key: aux.counts for key, aux in aux_by_part.items()})

    def extend(
        self, x_BxTxD: jax.Array, context: LayerContext, cache: dict[str, Arrays]
    ) -> tuple[jax.Array, dict[str, Arrays]]:
        """(residual stream, updated cache of the layer) for tokens that follow those in the cache."""
        after: dict[str, Arrays] = {}

        def mix(h_BxTxD: jax.Array) -> jax.Array:
            h_BxTxD, after["attention"] = self.mixer.extend(h_BxTxD, context, cache["attention"])
            return self._branch(h_BxTxD, self.mixer_out, None)

        def feed(h_BxTxD: jax.Array) -> jax.Array:
            h_BxTxD, after["mlp"] = self.feed_forward.extend(h_BxTxD, context, cache["mlp"])
            return self._branch(h_BxTxD, self.feed_forward_out, None)

        return self._around(x_BxTxD, mix, feed), after

    def _branch(self, h_BxLxD: jax.Array, norm: Norm | None, key: jax.Array | None) -> jax.Array:
        h_BxLxD = constrain(h_BxLxD, "batch", "sequence", "embed")
        h_BxLxD = h_BxLxD if norm is None else norm(h_BxLxD)
        return scaled(dropout(h_BxLxD, self.rate, key), self.branch)

    def _around(self, x_BxLxD: jax.Array, mix: Branch, feed: Branch) -> jax.Array:
        """The residual stream after both branches, with norms where the config puts them."""
        first, second = (norm or _unchanged for norm in (self.first, self.second))
        if self.after_sum:
            if self.parallel:  # a parallel block has one shared norm
                return first(x_BxLxD + mix(x_BxLxD) + feed(x_BxLxD))
            x_BxLxD = first(x_BxLxD + mix(x_BxLxD))
            return second(x_BxLxD + feed(x_BxLxD))
        if self.parallel:
            h_BxLxD = first(x_BxLxD)
            return x_BxLxD + mix(h_BxLxD) + feed(second(x_BxLxD) if self.second else h_BxLxD)
        x_BxLxD = x_BxLxD + mix(first(x_BxLxD))
        return x_BxLxD + feed(second(x_BxLxD))


def _unchanged(x: jax.Array) -> jax.Array:
    return x
