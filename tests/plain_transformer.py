"""A transformer in plain NumPy, query by query, for one text: what the framework's must equal.

Pre-norm with RMSNorm, attention with grouped keys, a ReLU² MLP, a tied head. Positions and masks are functions, so
that each paper's definition is written where it is tested.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Turn = Callable[[np.ndarray, int], np.ndarray]
"""(features of a head, position) → the same, rotated or not"""


def normed(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale


def plain_logits(
    params: Any,
    tokens: np.ndarray,
    heads: int,
    sees: Callable[[int, int], bool],
    added: Callable[[int], Any] = lambda position: 0.0,
    turned: Turn = lambda x, position: x,
) -> np.ndarray:
    """[L, V]. params: the framework's nested dict, as float64. sees(query, key): whether it is visible. added: to the
    embedding at a position. turned: of queries and keys."""
    x = np.stack([params["embedding"][token] + added(i) for i, token in enumerate(tokens)])
    stacked = params["layers"]
    for layer in range(len(stacked["mlp_norm"]["scale"])):
        maps = {name: stacked["attention"][name]["kernel"][layer] for name in "qkvo"}
        h = normed(x, stacked["attention_norm"]["scale"][layer])
        q, k, v = ((h @ maps[name]).reshape(len(tokens), -1, maps["q"].shape[1] // heads) for name in "qkv")
        out, share = np.zeros_like(q), heads // k.shape[1]
        for i, head in np.ndindex(len(tokens), heads):
            keys = [j for j in range(len(tokens)) if sees(i, j)]
            own = turned(q[i, head], i)
            weights = np.exp([own @ turned(k[j, head // share], j) / np.sqrt(len(own)) for j in keys])
            out[i, head] = weights / weights.sum() @ v[keys, head // share]
        x = x + out.reshape(len(tokens), -1) @ maps["o"]
        h = normed(x, stacked["mlp_norm"]["scale"][layer])
        up, down = (stacked["mlp"][name]["kernel"][layer] for name in ("up", "down"))
        x = x + np.maximum(h @ up, 0) ** 2 @ down
    return normed(x, params["norm"]["scale"]) @ params["embedding"].T
