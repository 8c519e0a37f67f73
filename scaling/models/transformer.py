"""The transformer: embedding, positions, layers and the final norm."""

import jax
from flax import nnx

from scaling.config.run import Placement
from scaling.errors import UserError
from scaling.families import Mask, TransformerConfig
from scaling.models.attention_mask import dropout
from scaling.models.language_model import LanguageModel, Losses
from scaling.models.norm import Norm
from scaling.models.parameters import Params
from scaling.models.positions import rope_tables, sinusoids
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
    ) -> tuple[jax.Array, Losses]:
        """Raises UserError for windows longer than the table of learned positions."""
        config, length = self.config, tokens_BxL.shape[1]
        x_BxLxD = self.embed(tokens_BxL)
        if self.position is not None:
            if length > config.context:
                raise UserError(
                    f"a window of {length} tokens is longer than model.context={config.context}, "
                    "the rows of the learned position table"
                )
            x_BxLxD = x_BxLxD + self.position[...][:length]
        if config.position == "sinusoidal":
            x_BxLxD = x_BxLxD + sinusoids(length, config.d_model)
        rope = rope_tables(length, config.d_head, config.rope_theta) if config.position == "rope" else None
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        x_BxLxD = dropout(x_BxLxD.astype(self.dtype), config.dropout, keys[0])
        layers = Layers(config, self.placement, self.mask, self.layers, self.dtype)
        x_BxLxD, losses = layers(x_BxLxD, rope, marks_BxL, keys[1])
        return (x_BxLxD if self.norm is None else self.norm(x_BxLxD)), losses
