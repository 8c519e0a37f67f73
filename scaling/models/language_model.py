"""What all models share: embedding, head, logits and losses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.accounting import compute_dtype
from scaling.config.placement import Placement
from scaling.families import Mask, ModelConfig
from scaling.models.embedding import looked_up
from scaling.models.layer import Aux
from scaling.models.loss import LossSums, logits_of, token_losses
from scaling.models.parameters import Params
from scaling.parallel.sharding import constrain, target_platform

Extend = Callable[[jax.Array, jax.Array, jax.Array | None, Any], tuple[jax.Array, Any]]
"""see `LanguageModel.decoder`"""


class LanguageModel(nnx.Module):
    """A model over given float32 parameters, which are cast to the compute precision where they are used.

    params: nested dict of arrays as declared by the family, with `embedding` and, unless tied, `head`.
    """

    reference: "LanguageModel | None" = None
    """the same model over the parameters that the run started from, if it keeps them"""

    def __init__(self, config: ModelConfig, placement: Placement, params: Params, mask: Mask):
        self.config, self.placement, self.mask = config, placement, mask
        self.embedding = nnx.Param(params["embedding"])
        self.head = None if config.tied else nnx.Param(params["head"])

    def hidden(
        self, tokens_BxL: jax.Array, marks_BxL: jax.Array | None, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        """Hidden states [B, L, D] as the head takes them; dropout is applied if a key is given.

        marks_BxL: per-token marks of a mask that depends on the text: see `objectives.Batch`.
        """
        raise NotImplementedError

    def __call__(
        self, tokens_BxL: jax.Array, marks_BxL: jax.Array | None = None, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Hidden states [B, L, D]."""
        return self.hidden(tokens_BxL, marks_BxL, dropout_key)[0]

    @classmethod
    def metrics(cls, config: Any, counts: dict[str, Any]) -> dict[str, jax.Array]:
        """Scalars named as in the family's `metrics`. counts: as in `layer.LayerPart`, for all layers. Traced."""
        return {}

    @classmethod
    def informed(cls, config: Any, params: Params, counts: dict[str, Any]) -> Params:
        """All parameters for computing a part of a batch, with the batch's counts: see `layer.LayerPart.informed`.
        Traced."""
        return params

    @classmethod
    def updated(cls, config: Any, params: Params, counts: dict[str, Any]) -> Params:
        """All parameters after a step; only those declared as `state` may change. Traced."""
        return params

    @property
    def dtype(self) -> Any:
        """The compute precision."""
        return jnp.dtype(compute_dtype(self.placement.compute_dtype, target_platform()))

    def embed(self, tokens_BxL: jax.Array) -> jax.Array:
        """Rows of the embedding, [B, L, D] float32."""
        return constrain(looked_up(self.embedding[...], tokens_BxL), "batch", "sequence", "embed")

    def head_matrix(self) -> jax.Array:
        """[D, V] at the compute precision, including the logit multiplier."""
        matrix = self.embedding[...].T if self.head is None else self.head[...]
        return scaled(matrix, self.config.transfer.logits).astype(self.dtype)

    def logits(self, tokens_BxL: jax.Array) -> jax.Array:
        """float32 logits [B, L, V], soft-capped, without dropout."""
        return logits_of(self(tokens_BxL), self.head_matrix(), self.config.logit_softcap)

    def loss_sums(
        self,
        tokens_BxL: jax.Array,
        targets_BxL: jax.Array,
        weights_BxL: jax.Array,
        marks_BxL: jax.Array | None = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> LossSums:
        """The losses of a batch, summed over its tokens."""
        hidden_BxLxD, aux = self.hidden(tokens_BxL, marks_BxL, dropout_key)
        nll_BxL, log_z_BxL = self.token_losses(hidden_BxLxD, targets_BxL)
        weights_BxL = weights_BxL.astype(jnp.float32)
        z = jnp.sum(weights_BxL * jnp.square(log_z_BxL))
        return LossSums(jnp.sum(weights_BxL * nll_BxL), z, aux)

    def start_state(self, batch: int) -> Any:
        """The recurrent state at the start of `batch` texts: a tree of arrays [B, …], empty for most models."""
        return ()

    def continued(self, tokens_BxL: jax.Array, state: Any, marks_BxL: jax.Array | None) -> tuple[jax.Array, Any]:
        """(hidden states, state after them), without dropout, for windows that continue from `state`."""
        return self(tokens_BxL, marks_BxL), state

    def decoder(self, length: int) -> Extend:
        """A function that processes texts of up to `length` tokens incrementally; built once, called many times.

        Its arguments are tokens and their positions, [B, T] each, marks as in `hidden`, or None, and the cache of the
        preceding tokens (`families.ModelConfig.cache`, with B in front of every array). A position of
        `layer.PADDING` marks padding, which may precede the tokens of a row. It returns the hidden states [B, T, D]
        without dropout, equal to those that `hidden` gives for the whole text, and the updated cache.
        """
        raise NotImplementedError

    def window_losses(
        self,
        tokens_BxL: jax.Array,
        targets_BxL: jax.Array,
        weights_BxL: jax.Array,
        marks_BxL: jax.Array | None = None,
        *,
        state: Any = (),
    ) -> tuple[jax.Array, Any]:
        """(Σ weight · −log p(target) of every window, [B] float32; the state after them), without dropout."""
        losses_BxL, state = self.target_losses(tokens_BxL, targets_BxL, weights_BxL, marks_BxL, state=state)
        return jnp.sum(losses_BxL, -1), state

    def target_losses(
        self,
        tokens_BxL: jax.Array,
        targets_BxL: jax.Array,
        weights_BxL: jax.Array,
        marks_BxL: jax.Array | None = None,
        *,
        state: Any = (),
    ) -> tuple[jax.Array, Any]:
        """(weight · −log p(target) of every target, [B, L] float32; the state after them), without dropout."""
        hidden_BxLxD, state = self.continued(tokens_BxL, state, marks_BxL)
        nll_BxL, _ = self.token_losses(hidden_BxLxD, targets_BxL)
        return weights_BxL.astype(jnp.float32) * nll_BxL, state

    def token_losses(self, hidden_BxLxD: jax.Array, targets_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(−log p(target), log Z) of every token, each [B, L] float32."""
        return token_losses(
            hidden_BxLxD,
            self.head_matrix(),
            targets_BxL,
            softcap=self.config.logit_softcap,
            chunk=self.placement.loss_chunk,
        )


def scaled(x: jax.Array, factor: float) -> jax.Array:
    """`x · factor`; `x` itself, without a multiplication, if the factor is 1."""
    return x if factor == 1 else x * factor
