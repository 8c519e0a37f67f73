"""Predicting each token from the tokens before it."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from scaling.families import Mask, ModelConfig
from scaling.objectives.objective import Batch, Objective, Windows
from scaling.tokens import EOD


class NextToken(Objective):
    """The autoregressive language model: −log p of a text is the sum over its tokens."""

    UNIT: ClassVar[str] = "nats per token"
    MASK: ClassVar[Mask] = "causal"
    LIKELIHOOD: ClassVar[bool] = True

    kind: Literal["next_token"] | None = None
    """unset: next_token"""
    documents: Literal["mask", "see"] | None = None
    """mask: a token sees only tokens of its own document, in training and in the held-out measure (Llama 3,
    2407.21783 section 3.2); see (also if unset): also those of the documents before it in its window"""

    @field_validator("kind", "documents")
    @classmethod
    def _one_name(cls, value: str | None) -> str | None:
        """The default has a single spelling, so that a run has a single id."""
        return None if value in ("next_token", "see") else value

    @property
    def name(self) -> str:
        return self.kind or "next_token"

    @property
    def mask(self) -> Mask:
        return "document" if self.documents else self.MASK

    def rows(self, source: Windows, model: ModelConfig, step: int, start: int, stop: int) -> np.ndarray:
        """Windows of L + 1 tokens in the store's integer type, the fastest to move to a device."""
        return source.windows(step, start, stop)

    def batch(self, rows: Any) -> Batch:
        import jax.numpy as jnp

        tokens = rows.astype(jnp.int32)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], jnp.ones_like(tokens[:, 1:], jnp.float32))
        return self._marked(batch)

    def _marked(self, batch: Batch) -> Batch:
        if self.documents is None:
            return batch
        ends_BxL = (batch.tokens_BxL == EOD).astype(np.int32)
        return batch._replace(marks_BxL=ends_BxL.cumsum(-1, dtype=np.int32) - ends_BxL)

    def continued(self, prompt: np.ndarray) -> tuple[np.ndarray, int]:
        ends = (prompt == EOD).astype(np.int32)
        return ends.cumsum(dtype=np.int32) - ends, int(ends.sum())

    def held_out(self, batch: Batch, index: int, model: ModelConfig) -> Iterator[Batch]:
        yield self._marked(batch)
