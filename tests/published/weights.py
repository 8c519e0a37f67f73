"""Parameters of a model by a formula: no scale of 1, no bias of 0, matrices larger than where training starts."""

import re
from collections.abc import Iterable
from typing import Any
from zlib import crc32

import numpy as np

from scaling.families import ModelConfig, Tensor, tree

SCALES = {"embedding": 0.5, "position": 0.5, "bias": 0.3, "balance": 0.2, "sinks": 1.0}
"""standard deviations of what is no matrix, by the last part of its path"""


def weights(model: ModelConfig, usual: Iterable[str] = ()) -> dict[str, Any]:
    """Nested dict of float32 arrays. usual: patterns of paths that stay at their mean: 0, or 1 of scales."""

    def value(tensor: Tensor) -> np.ndarray:
        path = "/".join(tensor.path)
        rng, last = np.random.default_rng(crc32(path.encode())), tensor.path[-1]
        if any(re.search(pattern, path) for pattern in usual):
            return np.full(tensor.shape, tensor.mean, np.float32)
        if last.endswith("scale"):
            drawn = 1 + 0.3 * rng.standard_normal(tensor.shape)
        elif last in SCALES:
            drawn = SCALES[last] * rng.standard_normal(tensor.shape)
        else:
            gain = 4 if "router" in tensor.path else 1.5
            drawn = gain * tensor.shape[-2] ** -0.5 * rng.standard_normal(tensor.shape)
        return drawn.astype(np.float32)

    drawn: dict[str, Any] = tree(model.tensors(), value)
    return drawn
