"""Parameters of a model by category: exact sums over its family's declarations."""

from dataclasses import dataclass, fields

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
    active_non_embedding: int
    """those of `non_embedding` that one token uses"""

    def as_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "items"}


def params(model: ModelConfig) -> ParamCounts:
    """Count the parameters of a model; layers that share parameters count once, a tied head and parameters without a
    gradient (a router's balance) not at all."""
    items = dict.fromkeys(model.PARTS, 0)
    outside, active, inside = 0, 0.0, 0.0
    for tensor in (tensor for tensor in model.tensors() if not tensor.state):
        size = tensor.size
        items[tensor.part] = items.get(tensor.part, 0) + size
        embeds = tensor.role in ("embedding", "head")
        outside += size if embeds else 0
        active += size * tensor.active
        inside += 0 if embeds else size * tensor.active
    total = sum(items.values())
    return ParamCounts(items, total, total - outside, round(active), round(inside))
