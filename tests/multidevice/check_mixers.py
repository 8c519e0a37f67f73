"""Mixers beside plain attention on 8 virtual CPU devices against one; tests/test_multidevice.py runs this."""

from functools import cache
from typing import Any

import check_meshes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from scaling.config import MeshConfig, RunConfig, build
from scaling.families.attention_mask import AttentionMask
from scaling.models import functional
from scaling.models.attend import reference
from scaling.models.attention_kernels import splash
from scaling.models.attention_tiled import tiled
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, param_shardings, use
from scaling.training.gradients import gradients

MIXERS: dict[str, dict[str, Any]] = {
    "latent": {"kind": "mla", "q_rank": 24, "kv_rank": 16, "nope": 8, "rope": 4, "v": 6},
    "sinks and a norm of the whole width": {"kind": "attention", "sinks": True, "qk_norm": "width"},
}
MESHES = {"tensor=2": MeshConfig(tensor=2), "2×2×2": MeshConfig(data=2, fsdp=2, tensor=2)}


def run(mixer: str) -> RunConfig:
    values = check_meshes.run_config().model_dump(mode="json")
    model = values["model"] | {
        "mixer": [MIXERS[mixer]],
        "bias": False,
    }  # that of a key which nothing turns changes nothing
    return build(RunConfig, values | {"model": model}, "test")


def gradients_on(mesh: Mesh, mixer: str) -> Any:
    config = run(mixer)
    initial = jax.device_get(functional.init(config.model, jax.random.key(3)))
    params = jax.device_put(initial, param_shardings(functional.facts(config.model), initial, mesh))

    def traced(params: Any, batch: Batch) -> Any:
        with use(mesh):
            return gradients(config, params, batch, None)

    batch = jax.device_put(check_meshes.weighted_batch(), batch_sharding(mesh))
    return jax.device_get(jax.jit(traced)(params, batch))


@cache
def on_one(mixer: str) -> Any:
    return gradients_on(check_meshes.on_one_device(), mixer)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("mixer", MIXERS)
def test_gradients_are_those_of_one_device(mixer: str, mesh: str) -> None:
    check_meshes.assert_same(gradients_on(make_mesh(MESHES[mesh]), mixer), on_one(mixer))


def test_matrices_of_latents_are_stored_in_parts() -> None:
    """Of what `fsdp` and `tensor` share, none lies whole on a device."""
    mesh = make_mesh(MESHES["2×2×2"])
    config = run("latent").model
    shapes = functional.abstract(config)
    layout = param_shardings(functional.facts(config), shapes, mesh)["layers"]["attention"]
    for name in ("q", "k_up", "v_up", "o"):
        shape = shapes["layers"]["attention"][name]["kernel"].shape
        assert np.prod(layout[name]["kernel"].shard_shape(shape)) == np.prod(shape) / 4, name


def test_sinks_are_with_their_heads_in_a_kernel_of_each_device() -> None:
    mesh = make_mesh(MESHES["2×2×2"])
    q, k, v = (jax.random.normal(jax.random.key(i), (4, 128, n, 64)) for i, n in enumerate((4, 2, 2)))
    arrays = (q, k, v, jnp.asarray([0.0, 2.0, -1.0, 4.0]))

    def by_splash(*x: jax.Array) -> jax.Array:
        with use(mesh):
            return jnp.sum(splash(*x[:3], AttentionMask(50), sinks_H=x[3], interpret=True) ** 2)

    def plain(*x: jax.Array) -> jax.Array:
        return jnp.sum(reference(*x[:3], AttentionMask(50), sinks_H=x[3]) ** 2)

    every = tuple(range(4))
    got, want = jax.jit(jax.grad(by_splash, every))(*arrays), jax.jit(jax.grad(plain, every))(*arrays)
    check_meshes.assert_same(got, want, rtol=1e-4)


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_tiles_are_those_of_one_device_with_their_windows_heads_slopes_and_sinks(kv_heads: int) -> None:
    """Keys are copied where there are fewer heads of them than devices."""
    mesh, mask = make_mesh(MESHES["2×2×2"]), AttentionMask(90, 3.0, True, kind="document", global_tokens=2)
    q, k, v = (jax.random.normal(jax.random.key(i), (4, 200, n, 8)) for i, n in enumerate((4, kv_heads, kv_heads)))
    arrays = (q, k, v, jnp.asarray([0.0, 2.0, -1.0, 4.0]))
    marks = jnp.asarray(np.random.default_rng(0).random((4, 200)) < 0.02).cumsum(1)

    def by_tiles(*x: jax.Array) -> jax.Array:
        with use(mesh):
            return jnp.sum(tiled(*x[:3], mask, marks, x[3]) ** 2)

    def plain(*x: jax.Array) -> jax.Array:
        return jnp.sum(reference(*x[:3], mask, marks, sinks_H=x[3]) ** 2)

    every = tuple(range(4))
    got, want = jax.jit(jax.grad(by_tiles, every))(*arrays), jax.jit(jax.grad(plain, every))(*arrays)
    check_meshes.assert_same(got, want, rtol=1e-4)
