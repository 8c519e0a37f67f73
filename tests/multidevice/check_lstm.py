"""The LSTM on 8 virtual CPU devices against one; tests/test_multidevice.py runs this in a process of its own."""

import re
from functools import cache
from typing import Any

import jax
import numpy as np
import pytest
from check_meshes import BATCH, MESHES, assert_same, on_one_device
from jax.sharding import Mesh

from scaling.config import RunConfig, build
from scaling.data import Split
from scaling.models import functional
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, param_shardings, use
from scaling.parallel.mesh import make_mesh
from scaling.training.evaluate import Evaluator
from scaling.training.gradients import Gradients, gradients

CONTEXT = 12
RUN = build(
    RunConfig,
    {
        "model": {"kind": "lstm", "vocab": 256, "context": CONTEXT, "layers": 2, "d_model": 16, "d_hidden": 32,
                  "projection": True, "held_out_state": "carried"},
        "data": {"corpus": "files:unused"},
        "optimizer": {"learning_rate": 0.01},
        "batch_size": BATCH,
        "tokens": BATCH * CONTEXT,
    },
    "test",
)  # fmt: skip
TEXT = np.random.default_rng(1).integers(0, 256, 50 * CONTEXT + 1, dtype=np.uint8)


@cache
def params_on(mesh: Mesh) -> Any:
    values = jax.device_get(functional.init(RUN.model, jax.random.key(3)))
    return jax.device_put(values, param_shardings(functional.facts(RUN.model), values, mesh))


def gradients_on(mesh: Mesh) -> Gradients:
    windows = np.random.default_rng(0).integers(0, 256, (BATCH, CONTEXT + 1)).astype(np.int32)
    batch = Batch(windows[:, :-1], windows[:, 1:], np.ones((BATCH, CONTEXT), np.float32))

    def traced(params: Any, batch: Batch) -> Gradients:
        with use(mesh):
            return gradients(RUN, params, batch, None)

    arguments = params_on(mesh), jax.device_put(batch, batch_sharding(mesh))
    compiled = jax.jit(traced).lower(*arguments).compile()
    gathered = re.findall(rf"= \(?f32\[{CONTEXT},{BATCH}[,\d]*\].* all-gather(?:-start)?\(", compiled.as_text())
    assert gathered == [], "parameters and single outputs travel between devices, a batch of activations does not"
    return jax.device_get(compiled(*arguments))


def measured_on(mesh: Mesh) -> Any:
    split = Split(TEXT, np.array([0]), len(TEXT))
    return Evaluator(RUN, mesh, split)(params_on(mesh))


one_device = cache(lambda f: f(on_one_device()))


@pytest.mark.parametrize("name", MESHES)
def test_gradients_are_those_of_one_device(name: str) -> None:
    assert_same(gradients_on(make_mesh(MESHES[name])), one_device(gradients_on))


@pytest.mark.parametrize("name", ["data=8", "tensor=8", "2×2×2"])
def test_a_carried_state_is_measured_alike_on_any_devices(name: str) -> None:
    """Streams are as many on every mesh: with one for each device the losses would differ."""
    found, wanted = measured_on(make_mesh(MESHES[name])), one_device(measured_on)
    assert (found.tokens, found.windows) == (wanted.tokens, wanted.windows)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-6)
