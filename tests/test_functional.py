"""The model as a function of its parameters: taken apart and bound again, layers shared or copied, remat."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tiny_run import quick_jit

from scaling.config import Placement, TransformerConfig
from scaling.models import functional

L = 12
TINY: dict[str, Any] = {"vocab": 16, "context": L, "d_model": 8, "n_heads": 2, "d_ff": 16, "init_std": 0.5}


def nats(model: TransformerConfig, **placement: Any) -> Any:
    """params → Σ −log p of two windows."""
    graph = model, Placement(**placement)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, model.vocab, (2, L + 1)))
    return lambda p: functional.bind(*graph, p).loss_sums(tokens[:, :-1], tokens[:, 1:], jnp.ones((2, L))).loss


def test_a_bound_model_is_an_nnx_module_over_the_parameters_it_was_given() -> None:
    config = TransformerConfig(**TINY, layers=2, bias=True, qk_norm=True, tied=False)
    params = quick_jit(partial(functional.init, config))(jax.random.key(5))
    state = nnx.to_pure_dict(nnx.state(functional.bind(config, Placement(), params)))
    held = {id(x) for x in jax.tree.leaves(state)}
    assert held == {id(x) for x in jax.tree.leaves(params)}


def test_shared_layers_are_copies_whose_gradients_are_added() -> None:
    values = {**TINY, "layers": 4, "sliding_window": (3, None), "norm": "layernorm", "bias": True}
    shared, alone = TransformerConfig(**values, layer_sharing=2), TransformerConfig(**values)
    params = quick_jit(partial(functional.init, shared))(jax.random.key(0))
    assert {w.shape[0] for w in jax.tree.leaves(params["layers"])} == {2}
    copied = {**params, "layers": jax.tree.map(lambda w: np.repeat(w, 2, 0), params["layers"])}
    loss, gradient = quick_jit(jax.value_and_grad(nats(shared, layers="scan", remat="dots")))(params)
    want, of_copies = quick_jit(jax.value_and_grad(nats(alone, layers="scan")))(copied)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    added = jax.tree.map(lambda g: g.reshape(2, 2, *g.shape[1:]).sum(1), of_copies["layers"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradient, {**of_copies, "layers": added}
    )


def primitives(jaxpr: Any) -> Iterator[str]:
    """Names of all equations, inner jaxprs included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from primitives(inner)


def test_remat_computes_again_what_its_policy_says() -> None:
    """`dots`: all but the products of linear maps. `full`: those too, but for the last, whose result no one needs."""
    model = TransformerConfig(**TINY, layers=2)
    shapes = functional.abstract(model)

    def count(remat: str) -> Counter[str]:
        gradient = jax.grad(nats(model, layers="unroll", remat=remat))
        return Counter(primitives(jax.make_jaxpr(gradient)(shapes).jaxpr))

    none, dots, full = map(count, ("none", "dots", "full"))
    assert dots["rsqrt"] == full["rsqrt"] == none["rsqrt"] + 2 * 2  # two norms in each of two layers
    assert dots["dot_general"] == none["dot_general"] + 2 * 2  # scores, and their product with the values
    assert full["dot_general"] == dots["dot_general"] + 2 * 6  # queries, keys, values, output, gate and up
