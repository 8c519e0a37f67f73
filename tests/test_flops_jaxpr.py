"""The FLOP ledger against the matrix products that the real model traces to."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from scaling import accounting
from scaling.config import Placement, RunConfig, TransformerConfig, build
from scaling.models import LossSums, functional
from scaling.objectives import Batch
from scaling.training.gradients import gradients

BATCH = 2


def product_flops(function: Callable[..., Any], *args: Any) -> int:
    """2 × multiply-adds of every dot_general in a function's jaxpr, scans counted as often as they turn."""
    return count_products(jax.make_jaxpr(function)(*args).jaxpr)


def count_products(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        assert "conv_general" not in name, "a convolution would need a count of its own"
        if name == "dot_general":
            (left, _), _ = equation.params["dimension_numbers"]
            summed = prod(_shape(equation.invars[0])[axis] for axis in left)
            total += 2 * prod(_shape(equation.outvars[0])) * summed
        turns = equation.params["length"] if name == "scan" else 1
        inner = [count_products(sub) for sub in _subs(equation.params.values())]
        assert name != "while" or not any(inner), "a while loop with products turns an unknown number of times"
        total += turns * (max(inner, default=0) if name == "cond" else sum(inner))
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _subs(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _subs(value)


def test_the_walker_counts_scans_remat_and_nested_jits() -> None:
    w = jnp.ones((3, 3))

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jax.checkpoint(jax.jit(lambda y: y @ w))(x), None

    once = 2 * 2 * 3 * 3
    assert product_flops(lambda x: x @ w, jnp.ones((2, 3))) == once
    assert product_flops(lambda x: jax.lax.scan(step, x, None, length=5)[0], jnp.ones((2, 3))) == 5 * once


BASE = {"vocab": 17, "context": 8, "layers": 4, "d_model": 12, "n_heads": 3, "d_ff": 20}
MODELS = {
    "gpt2": BASE | {"activation": "gelu", "norm": "layernorm", "bias": True, "position": "learned"},
    "llama": BASE | {"n_heads": 4, "n_kv_heads": 2, "d_head": 6, "tied": False, "qk_norm": True},
    "research": BASE | {"activation": "relu2", "norm_position": "sandwich", "parallel_block": True, "d_head": 4,
                        "sliding_window": [3, None], "layer_sharing": 2, "logit_softcap": 30.0},
    "latent": BASE | {"mixer": [{"kind": "mla", "q_rank": 7, "kv_rank": 5, "nope": 4, "rope": 2, "v": 3},
                                {"kind": "mla", "kv_rank": 5, "nope": 4, "rope": 2, "v": 8}]},
    "sinks": BASE | {"mixer": {"kind": "attention", "sinks": True, "qk_norm": "width"}, "n_kv_heads": 1},
    "post": BASE | {"norm_position": "post", "position": "alibi", "activation": "geglu"},
}  # fmt: skip


def traced(config: TransformerConfig, layers: Any, remat: Any = "none") -> tuple[Any, Any, jax.ShapeDtypeStruct]:
    placement = Placement(attention="reference", layers=layers, remat=remat, compute_dtype="float32")
    return (config, placement), functional.abstract(config), jax.ShapeDtypeStruct((BATCH, config.context), jnp.int32)


@pytest.mark.parametrize("layers", ["scan", "unroll"])
@pytest.mark.parametrize("name", MODELS)
def test_forward_products_of_the_model_are_the_ledger(name: str, layers: str) -> None:
    """The reference attention multiplies the whole square, so its ledger has `keys=context`."""
    config = TransformerConfig.model_validate(MODELS[name])
    graph, params, tokens = traced(config, layers)
    found = product_flops(lambda p, t: functional.bind(*graph, p).logits(t), params, tokens)
    ledger = accounting.flops_per_token(config, keys=config.context).exact
    assert 3 * found == ledger * BATCH * config.context


@pytest.mark.parametrize("name", MODELS)
def test_gradient_products_of_the_model_are_three_forwards(name: str) -> None:
    config = TransformerConfig.model_validate(MODELS[name])
    graph, params, tokens = traced(config, "unroll")

    def loss(p: Any, t: jax.Array) -> jax.Array:
        return jnp.sum(functional.bind(*graph, p).logits(t))

    found = product_flops(jax.grad(loss), params, tokens)
    ledger = accounting.flops_per_token(config, keys=config.context).exact
    assert found == ledger * BATCH * config.context


@pytest.mark.parametrize("name", ["gpt2", "llama", "post"])
def test_gradient_products_of_an_encoder_are_the_ledger_of_its_run(name: str) -> None:
    """Nothing is masked, so the whole square is the exact count; a causal run of the same model counts fewer keys."""
    model = MODELS[name] | {"vocab": 257}
    values = {
        "data": {"corpus": "python_stdlib"},
        "optimizer": {"learning_rate": 0.01},
        "batch_size": BATCH,
        "tokens": 1,
    }
    placement = {"attention": "reference", "layers": "unroll", "compute_dtype": "float32"}
    shared = {"model": model, "placement": placement, **values}
    run = build(RunConfig, shared | {"objective": {"kind": "masked"}}, "run")
    rows = run.objective.spec(run.model, BATCH, run.model.context, np.uint8)

    def loss(p: Any, batch: Batch) -> jax.Array:
        sums: LossSums = run.objective.sums(functional.bind_run(run, p), run.objective.batch(batch), None)
        return sums.loss

    found = product_flops(jax.grad(loss), functional.abstract(run.model), rows)
    ledger = accounting.flops_per_token(run).exact
    assert found == ledger * BATCH * run.model.context
    assert accounting.flops_per_token(build(RunConfig, shared, "run")).exact < ledger


def test_a_pass_that_counts_the_batch_adds_one_forward_of_the_layers_to_the_time_and_nothing_to_the_flops() -> None:
    """Of two microbatches, in the products of the gradient's jaxpr that its result needs. All experts are met, as the
    oracle computes all; it weighs what they say by a product more, and the scan computes the last layer's, too."""
    flops, seconds, products = [], [], []
    place = accounting.topology("h100:1")
    for over in ("window", "batch"):
        experts = {"kind": "moe", "experts": 2, "top_k": 2, "shared": 1, "d_ff": 20, "balance_over": over}
        placement = {"attention": "reference", "layers": "scan", "experts": "dense", "accumulate": 2}
        values = {"model": BASE | {"vocab": 256, "feed_forward": experts}, "data": {"corpus": "files:unused"},
                  "tokens": 64, "batch_size": 4, "optimizer": {"learning_rate": 0.01},
                  "placement": placement}  # fmt: skip
        run = build(RunConfig, values, "run")
        graph = jax.eval_shape(lambda run=run: functional.init(run.model, jax.random.key(0)))
        rows = run.objective.batch(jnp.zeros((4, 9), jnp.int32))
        traced = jax.make_jaxpr(lambda p, b, run=run: gradients(run, p, b, None))(graph, rows).jaxpr
        products.append(count_products(dce_jaxpr(traced, [True] * len(traced.outvars))[0]))
        exact = accounting.flops_per_token(run, keys=run.model.context)
        flops.append(exact.exact)
        seconds.append(accounting.roofline(run, place, {}, flops=exact)["seconds"]["matmul"])
    peak = accounting.peak_flops("h100", "bfloat16")
    assert peak is not None and flops[0] == flops[1]
    weighing = run.batch_tokens * run.model.layers * 2 * 2 * run.model.d_model
    assert products[1] - products[0] == pytest.approx((seconds[1] - seconds[0]) * peak + weighing, rel=1e-9)
    assert seconds[1] > 1.2 * seconds[0]


def test_global_tokens_with_projections_of_their_own_are_in_the_ledger() -> None:
    """But for their rows of the first square of scores, in whose place they have a second."""
    mixer = {"kind": "attention", "global_projections": True}
    config = TransformerConfig.model_validate(MODELS["gpt2"] | {"global_tokens": 2, "mixer": mixer})
    (model, placement), params, tokens = traced(config, "unroll")

    def loss(p: Any, t: jax.Array) -> jax.Array:
        return jnp.sum(functional.bind(model, placement, p, "full").logits(t))

    heads = config.n_heads * config.d_head
    rows = 3 * config.layers * BATCH * 2 * config.context * 2 * 2 * heads  # both products, forward and backward
    ledger = accounting.flops_per_token(config).exact * BATCH * config.context
    assert product_flops(jax.grad(loss), params, tokens) == ledger + rows


def test_full_remat_adds_one_forward_of_the_layers() -> None:
    """Hardware FLOPs, not model FLOPs: the ledger leaves out what is computed again."""
    config = TransformerConfig.model_validate(MODELS["llama"])

    def gradient_products(remat: str) -> int:
        graph, params, tokens = traced(config, "unroll", remat)
        return product_flops(jax.grad(lambda p, t: jnp.sum(functional.bind(*graph, p).logits(t))), params, tokens)

    flops = accounting.flops_per_token(config, keys=config.context)
    layers = (flops.exact - flops.items["head"]) / 3 * BATCH * config.context
    added = gradient_products("full") - gradient_products("none")
    assert 0.75 * layers < added <= layers  # the last product of each layer is needed by nobody again
