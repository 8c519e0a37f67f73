"""Frozen parameters: no update, no moments, no gradient; the ledgers against the real step and the real state."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.interpreters import partial_eval
from test_flops_jaxpr import BATCH, MODELS, count_products
from tiny_run import quick_jit

from scaling import accounting
from scaling.config import RunConfig, build
from scaling.models import functional
from scaling.objectives import Batch
from scaling.training.gradients import gradients
from scaling.training.knobs import make_knobs
from scaling.training.state import TrainState
from scaling.training.step import compiled_step, run_optimizer, update

pytestmark = pytest.mark.usefixtures("runs_once")

OPTIMIZERS = ("adamw", "lion", "muon", "adafactor")


def config(model: str, frozen: tuple[str, ...] = (), layers: str = "scan", optimizer: str = "adamw") -> RunConfig:
    values = {
        "model": MODELS[model] | {"vocab": 256},
        "data": {"corpus": "files:unused"},
        "optimizer": {"name": optimizer, "learning_rate": 0.01, "weight_decay": 0.3},
        "batch_size": BATCH,
        "tokens": 100,
        "start": {"run": "x", "frozen": frozen} if frozen else None,
        "placement": {"attention": "reference", "layers": layers, "compute_dtype": "float32", "accumulate": 1},
    }
    return build(RunConfig, values, "test")


def batch(run: RunConfig) -> Batch:
    tokens = np.random.default_rng(0).integers(0, 256, (BATCH, run.model.context + 1), np.int32)
    return Batch(*map(jnp.asarray, (tokens[:, :-1], tokens[:, 1:], np.ones_like(tokens[:, 1:], np.float32))))


def computed(run: RunConfig) -> float:
    """FLOPs a token of the products behind a step's gradients; what nothing reads is not computed."""
    traced = jax.make_jaxpr(lambda p: gradients(run, p, batch(run), None))(functional.abstract(run.model)).jaxpr
    needed, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    return count_products(needed) / (BATCH * run.model.context)


def ledger(run: RunConfig) -> accounting.Flops:
    """The reference attention multiplies the whole square."""
    return accounting.flops_per_token(run, keys=run.model.context)


@cache
def names(model: str) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in config(model).tensors())


@settings(max_examples=12, deadline=None)
@given(data=st.data(), model=st.sampled_from(sorted(MODELS)))
def test_the_ledger_is_what_a_step_with_any_frozen_parameters_computes(data: st.DataObject, model: str) -> None:
    every = names(model)
    frozen = data.draw(st.sets(st.sampled_from(every), max_size=len(every) - 1))
    found = computed(config(model, tuple(frozen)))
    assert ledger(config(model, tuple(frozen))).exact == pytest.approx(found, rel=1e-12)
    whole = ledger(config(model)).exact
    assert whole / 3 < found <= whole


@pytest.mark.parametrize(
    ("trained", "passes"),  # of layers' projections, scores, MLP and head
    [
        (("head",), (1, 1, 1, 2)),
        (("norm.scale", "head"), (1, 1, 1, 3)),
        (("norm.scale",), (1, 1, 1, 2)),
        (("layers.mlp.down.kernel",), (2, 3, 2 + 1 / 3, 2)),
        (("embedding",), (2, 3, 2, 2)),
        (("embedding", "layers.attention.", "head"), (3, 3, 2, 3)),
    ],
)
def test_products_of_frozen_parts_by_hand(trained: tuple[str, ...], passes: tuple[float, ...]) -> None:
    """Of the untied model. Forward is one pass, the gradient of a matrix and that of its input are one each."""
    run = config("llama", tuple(name for name in names("llama") if not name.startswith(trained)))
    found, whole = ledger(run), ledger(config("llama"))
    assert [3 * found.items[name] / whole.items[name] for name in whole.items] == pytest.approx(list(passes))
    assert found.as_dict() | {"exact": 0} == whole.as_dict() | {"exact": 0}, "conventions count every parameter"


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_the_compiled_step_has_the_products_of_its_ledger(layers: str) -> None:
    """Dots of the program on a CPU: what the barriers of its matrix products keep apart is not kept alive."""

    def dots(*frozen: str) -> int:
        return compiled_step(config("llama", frozen, layers), jax.devices()[:1]).update.as_text().count(" dot(")

    turns = 1 if layers == "scan" else 4
    assert dots() == 27 * turns + 3
    assert dots("layers.*") == (27 - 7) * turns + 3
    assert dots("embedding", "layers.*", "norm.scale") == 9 * turns + 2


def test_unrolled_layers_make_no_more_products_than_the_ledger_has() -> None:
    frozen = ("embedding", "layers.attention*")
    found, told = computed(config("llama", frozen, "unroll")), ledger(config("llama", frozen))
    first = (told.items["attention_projections"] + told.items["attention_scores"]) / 4
    assert told.exact - first <= found < told.exact, "the first of four layers has nothing before it"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_memory_holds_no_gradient_and_no_moments_of_what_is_frozen(optimizer: str) -> None:
    frozen = ("embedding", "layers.attention.*")
    run, whole = config("llama", frozen, optimizer=optimizer), config("llama", optimizer=optimizer)
    kept = sum(tensor.size for tensor in run.tensors() if tensor.frozen)
    assert kept == 256 * 12 + 4 * (2 * 12 * 24 + 2 * 12 * 12 + 2 * 6)
    found, before = (accounting.memory(each).items for each in (run, whole))
    assert found["gradients"] == before["gradients"] - 4 * kept
    state = jax.eval_shape(run_optimizer(run, make_knobs(run)).init, functional.abstract(run.model))
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert found["optimizer"] == pytest.approx(held, abs=4 * 100 + 4 * 4 * len(names("llama")))  # counters
    assert found["parameters"] == before["parameters"] and "reference" not in found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_update_is_that_of_the_trained_parameters_alone(optimizer: str) -> None:
    """Against a step that trains all: the same gradients, clipped by the norm of the trained ones."""
    frozen = ("embedding", "layers.mlp.*", "norm.scale")
    run, whole = (config("llama", each, "unroll", optimizer) for each in (frozen, ()))
    params = functional.init(run.model, jax.random.key(1))
    grads, all_grads = (quick_jit(lambda p, r=r: gradients(r, p, batch(r), None).grads)(params) for r in (run, whole))
    for tensor in run.tensors():
        mine, all_of_them = (leaf(each, tensor.path) for each in (grads, all_grads))
        assert mine is None if tensor.frozen else np.allclose(mine, all_of_them, rtol=1e-5, atol=1e-8), tensor.name
    state = TrainState(jnp.zeros((), jnp.int32), params, run_optimizer(run, make_knobs(run)).init(params))
    after, metrics = quick_jit(lambda s: update(run, make_knobs(run), s, batch(run)))(state)
    assert metrics[2] == pytest.approx(norm(grads), rel=1e-5) and norm(grads) < 0.99 * norm(all_grads)
    for tensor in run.tensors():
        same = np.array_equal(leaf(after.params, tensor.path), leaf(params, tensor.path))
        assert same == tensor.frozen, tensor.name


def leaf(params: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        params = params[key]
    return params


def norm(grads: Any) -> float:
    return float(np.sqrt(sum(float(jnp.sum(g * g)) for g in jax.tree.leaves(grads))))
