"""The cache of a model during generation: arrays, declared without JAX."""

from dataclasses import dataclass
from math import prod
from typing import Literal


@dataclass(frozen=True)
class Cached:
    """One array, for one text."""

    shape: tuple[int, ...]
    precision: Literal["compute", "float32", "int32"] = "compute"
    empty: int = 0
    """its value before the first token"""

    def bytes(self, width: int) -> int:
        """Size in bytes. width: bytes of a number at the compute precision."""
        return prod(self.shape) * (width if self.precision == "compute" else 4)


Cache = dict[str, Cached]
"""the arrays of one part of a layer, by name"""
