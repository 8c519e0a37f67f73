"""The transformer: embedding, positions, layers and the final norm."""

from functools import partial
from typing import Any

import jax
from flax import nnx

from scaling.config.run import Placement
from scaling.errors import UserError
from scaling.families import Mask, TransformerConfig
from scaling.families.block import BlockPart
from scaling.families.transformer import Stack
from scaling.models.attention_mask import dropout, places
from scaling.models.functional import load_class
from scaling.models.language_model import LanguageModel
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
        """Raises UserError for windows longer than the table of learned positions."""
        config, length = self.config, tokens_BxL.shape[1]
        positions = places(slice(0, length), marks_BxL, config.restart_positions is True).positions

        def at(table_LxD: jax.Array) -> jax.Array:
            return table_LxD if positions.ndim == 1 else table_LxD[positions]

        x_BxLxD = self.embed(tokens_BxL)
        if self.position is not None:
            if length > config.context:
                raise UserError(
                    f"a window of {length} tokens is longer than model.context={config.context}, "
                    "the rows of the learned position table"
                )
            x_BxLxD = x_BxLxD + at(self.position[...][:length])
        if config.position == "sinusoidal":
            x_BxLxD = x_BxLxD + at(sinusoids(length, config.d_model))
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BxLxD = dropout(x_BxLxD.astype(self.dtype), config.dropout, keys[0])
        layers = Layers(config, self.placement, self.layers, self.dtype)
        context = LayerContext(None, config.context, self.mask, marks_BxL, self.placement, tokens_BxL, positions)
        x_BxLxD, aux = layers(x_BxLxD, context, keys[1])
        return (x_BxLxD if self.norm is None else self.norm(x_BxLxD)), aux

    @classmethod
    def metrics(cls, config: TransformerConfig, counts: dict[str, Any]) -> dict[str, jax.Array]:
        found: dict[str, jax.Array] = {}
        for stack, key, part in _counting(config):
            by_layer = jax.vmap(load_class(part.MODULE).metrics)(counts[stack.name][key])
            for name in part.METRICS:
                found |= {f"{name}/layer_{layer}": by_layer[name][i] for i, layer in enumerate(stack.members)}
        return found

    @classmethod
    def updated(cls, config: TransformerConfig, params: Params, counts: dict[str, Any]) -> Params:
        for stack, key, part in _counting(config):
            layers = params[stack.name]
            own = jax.vmap(partial(load_class(part.MODULE).updated, part))(layers[key], counts[stack.name][key])
            params = params | {stack.name: layers | {key: own}}
        return params


def _counting(config: TransformerConfig) -> list[tuple[Stack, str, BlockPart]]:
    """The parts that count something, by stack and key."""
    return [(s, key, part) for s in config.stacks for key, part in s.parts.items() if part.counts(config)]
