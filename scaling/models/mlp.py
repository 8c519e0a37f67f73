"""The dense feed-forward part."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from scaling.families import TransformerConfig, tree
from scaling.families.mlp import MLP as Declared
from scaling.models.layer import NOTHING, Aux, LayerContext, LayerPart
from scaling.models.linear import Linear
from scaling.models.parameters import Params
from scaling.parallel.sharding import constrain

Product = Callable[[jax.Array, jax.Array], jax.Array]
"""(rows, kernel) → rows"""


class MLP(LayerPart):
    """See `families.mlp`."""

    def __init__(self, config: TransformerConfig, part: Declared, params: Params):
        self.activation = config.activation
        declared = tree(part.tensors(config))
        self.up, self.down = (Linear(params[name], declared[name]) for name in ("up", "down"))
        self.gate = Linear(params["gate"], declared["gate"]) if config.gated else None

    def __call__(
        self, x_BxLxD: jax.Array, context: LayerContext, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        up_BxLxF = constrain(self.up(x_BxLxD), "batch", "sequence", "mlp")
        if self.gate is not None:
            gate_BxLxF = constrain(self.gate(x_BxLxD), "batch", "sequence", "mlp")
            return self.down(gated(gate_BxLxF, up_BxLxF, self.activation)), NOTHING
        return self.down(activate(up_BxLxF, self.activation)), NOTHING


def to_hidden(
    x: jax.Array,
    w: Params,
    product: Product = jnp.matmul,
    spread: Callable[[jax.Array], jax.Array] = lambda bias: bias,
) -> tuple[jax.Array, ...]:
    """The first half of an MLP over `up`, `down` and, if gated, `gate`, each a `kernel` and optionally a `bias`:
    linear in x, the outputs of `up` and of `gate`.

    product, spread: how rows are multiplied with a kernel and how a bias is broadcast to them, where rows belong to
    different MLPs.
    """
    return tuple(_map(w[name], x, product, spread) for name in ("up", "gate") if name in w)


def from_hidden(
    hidden: tuple[jax.Array, ...],
    w: Params,
    activation: str,
    product: Product = jnp.matmul,
    spread: Callable[[jax.Array], jax.Array] = lambda bias: bias,
    drop: Callable[[jax.Array], jax.Array] = lambda hidden: hidden,
) -> jax.Array:
    """The second half: the activation and `down`.

    product, spread: as of `to_hidden`. drop: dropout applied to hidden units.
    """
    up, *gate = hidden
    h = gated(gate[0], up, activation) if gate else activate(up, activation)
    return _map(w["down"], drop(h), product, spread)


def _map(w: Params, x: jax.Array, product: Product, spread: Callable[[jax.Array], jax.Array]) -> jax.Array:
    y = product(x, w["kernel"])
    return y + spread(w["bias"]).astype(y.dtype) if "bias" in w else y


def gated(gate: jax.Array, up: jax.Array, name: str) -> jax.Array:
    """activation(gate) · up, by the name of the activation."""
    if name == "clamped_swiglu":  # gpt-oss, 2508.10925
        gate, up = jnp.minimum(gate, 7.0), jnp.clip(up, -7.0, 7.0)
        return gate * jax.nn.sigmoid(1.702 * gate) * (up + 1)
    return activate(gate, name) * up


def activate(x: jax.Array, name: str) -> jax.Array:
    """The activation of that name; for a gated one, the activation of its gate. See `TransformerShape.activation`."""
    if name in ("gelu", "geglu", "gelu_erf"):
        return jax.nn.gelu(x, approximate=name != "gelu_erf")
    if name in ("silu", "swiglu"):
        return jax.nn.silu(x)
    x = jnp.maximum(x, 0)
    return x * x if name == "relu2" else x  # ReLU²: So et al. 2021, 2109.08668
