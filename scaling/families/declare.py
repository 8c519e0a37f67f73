"""One declaration of a parameter: from it follow its start, layout, optimizer facts, N, FLOPs and memory. No JAX.

Letters used for array axes: B batch, L length, D model width, H heads, K key/value heads, d width of a head,
F hidden width of the MLP, V vocabulary, N layers that have parameters of their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

Role = Literal["embedding", "hidden", "head", "vector"]

TOKENS, LAYERS, AFTER_LAYERS, HEAD = range(4)
"""where the forward pass reads a tensor first: what lies deeper has no gradient that reaches it"""


@dataclass(frozen=True)
class Tensor:
    """One array of a model's parameters, as its family declares it."""

    path: tuple[str, ...]
    """keys that lead to it in the nested dict of parameters"""
    part: str
    """what it counts as in the ledger: embedding, attention, mlp, …"""
    shape: tuple[int, ...]
    """whole; a matrix is (stacked …, inputs …, outputs …), a look-up table (rows, width)"""
    axes: tuple[str, ...]
    """logical name of each axis, which `accounting.layout` maps to the mesh"""
    role: Role
    stacked: int = 0
    """leading axes that count separate arrays (layers, experts): an optimizer takes each by itself"""
    inputs: int = 0
    """axes after those that a product sums over; none of a look-up table or a vector"""
    mean: float = 0.0
    std: float = 0.0
    """it starts normal around `mean`; constant where `std` is 0"""
    decay: bool = False
    """weight decay applies"""
    precision: Literal["compute", "float32"] = "float32"
    """compute: its products are made at the compute precision, of which there is a copy"""
    uses: tuple[tuple[str, float], ...] = ()
    """(item of the FLOP ledger, products that a token makes with each parameter): none for a look-up or a vector, 1
    for a matrix, k/E for one of E experts, times the layers that share it"""
    active: float = 1.0
    """share of it that one token meets: k/E for experts"""
    bounded: bool = False
    """its products sum over as many inputs at every width of the model, such as a latent's"""
    rate: float = 1.0
    """factor on the learning rate, though not on the decay (width transfer)"""
    eps: float = 1.0
    """factor on AdamW's ε (width transfer)"""
    after_layers: bool = False
    """a vector that is read once the last layer is done"""
    frozen: bool = False
    """it keeps its first value: a run says so, see `RunConfig.tensors`"""
    state: bool = False
    """it has no gradient: its part changes it once a step by what it counted, see `models.layer.LayerPart`"""

    @property
    def trained(self) -> bool:
        """Whether the optimizer changes it."""
        return not (self.frozen or self.state)

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def size(self) -> int:
        """Parameters."""
        return prod(self.shape)

    @property
    def depth(self) -> int:
        """TOKENS, LAYERS, AFTER_LAYERS or HEAD."""
        return {"embedding": TOKENS, "head": HEAD}.get(self.role, AFTER_LAYERS if self.after_layers else LAYERS)

    @property
    def one(self) -> tuple[int, ...]:
        """Shape of each of the stacked arrays."""
        return self.shape[self.stacked :]

    @property
    def fan_in(self) -> int:
        """Inputs that one output sums over; 1 for a looked-up row and for vectors."""
        return prod(self.one[: self.inputs])

    @property
    def fan_out(self) -> int:
        return prod(self.one[self.inputs :])

    def stack(self, axis: str, count: int, under: str) -> "Tensor":
        """`count` of it on a new leading axis, below the key `under`."""
        return replace(
            self,
            path=(under, *self.path),
            shape=(count, *self.shape),
            axes=(axis, *self.axes),
            stacked=self.stacked + 1,
        )


def vector(path: tuple[str, ...], part: str, width: int, axis: str, mean: float = 0.0) -> Tensor:
    """A scale (`mean` 1) or a bias: no product, no decay, read in float32."""
    return Tensor(path, part, (width,), (axis,), "vector", mean=mean)


def tree(tensors: Iterable[Tensor], value: Any = lambda tensor: tensor) -> dict[str, Any]:
    """The nested dict of the parameters with `value(tensor)` as leaves, by default the declarations themselves."""
    nested: dict[str, Any] = {}
    for tensor in tensors:
        at = nested
        for key in tensor.path[:-1]:
            at = at.setdefault(key, {})
        at[tensor.path[-1]] = value(tensor)
    return nested
