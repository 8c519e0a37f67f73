"""Windows that devices share along their length, on 8 virtual CPU devices; tests/test_multidevice.py runs this."""

import re
from functools import cache, partial
from math import prod
from typing import Any

import check_meshes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling import accounting
from scaling.config import MeshConfig, RunConfig, build
from scaling.families.attention_mask import AttentionMask
from scaling.models import functional
from scaling.models.attend import attend, reference
from scaling.models.attention_kernels import splash
from scaling.models.attention_tiled import tiled
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, param_shardings, use
from scaling.training.gradients import Gradients, gradients
from scaling.training.step import compiled_step

LENGTH, BATCH = 64, 4
MODEL: dict[str, Any] = {
    "vocab": 257, "context": LENGTH, "layers": 1, "d_model": 32, "n_heads": 8, "n_kv_heads": 2, "d_ff": 64,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "grouped": {"n_kv_heads": 2},
    "every head its keys": {"n_kv_heads": 8, "qk_norm": True, "tied": False, "z_loss": 1e-3},
    "one head of keys": {"n_kv_heads": 1, "position": "alibi"},
    "windows and sinks": {
        "layers": 2,
        "sliding_window": [24, None],
        "mixer": [{"kind": "attention", "sinks": True}],
        "attention_softcap": 5.0,
        "norm_position": "sandwich",
    },
    "mla": {
        "n_kv_heads": None,
        "mixer": [{"kind": "mla", "kv_rank": 16, "nope": 4, "rope": 4, "v": 4}],
    },
    "experts": {"feed_forward": [{"kind": "moe", "experts": 8, "top_k": 2, "capacity": 1.5, "z_loss": 0.01}]},
    "global tokens": {
        "sliding_window": [6],
        "global_tokens": [3],
        "mixer": [{"kind": "attention", "global_projections": True}],
    },
    "odd heads": {"n_heads": 3, "n_kv_heads": 1, "d_head": 8},
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "causal": {"kind": "next_token"},
    "document": {"kind": "next_token", "documents": "mask"},
    "full": {"kind": "masked"},
}
WAYS = ("ulysses", "gather", "ring")
CASES = [
    *(("grouped", mask, "ulysses", {"context": 8}, 1) for mask in ("causal", "document")),
    ("grouped", "full", "ring", {"context": 8}, 1),
    *((model, "document", "ulysses", {"context": 4, "tensor": 2}, 1) for model in list(MODELS)[1:-2]),
    ("global tokens", "full", "gather", {"context": 4, "tensor": 2}, 1),
    *(("one head of keys", "document", way, {"context": 4, "tensor": 2}, 1) for way in ("gather", "ring")),
    ("windows and sinks", "document", "ring", {"data": 2, "context": 4}, 2),
    ("mla", "document", "ring", {"fsdp": 2, "context": 4}, 1),
    *(("grouped", "document", way, {"data": 1, "fsdp": 2, "context": 2, "tensor": 2}, 2) for way in WAYS),
    ("experts", "document", "ring", {"expert": 2, "context": 4}, 1),
    ("odd heads", "causal", "auto", {"fsdp": 2, "context": 4}, 1),
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


@pytest.mark.parametrize("way", WAYS)
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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mask", [AttentionMask(64), AttentionMask(20, kind="document")], ids=["causal", "window"])
def test_keys_have_gradients_of_just_the_queries_that_see_them(way: str, mask: AttentionMask) -> None:
    """One query of each window, from every device: exactly 0 beyond its window, of other documents and after it."""
    mesh, queries = make_mesh(MeshConfig(data=1, context=8)), np.arange(8) * 8 + np.arange(8)
    q, k, v = (jax.random.normal(key, (8, LENGTH, 8, 4)) for key in jax.random.split(jax.random.key(0), 3))
    marks = np.searchsorted([5, 13, 38, 56], np.arange(LENGTH), "right")
    i, j = queries[:, None], np.arange(LENGTH)
    visible = (j <= i) & (i - j < mask.window) & ((marks[i] == marks[j]) | (mask.kind == "causal"))

    def read(k: jax.Array, v: jax.Array) -> jax.Array:
        with use(mesh):
            told = jnp.broadcast_to(jnp.asarray(marks, jnp.int32), (8, LENGTH))
            out = attend(q, k, v, mask, marks_BxL=told, way=way)
        return jnp.sum(out[np.arange(8), queries] * jnp.arange(1.0, 5.0))

    for slope in jax.jit(jax.grad(read, (0, 1)))(k, v):
        by_key = np.abs(np.asarray(slope)).max((2, 3))
        alone = visible.sum(1) == 1  # one key has all the weight, whatever its score
        np.testing.assert_array_equal(by_key[~alone] > 0, visible[~alone])
        assert not by_key[alone][~visible[alone]].any()


@pytest.mark.parametrize(
    ("way", "sent", "gathered"),
    [
        ("ulysses", ["all-to-all"], ""),
        ("gather", ["all-gather", "reduce-scatter"], "8,4"),
        ("ring", ["collective-permute"], ""),
    ],
)
def test_devices_exchange_heads_or_gather_keys_or_pass_them_on_and_no_other_activations(
    way: str, sent: list[str], gathered: str
) -> None:
    """gathered: [heads, d] of the arrays [windows, whole length, …] that devices get from each other."""
    config = run("every head its keys", "causal", way, 1, {"context": 8}, chunk=None)
    mesh = make_mesh(config.placement.mesh)
    program = step(mesh, config).lower(*arguments(mesh, config)).compile().as_text()
    assert all(f" {name}(" in program.replace("-start(", "(") for name in sent)
    found = set(re.findall(rf"f32\[{BATCH},{LENGTH},(\d+(?:,\d+)?)\]\S* all-gather\(", program))
    assert found == set(filter(None, [gathered]))


KERNELS = [
    (tiled, 300, 8, 2, AttentionMask(50, kind="document"), ("ulysses",)),
    (tiled, 200, 3, 1, AttentionMask(50, kind="document"), ("ulysses",)),
    (tiled, 1040, 8, 2, AttentionMask(1040), ("ring",)),
    (tiled, 520, 3, 1, AttentionMask(520, softcap=3.0, kind="document"), ("gather",)),
    (tiled, 520, 4, 1, AttentionMask(60, chunk=90, alibi=True), ("ring",)),
    (tiled, 300, 4, 1, AttentionMask(20, kind="full", global_tokens=2), ("ring",)),
    (tiled, 300, 4, 1, AttentionMask(300, kind="prefix"), ("ring",)),
    (tiled, 320, 4, 1, AttentionMask(9, kind="document", global_tokens=2, chunk=30, restart=True), ("ring",)),
    (partial(splash, interpret=True), 128, 8, 2, AttentionMask(50, kind="document"), ("ulysses",)),
    (partial(splash, interpret=True), 1024, 4, 1, AttentionMask(1024, kind="document"), ("ring",)),
    (partial(splash, interpret=True), 1024, 4, 1, AttentionMask(200, softcap=3.0, chunk=300), ("gather", "ring")),
]


@pytest.mark.parametrize(("kernel", "length", "heads", "kv_heads", "mask", "ways"), KERNELS)
def test_a_kernel_of_one_device_attends_for_the_heads_or_queries_that_are_there(
    kernel: Any, length: int, heads: int, kv_heads: int, mask: AttentionMask, ways: tuple[str, ...]
) -> None:
    """Or, where heads do not divide, for all of them; with sinks, and with gradients."""
    mesh, keys = make_mesh(MeshConfig(data=1, context=4, tensor=2)), jax.random.split(jax.random.key(0), 5)
    shapes = [(2, length, n, 64 if kernel is not tiled else 8) for n in (heads, kv_heads, kv_heads, heads)]
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, [*shapes, (heads,)], strict=True)]
    *arrays, direction, sinks = arrays
    place = np.arange(length)
    of_kind = [place < 20, place < length - 5] if mask.kind == "prefix" else [place // 90, place // 37]
    marks = jnp.asarray(np.stack(of_kind), jnp.int32)

    def both(f: Any, *x: jax.Array) -> Any:
        out, pull = jax.vjp(lambda q, k, v, sinks: f(q, k, v, mask, marks, sinks_H=sinks), *x)
        return out, pull(direction)

    def here(*x: jax.Array) -> Any:
        with use(mesh):
            return [both(partial(kernel, way=way), *x) for way in ways]

    wanted = jax.jit(partial(both, reference))(*arrays, sinks)
    for found in jax.jit(here)(*arrays, sinks):
        check_meshes.assert_same(found, wanted)


@pytest.mark.parametrize("way", WAYS)
def test_the_ledger_knows_what_windows_take_on_each_device(way: str) -> None:
    """All beside the state, as the compiler plans it for this CPU: within 15 %."""
    shape = {"context": 4096, "layers": 4, "d_model": 128, "n_heads": 8, "n_kv_heads": 8, "d_ff": 128, "vocab": 256}
    mesh = {"data": 1, "context": 8}
    placement = {"mesh": mesh, "context": way, "accumulate": 1, "layers": "scan", "remat": "full"}
    values = {"model": shape, "data": {"corpus": "python_stdlib"}, "optimizer": {"learning_rate": 0.01}}
    config = build(RunConfig, values | {"batch_size": 2, "tokens": 10**6, "placement": placement}, "test")
    planned = compiled_step(config, jax.devices()).update.memory_analysis()
    ledger = accounting.memory(config, devices=prod(mesh.values()), kind="cpu")
    ours = ledger.total - ledger.items["parameters"] - ledger.items["optimizer"]
    assert ours == pytest.approx(planned.temp_size_in_bytes, rel=0.15)
