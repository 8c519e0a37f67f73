"""Parameters of a model by category: exact sums over its family's declarations."""

from dataclasses import dataclass
from math import prod
from typing import Any

from scaling.families import ModelConfig


@dataclass(frozen=True)
class ParamCounts:
    """Parameters by part."""

    items: dict[str, int]
    total: int
    non_embedding: int
    """Kaplan's N (2001.08361): all but token embedding, position embedding and untied head; norms and biases are
    included, which Kaplan drops as small"""
    active: int
    """parameters that one token uses, the input embedding included: all of them in a dense model"""
    active_without_input_embedding: int
    """`active` less the tables that are only looked up, of tokens and of positions: the head is included, and so is a
    table that is the head as well (tied)"""
    active_non_embedding: int
    """those of `non_embedding` that one token uses: neither embeddings nor head"""
    per_expert: tuple[int, ...]
    """parameters of one routed expert in one layer, for each size that there is; empty without experts"""

    def as_dict(self) -> dict[str, Any]:
        """Each count under its name; `per_expert` only if there are experts, a number if all are of one size."""
        names = ("total", "non_embedding", "active", "active_without_input_embedding", "active_non_embedding")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.per_expert:
            found["per_expert"] = self.per_expert[0] if len(self.per_expert) == 1 else list(self.per_expert)
        return found


def params(model: ModelConfig) -> ParamCounts:
    """Count the parameters of a model; layers that share parameters count once, a tied head and parameters without a
    gradient (a router's balance) not at all."""
    items = dict.fromkeys(model.PARTS, 0)
    outside, active, used, inside = 0, 0.0, 0.0, 0.0
    expert: dict[str, int] = {}  # by stack of layers
    for tensor in (tensor for tensor in model.tensors() if not tensor.state):
        size = tensor.size
        items[tensor.part] = items.get(tensor.part, 0) + size
        embeds = tensor.role in ("embedding", "head")
        outside += size if embeds else 0
        active += size * tensor.active
        used += 0 if tensor.role == "embedding" and not tensor.uses else size * tensor.active
        inside += 0 if embeds else size * tensor.active
        if "experts" in tensor.axes[: tensor.stacked]:
            expert[tensor.path[0]] = expert.get(tensor.path[0], 0) + prod(tensor.one)
    total = sum(items.values())
    sizes = tuple(dict.fromkeys(expert.values()))
    return ParamCounts(items, total, total - outside, round(active), round(used), round(inside), sizes)
