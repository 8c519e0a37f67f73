"""How a parameter is declared: once, with its shape, axes, start and the facts that sharding and optimizers need.

Letters used for array axes: B batch, L length, D model width, H heads, K key/value heads, d width of a head,
F hidden width of the MLP, V vocabulary, N layers that have parameters of their own.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from scaling.models.width_transfer import STANDARD, WidthTransfer

Role = Literal["embedding", "hidden", "head", "vector"]


@dataclass(frozen=True)
class ParamFacts:
    """What is known about one parameter besides its value."""

    axes: tuple[str, ...]
    """logical name of each array axis; `layers` first where the layers are stacked"""
    fan_in: int
    """inputs that one output sums over; 1 for a looked-up row and for vectors"""
    decay: bool
    """weight decay applies"""
    role: Role
    rate: float = 1.0
    """factor on the learning rate, though not on the decay (width transfer)"""
    eps: float = 1.0
    """factor on AdamW's ε (width transfer)"""


def declare(
    shape: tuple[int, ...],
    facts: ParamFacts,
    *,
    rngs: nnx.Rngs,
    layers: int | None,
    std: float = 0.0,
    mean: float = 0.0,
) -> nnx.Param[jax.Array]:
    """A float32 parameter, normal around `mean` (constant where `std` is 0), stacked over `layers` if given."""
    if layers is not None:
        shape = (layers, *shape)
    axes = facts.axes if layers is None else ("layers", *facts.axes)
    value = jnp.full(shape, mean, jnp.float32)
    if std:
        value = value + std * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(value, axes=axes, fan_in=facts.fan_in, decay=facts.decay, role=facts.role)


def facts_of(param: nnx.Variable[jax.Array], transfer: WidthTransfer = STANDARD) -> ParamFacts:
    """The facts a parameter was declared with, and the factors that follow from them under `transfer`."""
    known = param.get_metadata()
    axes, role = known["axes"], known["role"]
    return ParamFacts(axes, known["fan_in"], known["decay"], role, transfer.rate(role), transfer.eps(axes))
