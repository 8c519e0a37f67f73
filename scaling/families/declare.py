"""The declaration of a parameter, from which initialisation, sharding, optimizer facts, N, FLOPs and memory follow.

No JAX. Letters used for array axes: B batch, L length, D model width, H heads, K key/value heads, d width of a head,
F hidden width of the MLP, V vocabulary, N layers with their own parameters.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

Role = Literal["embedding", "hidden", "head", "vector"]

TOKENS, LAYERS, AFTER_LAYERS, HEAD = range(4)
"""the depth at which the forward pass first reads a tensor; gradients of deeper tensors do not pass through it"""


@dataclass(frozen=True)
class Tensor:
    """One array of a model's parameters, as its family declares it."""

    path: tuple[str, ...]
    """its keys in the nested dict of parameters"""
    part: str
    """its category in the ledger: embedding, attention, mlp, …"""
    shape: tuple[int, ...]
    """global shape; a matrix is (stacked …, inputs …, outputs …), a look-up table (rows, width)"""
    axes: tuple[str, ...]
    """logical name of each axis, which `accounting.layout` maps to the mesh"""
    role: Role
    stacked: int = 0
    """number of leading axes that index separate arrays (layers, experts), which an optimizer treats separately"""
    inputs: int = 0
    """number of axes after those over which a product sums; 0 for a look-up table or a vector"""
    mean: float = 0.0
    std: float = 0.0
    """initial values are normal around `mean`, or constant if `std` is 0"""
    decay: bool = False
    """weight decay applies"""
    precision: Literal["compute", "float32"] = "float32"
    """compute: it is used at the compute precision, for which a copy exists"""
    uses: tuple[tuple[str, float], ...] = ()
    """(item of the FLOP ledger, multiplications per token with each parameter): none for a look-up or a vector, 1 for
    a matrix, k/E for one of E experts, times the number of layers that share it"""
    active: float = 1.0
    """share of it that is active for one token: k/E for experts"""
    bounded: bool = False
    """its number of inputs does not grow with the model's width, such as for a latent"""
    rate: float = 1.0
    """factor on the learning rate, but not on the decay (width transfer)"""
    eps: float = 1.0
    """factor on AdamW's ε (width transfer)"""
    after_layers: bool = False
    """a vector that is read after the last layer"""
    frozen: bool = False
    """it keeps its initial value, as set by a run, see `RunConfig.tensors`"""
    state: bool = False
    """it has no gradient: its part updates it once per step from its counts, see `models.layer.LayerPart`"""

    @property
    def trained(self) -> bool:
        """Whether the optimizer updates it."""
        return not (self.frozen or self.state)

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def size(self) -> int:
        """Number of parameters."""
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
        """Number of inputs that one output sums over; 1 for look-up tables and vectors."""
        return prod(self.one[: self.inputs])

    @property
    def fan_out(self) -> int:
        return prod(self.one[self.inputs :])

    def stack(self, axis: str, count: int, under: str) -> "Tensor":
        """`count` copies of it stacked on a new leading axis, below the key `under`."""
        return replace(
            self,
            path=(under, *self.path),
            shape=(count, *self.shape),
            axes=(axis, *self.axes),
            stacked=self.stacked + 1,
        )


def vector(path: tuple[str, ...], part: str, width: int, axis: str, mean: float = 0.0) -> Tensor:
    """A scale (`mean` 1) or a bias: no matrix product, no decay, used in float32."""
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
