"""The transformer: embedding, positions, layers and the final norm."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.config.placement import Placement
from scaling.errors import UserError
from scaling.families import Mask, TransformerConfig
from scaling.families.block import BlockPart
from scaling.families.transformer import Stack
from scaling.models.attention_mask import dropout, places
from scaling.models.functional import load_class
from scaling.models.language_model import Extend, LanguageModel, scaled
from scaling.models.layer import Aux, LayerContext
from scaling.models.norm import Norm
from scaling.models.parameters import Params
from scaling.models.positions import sinusoids
from scaling.models.stack import Layers


class Transformer(LanguageModel):
    """See `families.transformer`."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig, placement: Placement, params: Params, mask: Mask):
        super().__init__(config, placement, params, mask)
        self.position = nnx.Param(params["position"]) if "position" in params else None
        self.layers = nnx.data({stack.name: params[stack.name] for stack in config.stacks})
        self.norm = Norm(config, params["norm"]) if "norm" in params else None

    def hidden(
        self, tokens_BxL: jax.Array, marks_BxL: jax.Array | None, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        """See `LanguageModel.hidden`. Raises UserError for windows longer than the table of learned positions."""
        config, length = self.config, tokens_BxL.shape[1]
        if self.position is not None and length > config.context:
            raise UserError(
                f"a window of {length} tokens is longer than model.context={config.context}, "
                "the size of the learned position table"
            )
        positions = places(slice(0, length), marks_BxL, config.restart_positions is True).positions
        x_BxLxD = self._embedded(tokens_BxL, length, slice(length) if positions.ndim == 1 else positions)
        keys = (None, None) if dropout_key is None else _split_key(dropout_key)
        x_BxLxD = dropout(x_BxLxD.astype(self.dtype), config.dropout, keys[0])
        layers = Layers(config, self.placement, self.layers, self.dtype)
        context = LayerContext(None, config.context, self.mask, marks_BxL, self.placement, tokens_BxL, positions)
        x_BxLxD, aux = layers(x_BxLxD, context, keys[1])
        return (x_BxLxD if self.norm is None else self.norm(x_BxLxD)), aux

    def _embedded(self, tokens_BxT: jax.Array, length: int, at: Any) -> jax.Array:
        """The embedding of tokens at positions `at` of texts of up to `length`, float32."""
        x_BxTxD = scaled(self.embed(tokens_BxT), self.config.embedding_factor)
        if self.position is not None:
            x_BxTxD = x_BxTxD + self.position[...][at]
        if self.config.position == "sinusoidal":
            x_BxTxD = x_BxTxD + sinusoids(length, self.config.d_model)[at]
        return x_BxTxD

    def decoder(self, length: int) -> Extend:
        layers = Layers(self.config, self.placement, self.layers, self.dtype).extending(length)

        def extend(
            tokens_BxT: jax.Array, positions_BxT: jax.Array, marks_BxT: jax.Array | None, cache: Any
        ) -> tuple[jax.Array, Any]:
            marks_BxT = jnp.zeros_like(tokens_BxT) if marks_BxT is None else marks_BxT
            context = LayerContext(
                None, self.config.context, self.mask, marks_BxT, self.placement, tokens_BxT, positions_BxT
            )
            x_BxTxD = self._embedded(tokens_BxT, length, jnp.minimum(positions_BxT, length - 1)).astype(self.dtype)
            x_BxTxD, cache = layers(x_BxTxD, context, cache)
            return (x_BxTxD if self.norm is None else self.norm(x_BxTxD)), cache

        return extend

    @classmethod
    def metrics(cls, config: TransformerConfig, counts: dict[str, Any]) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        for stack, key, part in _counting(config):
            own = jax.tree.map(lambda x: x / config.layer_sharing, counts[stack.name][key])  # summed over its uses
            by_layer = jax.vmap(load_class(part.MODULE).metrics)(own)
            for name in part.METRICS:
                found |= {f"{name}/layer_{layer}": by_layer[name][i] for i, layer in enumerate(stack.members)}
        return found

    @classmethod
    def informed(cls, config: TransformerConfig, params: Params, counts: dict[str, Any]) -> Params:
        return _map_counting("informed", config, params, counts)

    @classmethod
    def updated(cls, config: TransformerConfig, params: Params, counts: dict[str, Any]) -> Params:
        return _map_counting("updated", config, params, counts)


def _split_key(key: jax.Array) -> jax.Array:
    """Two keys from one, or from each of several."""
    return jax.vmap(jax.random.split, out_axes=1)(key) if key.ndim else jax.random.split(key)


def _map_counting(method: str, config: TransformerConfig, params: Params, counts: dict[str, Any]) -> Params:
    """The parameters, with those of parts that keep counts passed through their `method`."""
    for stack, key, part in _counting(config):
        layers, own = params[stack.name], partial(getattr(load_class(part.MODULE), method), part)
        params = params | {stack.name: layers | {key: jax.vmap(own)(layers[key], counts[stack.name][key])}}
    return params


def _counting(config: TransformerConfig) -> list[tuple[Stack, str, BlockPart]]:
    """The parts that keep counts, with their stack and key."""
    return [(s, key, part) for s in config.stacks for key, part in s.parts.items() if part.counts(config)]
