"""Memory of the state (such as the KV cache) that a model carries from token to token in generation."""

from collections.abc import Iterator, Mapping
from typing import Any

from scaling.families import ModelConfig
from scaling.families.cache import Cached


def cache_bytes(model: ModelConfig, length: int, dtype: str) -> int:
    """Bytes for one text of up to `length` tokens, prompt included: a layer with a window keeps no more than its
    window.

    dtype: the compute precision, float32 or bfloat16. Raises UserError for a model that cannot generate such a text.
    """
    return sum(array.bytes(4 if dtype == "float32" else 2) for array in _arrays(model.cache(length)))


def _arrays(tree: Any) -> Iterator[Cached]:
    if isinstance(tree, Cached):
        yield tree
        return
    for part in tree.values() if isinstance(tree, Mapping) else tree:
        yield from _arrays(part)
