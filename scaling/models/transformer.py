"""The decoder-only transformer: embedding, stacked layers, final norm, head and loss."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.config.model import ModelConfig
from scaling.config.run import Placement
from scaling.errors import UserError
from scaling.models.attention_mask import dropout
from scaling.models.block import Block, scaled
from scaling.models.loss import LossSums, logits_of, token_losses
from scaling.models.norm import Norm
from scaling.models.parameters import ParamFacts, declare
from scaling.models.positions import rope_tables, sinusoids
from scaling.models.stack import apply_layers
from scaling.models.width_transfer import table_std, width_transfer
from scaling.parallel.sharding import constrain


class Transformer(nnx.Module):
    """A language model; parameters are float32 and are cast to the compute precision at the start of a call."""

    def __init__(self, config: ModelConfig, placement: Placement, *, rngs: nnx.Rngs):
        self.config, self.placement = config, placement
        vocab, d_model = config.vocab, config.d_model
        std = table_std(config)  # one for all: a tied embedding is the head
        facts = ParamFacts(("vocab", "embed"), 1, decay=False, role="embedding")
        self.embedding = declare((vocab, d_model), facts, rngs=rngs, layers=None, std=std)
        learned = config.position == "learned"
        facts = ParamFacts(("position", "embed"), 1, decay=False, role="embedding")
        self.position = (
            declare((config.context, d_model), facts, rngs=rngs, layers=None, std=std) if learned else None
        )
        self.layers = Block(config, rngs=rngs)
        self.norm = None if config.norm_position == "post" else Norm(config, layers=None, rngs=rngs)
        facts = ParamFacts(("embed", "vocab"), d_model, decay=True, role="head")
        self.head = None if config.tied else declare((d_model, vocab), facts, rngs=rngs, layers=None, std=std)

    @property
    def dtype(self) -> Any:
        """The compute precision."""
        name = self.placement.compute_dtype
        if name == "auto":
            name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return jnp.dtype(name)

    def __call__(self, tokens_BxL: jax.Array, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Hidden states [B, L, D] after the final norm; dropout is applied where a key is given.

        Raises UserError for windows longer than the table of learned positions.
        """
        config, length = self.config, tokens_BxL.shape[1]
        x_BxLxD = constrain(self.embedding[...][tokens_BxL], "batch", "sequence", "embed")
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
        x_BxLxD = apply_layers(self.layers, config, self.placement, x_BxLxD, rope, dropout_key=keys[1])
        return x_BxLxD if self.norm is None else self.norm(x_BxLxD)

    def head_matrix(self) -> jax.Array:
        """[D, V] at the compute precision, the multiplier of logits included."""
        matrix = self.embedding[...].T if self.head is None else self.head[...]
        return scaled(matrix, width_transfer(self.config).logits).astype(self.dtype)

    def logits(self, tokens_BxL: jax.Array) -> jax.Array:
        """float32 logits [B, L, V], soft-capped, without dropout."""
        return logits_of(self(tokens_BxL), self.head_matrix(), self.config.logit_softcap)

    def loss_sum(
        self,
        tokens_BxL: jax.Array,
        targets_BxL: jax.Array,
        weights_BxL: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> LossSums:
        """Sums over tokens; the training loss is (nats + model.z_loss · z) / weight."""
        nll_BxL, log_z_BxL = self._token_losses(tokens_BxL, targets_BxL, dropout_key)
        weights_BxL = weights_BxL.astype(jnp.float32)
        return LossSums(
            jnp.sum(weights_BxL * nll_BxL), jnp.sum(weights_BxL * jnp.square(log_z_BxL)), jnp.sum(weights_BxL)
        )

    def per_window_nats(self, tokens_BxL: jax.Array, targets_BxL: jax.Array, weights_BxL: jax.Array) -> jax.Array:
        """Σ weight · −log p(target) of every window, [B] float32, without dropout."""
        nll_BxL, _ = self._token_losses(tokens_BxL, targets_BxL, None)
        return jnp.sum(weights_BxL.astype(jnp.float32) * nll_BxL, -1)

    def _token_losses(
        self, tokens_BxL: jax.Array, targets_BxL: jax.Array, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        hidden_BxLxD = self(tokens_BxL, dropout_key=dropout_key)
        return token_losses(
            hidden_BxLxD,
            self.head_matrix(),
            targets_BxL,
            softcap=self.config.logit_softcap,
            chunk=self.placement.loss_chunk,
        )
