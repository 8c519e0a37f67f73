"""A mixture of experts on 8 virtual CPU devices against one; tests/test_multidevice.py runs this."""

from typing import Any

import check_meshes
import jax
import numpy as np
import pytest

from scaling.config import MeshConfig, RunConfig, TransformerConfig, build
from scaling.models import functional
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, param_shardings, use
from scaling.training.step import gradients

MODEL = TransformerConfig.model_validate(
    {"vocab": 256, "context": 16, "layers": 2, "d_model": 32, "n_heads": 4, "d_ff": 64, "tied": False,
     "feed_forward": {"kind": "moe", "experts": 8, "top_k": 2, "granularity": 2, "shared": 1, "z_loss": 0.01}}
)  # fmt: skip
MESHES = {"data=8": MeshConfig(), "fsdp=8": MeshConfig(fsdp=8), "2×2×2": MeshConfig(data=2, fsdp=2, tensor=2)}


def found_on(mesh: Any, seed: int, accumulate: int = 1) -> Any:
    values = check_meshes.run_config().model_dump(mode="json")
    values |= {"model": MODEL.model_dump(mode="json"), "placement": {"accumulate": accumulate, "layers": "scan"}}
    run = build(RunConfig, values, "test")
    initial = jax.device_get(functional.init(MODEL, jax.random.key(3)))
    params = jax.device_put(initial, param_shardings(functional.facts(MODEL), initial, mesh))
    cut = np.random.default_rng(seed).integers(0, 256, (check_meshes.BATCH, MODEL.context + 1)).astype(np.int32)
    batch = jax.device_put(Batch(cut[:, :-1], cut[:, 1:], np.ones((len(cut), MODEL.context), np.float32)),
                           batch_sharding(mesh))  # fmt: skip

    def traced(params: Any, batch: Batch) -> Any:
        with use(mesh):
            return gradients(run, params, batch, None)

    return jax.device_get(jax.jit(traced)(params, batch))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", MESHES)
def test_gradients_losses_and_counts_are_those_of_one_device(name: str, accumulate: int) -> None:
    for seed in (1, 2):  # two batches that are routed differently
        want = found_on(check_meshes.on_one_device(), seed)
        got = found_on(make_mesh(MESHES[name]), seed, accumulate)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
