"""A mixture of experts on 8 virtual CPU devices against one; tests/test_multidevice.py runs this."""

from functools import cache
from math import prod
from typing import Any

import check_meshes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling import accounting
from scaling.config import MeshConfig, RunConfig, build
from scaling.errors import UserError
from scaling.models import expert_parallel, functional
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, param_shardings, use
from scaling.training.gradients import gradients
from scaling.training.step import compiled_step

MODEL: dict[str, Any] = {
    "vocab": 256, "context": 16, "layers": 1, "d_model": 32, "n_heads": 4, "d_ff": 64, "tied": False, "bias": True,
}  # fmt: skip
ROUTERS: dict[str, dict[str, Any]] = {
    "top 2": {"top_k": 2, "granularity": 2, "shared": 1, "z_loss": 0.01, "router_bias": True},
    "sigmoid": {
        "top_k": 3,
        "scores": "sigmoid",
        "normalise": True,
        "balance_rate": 0.01,
        "groups": 4,
        "top_groups": 2,
    },
    "capacity": {"top_k": 1, "capacity": 1.0},
    "expert choice": {"top_k": 2, "routing": "expert_choice", "z_loss": 0.01},
    "hash": {"top_k": 2, "routing": "hash"},
    "dropout": {"top_k": 2, "dropout": 0.3},
    "over the batch": {"top_k": 2, "balance": 0.5, "balance_over": "batch"},
}  # fmt: skip
MESHES = {
    "data=8": MeshConfig(),
    "fsdp=2 tensor=2": MeshConfig(fsdp=2, tensor=2),
    "expert=8": MeshConfig(expert=8),
    "context=2": MeshConfig(data=2, fsdp=2, context=2),
    "all": MeshConfig(data=1, fsdp=2, expert=2, tensor=2),
}
CASES = [
    *((router, "expert=8", transport, 1) for router in ROUTERS for transport in ("gather", "all_to_all")),
    *(
        (router, "all", transport, 1 if router == "dropout" else 2)  # microbatches draw anew
        for router in ROUTERS
        for transport in ("gather", "all_to_all")
    ),
    ("top 2", "data=8", "auto", 2),
    ("over the batch", "data=8", "auto", 2),
    ("over the batch", "context=2", "gather", 4),
    ("top 2", "fsdp=2 tensor=2", "auto", 1),
]


def run(router: str, transport: str = "auto", accumulate: int = 1, **mesh: int) -> RunConfig:
    part = {"kind": "moe", "experts": 8, "routing": "token_choice"} | ROUTERS[router]
    values = check_meshes.run_config().model_dump(mode="json") | {"model": MODEL | {"feed_forward": [part]}}
    if part["routing"] == "expert_choice":
        values["objective"] = {"kind": "masked"}
        values["model"] |= {"vocab": 257}
    values["placement"] = {"accumulate": accumulate, "transport": transport, "mesh": mesh}
    return build(RunConfig, values, "test")


def found_on(mesh: Any, config: RunConfig, seeds: tuple[int, ...] = (1, 2)) -> Any:
    """Gradients, losses and counts of batches that are routed differently."""
    initial = jax.device_get(functional.init(config.model, jax.random.key(3)))
    params = jax.device_put(initial, param_shardings(functional.facts(config.model), initial, mesh))

    def traced(params: Any, batch: Batch) -> Any:
        with use(mesh):
            return gradients(config, params, batch, jax.random.key(5))

    step = jax.jit(traced)

    def batch(seed: int) -> Batch:
        cut = np.random.default_rng(seed).integers(0, 256, (check_meshes.BATCH, 17)).astype(np.int32)
        whole = Batch(cut[:, :-1], cut[:, 1:], np.ones((len(cut), 16), np.float32))
        return jax.device_put(whole, batch_sharding(mesh))

    return [jax.device_get(step(params, batch(seed))) for seed in seeds]


@cache
def on_one(router: str) -> Any:
    return found_on(check_meshes.on_one_device(), run(router))


@pytest.mark.parametrize(("router", "mesh", "transport", "accumulate"), CASES)
def test_gradients_losses_and_counts_are_those_of_one_device(
    router: str, mesh: str, transport: str, accumulate: int
) -> None:
    got = found_on(make_mesh(MESHES[mesh]), run(router, transport, accumulate))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(on_one(router)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def by_gathering(x: Any, room: Any, starts: Any, sizes: Any, lie: Any, got: Any, *, axis_name: str) -> Any:
    """What `lax.ragged_all_to_all` is documented to do, which XLA's CPU lacks."""
    x, starts, sizes, lie = (jax.lax.all_gather(a, axis_name) for a in (x, starts, sizes, lie))
    me, rows = jax.lax.axis_index(axis_name), jnp.arange(room.shape[0])
    for source in range(x.shape[0]):
        place = rows - lie[source, me]
        said = x[source].at[place + starts[source, me]].get(mode="clip")
        here = (place >= 0) & (place < sizes[source, me])
        room = jnp.where(here.reshape(-1, *[1] * (room.ndim - 1)), said, room)
    return room


@pytest.mark.parametrize(("router", "mesh"), [("top 2", "expert=8"), ("capacity", "all")])
def test_ragged_buffers_are_filled_where_they_are_read(
    router: str, mesh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax.lax, "ragged_all_to_all", by_gathering)
    monkeypatch.setattr(expert_parallel, "choose_transport", lambda asked, platform: "ragged")
    got = found_on(make_mesh(MESHES[mesh]), run(router))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(on_one(router)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_this_platform_lacks_is_named_with_what_would_do() -> None:
    with pytest.raises(UserError, match=r"placement.transport: ragged does not run on cpu; allowed here: auto, g"):
        found_on(make_mesh(MESHES["expert=8"]), run("top 2", "ragged"))
    with pytest.raises(UserError, match=r"mesh.expert=3 does not divide experts=8; allowed: \[1, 2, 4, 8\]"):
        run("top 2", expert=3)


@pytest.mark.parametrize(
    ("experts", "transport", "accumulate", "mesh"),
    [
        ("blocks", "gather", 1, {"data": 1}),
        ("dense", "gather", 1, {"data": 1}),
        ("blocks", "gather", 4, {"data": 1}),
        ("blocks", "gather", 1, {"data": 1, "expert": 8}),
        ("blocks", "all_to_all", 1, {"data": 1, "expert": 8}),
        ("blocks", "gather", 1, {"data": 1, "fsdp": 2, "expert": 2, "tensor": 2}),
        ("blocks", "all_to_all", 1, {"data": 1, "fsdp": 2, "expert": 2, "tensor": 2}),
    ],
)
def test_the_ledger_knows_what_the_compiler_plans_for(
    experts: str, transport: str, accumulate: int, mesh: dict[str, int]
) -> None:
    """All beside the state, of a step for this CPU: within a fifth."""
    part = {"kind": "moe", "experts": 8, "top_k": 2, "d_ff": 256}
    model = {"vocab": 512, "context": 128, "layers": 4, "d_model": 128, "n_heads": 4, "feed_forward": part}
    placement = {"mesh": mesh, "experts": experts, "transport": transport, "accumulate": accumulate}
    values = {"model": model, "data": {"corpus": "python_stdlib"}, "optimizer": {"learning_rate": 0.01}}
    config = build(RunConfig, values | {"batch_size": 32, "tokens": 10**6, "placement": placement}, "test")
    devices = jax.devices()[: prod(mesh.values())]
    planned = compiled_step(config, devices).update.memory_analysis()
    ledger = accounting.memory(config, devices=len(devices), kind="cpu")
    ours = ledger.total - ledger.items["parameters"] - ledger.items["optimizer"]
    assert ours == pytest.approx(planned.temp_size_in_bytes, rel=0.2)
