"""Parameters of a model, tensor by tensor: what the real parameter tree holds, to the digit."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from scaling.config import ModelConfig

Part = Literal["embedding", "position", "attention", "mlp", "norm", "head"]
PARTS: tuple[Part, ...] = ("embedding", "position", "attention", "mlp", "norm", "head")
OUTSIDE_BLOCKS: tuple[Part, ...] = ("embedding", "position", "head")


class Tensor(NamedTuple):
    """`copies` parameter arrays of one shape (one for each unique layer, or 1)."""

    name: str
    part: Part
    copies: int
    shape: tuple[int, ...]
    """matrices are (inputs, outputs), look-up tables (rows, d_model), vectors (width,)"""
    axes: tuple[str, ...]
    """logical name of each axis of one copy, as the models declare them"""

    @property
    def size(self) -> int:
        """Parameters in all copies together."""
        return self.copies * prod(self.shape)


@dataclass(frozen=True)
class Params:
    """Parameters by part."""

    items: dict[Part, int]

    @property
    def total(self) -> int:
        return sum(self.items.values())

    @property
    def non_embedding(self) -> int:
        """Kaplan's N (2001.08361): all but token embedding, position embedding and untied head; norms and biases are
        in, which Kaplan drops as small."""
        return self.total - sum(self.items[part] for part in OUTSIDE_BLOCKS)

    @property
    def active(self) -> int:
        """Parameters that one token meets: all of them in a dense model."""
        return self.total

    def as_dict(self) -> dict[str, int]:
        return {"total": self.total, "non_embedding": self.non_embedding, "active": self.active}


def params(model: ModelConfig) -> Params:
    """Count the parameters of a model; layers that share parameters count once, a tied head not at all."""
    items: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for tensor in tensors(model):
        items[tensor.part] += tensor.size
    return Params(items)


def tensors(model: ModelConfig) -> Iterator[Tensor]:
    """Every parameter array of a model.

    Conventions: biases (where `bias`) on q, k, v, o and on each MLP matrix, never on the head; RMSNorm has a scale,
    LayerNorm a scale and, where `bias`, a bias; QK-norm has one scale of width d_head for queries and one for keys,
    shared by the heads; the norm after the last layer exists unless norms come after each addition (`post`).
    """
    D, V = model.d_model, model.vocab
    yield Tensor("embedding", "embedding", 1, (V, D), ("vocab", "embed"))
    if model.position == "learned":
        yield Tensor("position", "position", 1, (model.context, D), ("position", "embed"))
    yield from _attention(model)
    yield from _mlp(model)
    yield from _norms(model)
    if not model.tied:
        yield Tensor("head", "head", 1, (D, V), ("embed", "vocab"))


def _attention(model: ModelConfig) -> Iterator[Tensor]:
    n, D, H, K, d = model.unique_layers, model.d_model, model.n_heads, model.n_kv_heads, model.d_head
    yield Tensor("q", "attention", n, (D, H * d), ("embed", "heads"))
    yield Tensor("k", "attention", n, (D, K * d), ("embed", "kv_heads"))
    yield Tensor("v", "attention", n, (D, K * d), ("embed", "kv_heads"))
    yield Tensor("o", "attention", n, (H * d, D), ("heads", "embed"))
    if model.bias:
        yield Tensor("q_bias", "attention", n, (H * d,), ("heads",))
        yield Tensor("k_bias", "attention", n, (K * d,), ("kv_heads",))
        yield Tensor("v_bias", "attention", n, (K * d,), ("kv_heads",))
        yield Tensor("o_bias", "attention", n, (D,), ("embed",))


def _mlp(model: ModelConfig) -> Iterator[Tensor]:
    n, D, F = model.unique_layers, model.d_model, model.d_ff
    for name in ("up", "gate") if model.gated else ("up",):
        yield Tensor(name, "mlp", n, (D, F), ("embed", "mlp"))
        if model.bias:
            yield Tensor(f"{name}_bias", "mlp", n, (F,), ("mlp",))
    yield Tensor("down", "mlp", n, (F, D), ("mlp", "embed"))
    if model.bias:
        yield Tensor("down_bias", "mlp", n, (D,), ("embed",))


def _norms(model: ModelConfig) -> Iterator[Tensor]:
    n, D = model.unique_layers, model.d_model
    before = 0 if model.norm_position == "post" else 1 if model.parallel_block else 2
    after = {"pre": 0, "post": 1 if model.parallel_block else 2, "sandwich": 2}[model.norm_position]
    final = 0 if model.norm_position == "post" else 1
    for name, copies in (("norms", (before + after) * n), ("final_norm", final)):
        if copies:
            yield Tensor(f"{name}_scale", "norm", copies, (D,), ("embed",))
            if model.norm == "layernorm" and model.bias:
                yield Tensor(f"{name}_bias", "norm", copies, (D,), ("embed",))
    if model.qk_norm:
        yield Tensor("qk_norm", "norm", 2 * n, (model.d_head,), ("head_dim",))
