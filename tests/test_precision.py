"""A step in bfloat16 is that of float32 within bfloat16's rounding."""

from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.config import RunConfig, build
from scaling.models import functional
from scaling.objectives import Batch
from scaling.training.gradients import Gradients, gradients

ROUNDING = 2.0**-8  # of bfloat16, relative
STEPS = 8
"""roundings that may add up along the way to a gradient, as independent ones do: about 6 were seen of 3 layers, whose
forward and backward pass round some 30 times"""
NONE = 1e-6
"""of the whole gradient's norm: a gradient that is nothing but rounding, as of a bias of keys"""


def run(dtype: str, **model: Any) -> RunConfig:
    sizes = {"vocab": 256, "context": 64, "layers": 3, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_ff": 128}
    values = {
        "model": {**sizes, "tied": False, **model},
        "data": {"corpus": "files:unused"},
        "optimizer": {"learning_rate": 0.01},
        "batch_size": 8,
        "tokens": 8 * 64,
        "placement": {"compute_dtype": dtype},
    }
    return build(RunConfig, values, "test")


@pytest.mark.parametrize(
    "model",
    [
        {"activation": "swiglu", "qk_norm": True, "z_loss": 1e-3},
        {"norm": "layernorm", "bias": True, "position": "learned", "activation": "gelu"},
    ],
    ids=["llama", "gpt2"],
)
def test_gradients_in_bfloat16_are_those_of_float32_within_its_rounding(model: dict[str, Any]) -> None:
    windows = np.random.default_rng(0).integers(0, 256, (8, 65)).astype(np.int32)
    batch = Batch(windows[:, :-1], windows[:, 1:], np.ones((8, 64), np.float32))
    params = functional.init(run("float32", **model).model, jax.random.key(0))

    def at(dtype: str) -> Gradients:
        return quick_jit(lambda p, b: gradients(run(dtype, **model), p, b, None))(params, batch)

    exact, rounded = jax.device_get((at("float32"), at("bfloat16")))
    assert rounded.means.loss == pytest.approx(exact.means.loss, rel=ROUNDING)
    assert rounded.means.loss != exact.means.loss
    total = np.sqrt(sum(float(np.sum(x**2)) for x in jax.tree.leaves(exact.grads)))
    for path, wanted in jax.tree_util.tree_leaves_with_path(exact.grads):
        found = rounded.grads
        for key in path:
            found = found[key.key]
        assert found.dtype == np.float32
        if np.linalg.norm(wanted) > NONE * total:
            error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
            assert error < STEPS * ROUNDING, jax.tree_util.keystr(path)
