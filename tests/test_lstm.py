"""The LSTM's sizes: parameters, FLOPs and memory against closed forms, the traced products and what JAX keeps."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_flops_jaxpr import product_flops
from test_memory import run_config
from tiny_run import quick_jit

from scaling import accounting, ladder
from scaling.accounting.layout import parameter_parts
from scaling.config import ModelConfig, Placement, RunConfig, build
from scaling.errors import UserError
from scaling.families import Compute, LadderConfig, LSTMConfig
from scaling.models import functional
from scaling.training.optimizer import make_optimizer

BATCH = 2
LADDER = LadderConfig(aspect=40, width_multiple=4, ff_multiple=1)
BYTES = {"kind": "lstm", "vocab": 256, "context": 128}


def models() -> st.SearchStrategy[LSTMConfig]:
    """Any LSTM that a configuration may describe, small."""

    def make(tied: bool, projection: bool, d_hidden: int, **values: Any) -> LSTMConfig:
        cells = {} if tied and not projection else {"d_hidden": d_hidden}
        values |= {"kind": "lstm", "tied": tied, "projection": projection, **cells}
        return LSTMConfig.model_validate(values)

    return st.builds(
        make,
        vocab=st.integers(2, 30),
        context=st.integers(1, 9),
        layers=st.integers(1, 4),
        d_model=st.integers(1, 12),
        d_hidden=st.integers(1, 20),
        tied=st.booleans(),
        projection=st.booleans(),
    )


@given(models())
def test_parameters_and_flops_by_hand(model: LSTMConfig) -> None:
    """8H(I + P) forward FLOPs of a layer and token, and 2HP of a projection; 4H biases."""
    V, D, H, P = model.vocab, model.d_model, model.d_hidden, model.width
    inputs = [D] + [P] * (model.layers - 1)
    projected = H * P if model.projection else 0
    matrices = [4 * H * (inner + P) + projected for inner in inputs]
    assert (D if model.projection else H) == P
    count, flops = accounting.params(model), accounting.flops_per_token(model)
    assert count.non_embedding == sum(matrices) + model.layers * 4 * H
    assert count.total == count.non_embedding + V * D + (0 if model.tied else P * V)
    forward = [8 * H * (inner + P) + 2 * projected for inner in inputs]
    assert flops.exact == 3 * (sum(forward) + 2 * P * V)
    assert flops.deepseek == 6 * sum(matrices) and flops.palm == 6 * count.total
    assert flops.chinchilla_appendix_f == flops.exact + 3 * 2 * V * D
    assert sum(flops.items.values()) == flops.exact and tuple(flops.items) == model.ITEMS


@settings(max_examples=20, deadline=None)
@given(models(), st.sampled_from(["none", "full"]))
def test_the_ledger_is_the_tree_that_is_drawn_and_the_products_that_are_traced(model: LSTMConfig, remat: Any) -> None:
    params = jax.eval_shape(lambda key: functional.init(model, key), jax.random.key(0))
    assert accounting.params(model).total == sum(x.size for x in jax.tree.leaves(params))
    tokens = jax.ShapeDtypeStruct((BATCH, model.context), jnp.int32)
    placement = Placement(remat=remat, compute_dtype="float32")

    def logits(p: Any, t: jax.Array) -> jax.Array:
        found: jax.Array = functional.bind(model, placement, p).logits(t)
        return found

    flops = accounting.flops_per_token(model)
    window = BATCH * model.context
    assert 3 * product_flops(logits, params, tokens) == flops.exact * window
    gradients = product_flops(jax.grad(lambda p, t: jnp.sum(logits(p, t))), params, tokens)
    again = (flops.exact - flops.items["head"]) / 3 if remat == "full" else 0
    assert gradients == (flops.exact + again) * window


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_activations_are_what_jax_keeps(layers: int, projection: bool) -> None:
    model = LSTMConfig(kind="lstm", vocab=11, context=16, layers=layers, d_model=10, projection=projection)

    def kept(remat: Any) -> int:
        """Bytes for each token in the closure of the backward pass from tokens to hidden states."""

        def hidden(params: Any) -> jax.Array:
            bound = functional.bind(model, Placement(remat=remat, compute_dtype="bfloat16"), params)
            states: jax.Array = bound(jnp.zeros((BATCH, model.context), jnp.int32))
            return states

        backward = jax.eval_shape(lambda p: jax.vjp(hidden, p)[1], functional.abstract(model))
        of_tokens = [x for x in jax.tree.leaves(backward) if x.shape[:2] == (model.context, BATCH)]
        floats = [x for x in of_tokens if jnp.issubdtype(x.dtype, jnp.floating)]
        return sum(x.size * x.dtype.itemsize for x in floats) // (BATCH * model.context)

    def ledger(remat: str) -> int:
        return model.activations(Compute("gpu", "bfloat16", "auto", remat, 1, "causal"))

    for_the_head = 2 * model.width
    assert ledger("none") == kept("none") + for_the_head
    one_layer = 2 * 4 * model.d_hidden + 4 * model.d_hidden + 2 * model.width
    assert ledger("full") == kept("full") + for_the_head + one_layer


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "adafactor"])
def test_optimizer_memory_is_that_of_the_real_state(name: str) -> None:
    """Kernels (inputs, gates, cells) are matrices of inputs times the rest to Adafactor and Muon."""
    model = {"kind": "lstm", "vocab": 512, "context": 64, "layers": 2, "d_model": 256, "d_hidden": 320, "tied": False}
    run = run_config(model=model, optimizer={"name": name, "learning_rate": 0.01})
    optimizer = make_optimizer(run.optimizer, lambda step: 0.01, functional.facts(run.model))
    state = jax.eval_shape(optimizer.init, functional.abstract(run.model))
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert accounting.memory(run).items["optimizer"] == pytest.approx(held, rel=1e-4)


def test_a_device_of_a_tensor_mesh_has_every_gate_of_its_cells() -> None:
    model = LSTMConfig(kind="lstm", vocab=256, context=8, layers=1, d_model=8, projection=True)
    mesh = {"data": 1, "fsdp": 2, "tensor": 4}
    parts = {t.name: parameter_parts(t.axes, t.shape, mesh) for t in model.tensors()}
    assert parts["layer_0.input"] == parts["layer_0.recurrent"] == (("fsdp",), (), ("tensor",))
    assert parts["layer_0.projection"] == (("tensor",), ("fsdp",))
    cut = accounting.memory(run_config(model=model, placement={"mesh": {"fsdp": 2, "tensor": 4}})).items
    vectors = 4 * 4 * 32
    assert cut["parameters"] == (4 * accounting.params(model).total - vectors) // 8 + vectors


def test_starts() -> None:
    """Matrices by their fan-in, the biases of forget gates at `forget_bias` and no other."""
    model = LSTMConfig(kind="lstm", vocab=256, context=8, layers=2, d_model=64, d_hidden=100, tied=False,
                       projection=True, forget_bias=1.5)  # fmt: skip
    params = quick_jit(lambda key: functional.init(model, key))(jax.random.key(0))
    for layer in ("layer_0", "layer_1"):
        assert {gate: set(b.tolist()) for gate, b in params[layer]["bias"].items()} == {
            "input": {0.0}, "forget": {1.5}, "cell": {0.0}, "output": {0.0}
        }  # fmt: skip
        for name, fan_in in (("input", 64), ("recurrent", 64), ("projection", 100)):
            assert float(params[layer][name].std()) == pytest.approx(fan_in**-0.5, rel=0.05)
    for name in ("embedding", "head"):
        assert float(params[name].std()) == pytest.approx(64**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            {"d_hidden": 32},
            r"have d_model=16 outputs.*d_hidden=32; set projection=true, d_hidden=16 or tied",
        ),
        ({"projection": 8}, r"`projection` should be a valid boolean"),
        ({"d_model": "wide"}, r"`d_model` should be a valid integer"),
        ({"n_heads": 2}, r"unknown key `n_heads`; .*allowed: .*d_hidden"),
        ({"held_out_state": "kept"}, r"`held_out_state` should be 'reset' or 'carried', got 'kept'"),
        ({"kind": "lstn"}, r"`kind` should be 'transformer' or 'lstm', got 'lstn'"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        build(ModelConfig, BYTES | {"layers": 1, "d_model": 16} | values, "model.yaml")
    assert "\n" not in str(error.value)


def test_unset_cells_follow_from_the_width() -> None:
    def cells(**values: Any) -> int:
        return build(LSTMConfig, BYTES | {"layers": 1, "d_model": 16} | values, "x").d_hidden

    assert (cells(), cells(d_hidden=None), cells(projection=True)) == (16, 16, 64)


def test_a_remat_policy_that_it_has_not_is_refused_by_name() -> None:
    def run(remat: str) -> RunConfig:
        values = {"model": BYTES | {"layers": 1, "d_model": 16}, "data": {"corpus": "python_stdlib"}}
        more = {"optimizer": {"learning_rate": 0.01}, "batch_size": 4, "tokens": 512}
        return build(RunConfig, values | more | {"placement": {"remat": remat}}, "run.yaml")

    assert run("full").placement.remat == "full"
    with pytest.raises(UserError, match=r"placement\.remat=dots is not available for .* lstm; allowed: none, full"):
        run("dots")


@settings(max_examples=40, deadline=None)
@given(
    st.floats(8e3, 1e8), st.sampled_from([{"projection": True}, {"tied": False}, {"tied": False, "projection": True}])
)
def test_a_ladder_reaches_any_size_within_a_percent(n: float, base: dict[str, Any]) -> None:
    model = ladder.model_for_params(n, LADDER, BYTES | base)
    assert isinstance(model, LSTMConfig)
    assert accounting.params(model).total == pytest.approx(n, rel=0.01)
    assert model.d_model % 4 == 0 and 0.5 <= model.d_hidden / (4 * model.d_model) <= 1.6
    assert build(LSTMConfig, model.model_dump(), "x") == model


def test_without_a_projection_a_tied_ladder_has_as_many_cells_as_its_width() -> None:
    fine = LADDER.model_copy(update={"width_multiple": 1})
    model = ladder.model_for_params(1e6, fine, BYTES, tolerance=0.02)
    assert isinstance(model, LSTMConfig)
    assert model.d_hidden == model.d_model and accounting.params(model).total == pytest.approx(1e6, rel=0.02)
    with pytest.raises(UserError, match=r"nearest: .*lower ladder.width_multiple \(64\)"):
        ladder.model_for_params(1e5, LADDER.model_copy(update={"width_multiple": 64}), BYTES)
