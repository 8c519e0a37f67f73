"""The decoder-only transformer in Flax NNX."""

from scaling.models.loss import LossSums
from scaling.models.transformer import Transformer

__all__ = ["LossSums", "Transformer"]
