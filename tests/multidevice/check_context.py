"""Windows that devices share along their length, on 8 virtual CPU devices; tests/test_multidevice.py runs this."""

import re
from functools import cache, partial
from typing import Any

import check_meshes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.config import MeshConfig, RunConfig, build
from scaling.families.attention_mask import AttentionMask
from scaling.models import functional
from scaling.models.attend import reference
from scaling.models.attention_kernels import splash
from scaling.models.attention_tiled import tiled
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, param_shardings, use
from scaling.training.step import Gradients, gradients

LENGTH, BATCH = 64, 4
MODEL: dict[str, Any] = {
    "vocab": 257, "context": LENGTH, "layers": 1, "d_model": 32, "n_heads": 8, "n_kv_heads": 2, "d_ff": 64,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "grouped": {"n_kv_heads": 2},
    "every head its keys": {"n_kv_heads": 8, "qk_norm": True, "tied": False, "z_loss": 1e-3},
    "one head of keys": {"n_kv_heads": 1, "position": "alibi"},
    "windows and sinks": {"layers": 2, "sliding_window": [24, None], "mixer": [{"kind": "attention", "sinks": True}]},
    "capped": {"attention_softcap": 5.0, "norm_position": "sandwich"},
    "mla": {
        "n_kv_heads": None,
        "mixer": [{"kind": "mla", "kv_rank": 16, "nope": 4, "rope": 4, "v": 4}],
    },
    "experts": {"feed_forward": [{"kind": "moe", "experts": 8, "top_k": 2, "capacity": 1.5, "z_loss": 0.01}]},
    "odd heads": {"n_heads": 3, "n_kv_heads": 1, "d_head": 8},
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "causal": {"kind": "next_token"},
    "document": {"kind": "next_token", "documents": "mask"},
    "full": {"kind": "masked"},
}
CASES = [
    *(("grouped", mask, way, {"context": 8}, 1) for mask in OBJECTIVES for way in ("ulysses", "gather")),
    *((model, "causal", "ulysses", {"context": 4, "tensor": 2}, 1) for model in list(MODELS)[:-1]),
    *((m, "document", "gather", {"data": 2, "context": 4}, 2) for m in ("windows and sinks", "mla", "odd heads")),
    ("grouped", "document", "ulysses", {"data": 1, "fsdp": 2, "context": 2, "tensor": 2}, 2),
    ("experts", "causal", "ulysses", {"expert": 2, "context": 4}, 1),
    ("odd heads", "causal", "auto", {"fsdp": 4, "context": 2}, 1),
]


def run(model: str, mask: str, way: str, accumulate: int, mesh: dict[str, int], chunk: int | None = 40) -> RunConfig:
    values = check_meshes.run_config().model_dump(mode="json")
    values |= {"model": MODEL | MODELS[model], "objective": OBJECTIVES[mask], "batch_size": BATCH}
    values["placement"] = {"accumulate": accumulate, "context": way, "mesh": mesh, "loss_chunk": chunk}
    return build(RunConfig, values, "test")


def batch_of(config: RunConfig) -> Batch:
    """Windows of a few documents each, whose targets count unevenly."""
    rng = np.random.default_rng(7)
    cut = rng.integers(0, 256, (BATCH, LENGTH + 1)).astype(np.int32)
    weights = rng.random((BATCH, LENGTH)).astype(np.float32)
    documents = np.cumsum(rng.random((BATCH, LENGTH)) < 0.1, 1).astype(np.int32)
    return Batch(cut[:, :-1], cut[:, 1:], weights, documents if config.objective.mask == "document" else None)


def gradients_on(mesh: Any, config: RunConfig) -> Gradients:
    return jax.device_get(step(mesh, config)(*arguments(mesh, config)))


def step(mesh: Any, config: RunConfig) -> Any:
    def traced(params: Any, batch: Batch) -> Any:
        with use(mesh):
            return gradients(config, params, batch, None)

    return jax.jit(traced)


def arguments(mesh: Any, config: RunConfig) -> tuple[Any, Batch]:
    initial = jax.device_get(functional.init(config.model, jax.random.key(3)))
    params = jax.device_put(initial, param_shardings(functional.facts(config.model), initial, mesh))
    return params, jax.device_put(batch_of(config), batch_sharding(mesh))


@cache
def on_one(model: str, mask: str) -> Gradients:
    return gradients_on(check_meshes.on_one_device(), run(model, mask, "auto", 1, {}))


@pytest.mark.parametrize(("model", "mask", "way", "mesh", "accumulate"), CASES)
def test_loss_and_gradients_are_those_of_one_device(
    model: str, mask: str, way: str, mesh: dict[str, int], accumulate: int
) -> None:
    config = run(model, mask, way, accumulate, mesh)
    check_meshes.assert_same(gradients_on(make_mesh(config.placement.mesh), config), on_one(model, mask))


@pytest.mark.parametrize("length", [1, 7])
def test_windows_that_do_not_divide_are_computed_whole(length: int) -> None:
    """As when text is written: the devices of a window then hold all of it, and each token meets its own experts."""
    config = run("experts", "causal", "auto", 1, {"expert": 2, "context": 4})
    tokens = batch_of(config).tokens_BxL[:, :length]

    def logits(mesh: Any) -> Any:
        def traced(params: Any, tokens: Any) -> Any:
            with use(mesh):
                return functional.bind_run(config, params).logits(tokens)

        return jax.device_get(jax.jit(traced)(arguments(mesh, config)[0], tokens))

    found = logits(make_mesh(config.placement.mesh))
    np.testing.assert_allclose(found, logits(check_meshes.on_one_device()), atol=1e-5)


@pytest.mark.parametrize("way", ["ulysses", "gather"])
def test_nothing_is_seen_of_what_comes_later_on_other_devices(way: str) -> None:
    """The gradient of the first half's loss by what the second half embeds is 0, and by the first half it is not."""
    config = run("every head its keys", "causal", way, 1, {"context": 8}, chunk=None)
    mesh = make_mesh(config.placement.mesh)
    params, batch = arguments(mesh, config)
    weights = np.zeros((BATCH, LENGTH), np.float32)
    weights[:, : LENGTH // 2] = 1
    rows = np.broadcast_to(np.arange(LENGTH), (BATCH, LENGTH))  # each position has a row of the embedding of its own

    def loss(params: Any, tokens: Any) -> Any:
        with use(mesh):
            model = functional.bind_run(config, params)
            return model.loss_sums(tokens, batch.targets_BxL, weights).loss

    slope = jax.device_get(jax.jit(jax.grad(loss))(params, rows))["embedding"]
    assert np.abs(slope[: LENGTH // 2]).max(1).min() > 0
    np.testing.assert_array_equal(slope[LENGTH // 2 : LENGTH], 0)


@pytest.mark.parametrize(
    ("way", "sent", "gathered"), [("ulysses", "all-to-all", ""), ("gather", "all-gather", "8,4")]
)
def test_devices_exchange_heads_or_gather_keys_and_no_other_activations(way: str, sent: str, gathered: str) -> None:
    """gathered: [heads, d] of the arrays [windows, whole length, …] that devices get from each other."""
    config = run("every head its keys", "causal", way, 1, {"context": 8}, chunk=None)
    mesh = make_mesh(config.placement.mesh)
    program = step(mesh, config).lower(*arguments(mesh, config)).compile().as_text()
    assert sent in program
    found = set(re.findall(rf"f32\[{BATCH},{LENGTH},(\d+(?:,\d+)?)\]\S* all-gather\(", program))
    assert found == set(filter(None, [gathered]))


@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 2), (3, 1)])
@pytest.mark.parametrize(("kernel", "length"), [(tiled, 1100), (partial(splash, interpret=True), 256)])
def test_a_kernel_of_one_device_attends_for_the_heads_that_are_there(
    kernel: Any, length: int, heads: int, kv_heads: int
) -> None:
    """Or, where they do not divide, for all of them."""
    mesh, keys = make_mesh(MeshConfig(data=1, context=4, tensor=2)), jax.random.split(jax.random.key(0), 3)
    shapes = [(1, length, n, 64) for n in (heads, kv_heads, kv_heads)]
    q, k, v = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    marks = jnp.asarray(np.arange(length)[None] // 90, jnp.int32)
    mask = AttentionMask(50, kind="document")

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        with use(mesh):
            return kernel(q, k, v, mask, marks)

    check_meshes.assert_same(jax.jit(attend)(q, k, v), reference(q, k, v, mask, marks))
