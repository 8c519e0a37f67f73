"""Runs of eight kinds are what they were before models were declared: ids, first values and the losses of 20 steps.

The numbers were recorded with commit b132f21. An id or a first value that changes renames or remakes runs that people
have. Ids are compared to the digit, numbers as far as processors agree.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import quick_jit

from scaling.config import RunConfig, merge, run_id
from scaling.models import functional
from scaling.parallel import make_mesh
from scaling.training.knobs import make_knobs
from scaling.training.pack import stacked
from scaling.training.state import create_state
from scaling.training.step import run_layout, run_optimizer, update

pytestmark = pytest.mark.usefixtures("runs_once")

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "unchanged.json").read_text())
STEPS = 20
MODEL = {"vocab": 256, "context": 32, "layers": 2, "d_model": 32, "n_heads": 2}
RUN: dict[str, Any] = {
    "model": MODEL,
    "data": {"corpus": "python_stdlib"},
    "optimizer": {"learning_rate": 0.01},
    "batch_size": 4,
    "tokens": STEPS * 4 * 32,
    "placement": {"accumulate": 1},
}
WSD = {"name": "wsd", "warmup_tokens": 512, "cooldown": 0.2}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"model": {"activation": "gelu", "norm": "layernorm", "position": "learned", "bias": True,
                       "init": "normal"}},
    "llama": {"model": {"layers": 3, "n_heads": 4, "n_kv_heads": 2, "tied": False, "qk_norm": True, "z_loss": 1e-4}},
    "albert": {"model": {"layers": 4, "layer_sharing": 4, "norm_position": "post", "activation": "geglu",
                         "position": "sinusoidal"}},
    "window": {"model": {"layers": 4, "sliding_window": [8, None], "position": "alibi", "norm_position": "sandwich",
                         "attention_softcap": 20.0, "logit_softcap": 30.0}},
    "mup": {"model": {"d_model": 48, "mup": {"width": 32, "layers": 1}, "parallel_block": True}},
    "dropout": {"model": {"dropout": 0.1}, "placement": {"accumulate": 2}},
    "branch": {"schedule": WSD, "records": {"trunk": "L2-d32-10.2k-f7f4cd3e"}},
    "packed": {"optimizer": {"name": "muon"}, "model": {"tied": False}},
}  # fmt: skip


def config_of(kind: str, **changes: Any) -> RunConfig:
    return RunConfig.model_validate(merge(merge(RUN, KINDS[kind]), changes))


def windows(step: int) -> np.ndarray:
    return (np.random.default_rng(step).random((4, 33)) ** 3 * 256).astype(np.uint8)


def first_values(params: Any) -> dict[str, list[float]]:
    """Of every parameter by name: three values from its ends and its middle, and its mean square."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        flat = np.ravel(np.asarray(x, np.float64))
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        found[name] = [flat[0], flat[len(flat) // 2], flat[-1], float(np.mean(flat**2))]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_has_the_id_and_the_first_values_that_it_had(kind: str) -> None:
    config = config_of(kind)
    assert run_id(config) == RECORDED[kind]["id"]
    found, recorded = first_values(functional.init(config.model, jax.random.key(7))), RECORDED[kind]["values"]
    assert list(found) == list(recorded)
    for name, values in found.items():
        np.testing.assert_allclose(values, recorded[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_has_the_losses_that_it_had(kind: str) -> None:
    """`packed`: two seeds side by side."""
    runs = [config_of(kind, seed=seed) for seed in ((0, 1) if kind == "packed" else (0,))]
    mesh = make_mesh(runs[0].placement.mesh, jax.devices()[:1])
    layout, optimizer = run_layout(runs[0], mesh), run_optimizer(runs[0], make_knobs(runs[0]))
    state = stacked([create_state(run.model, optimizer, run.seed, layout) for run in runs])
    knobs = stacked([make_knobs(run) for run in runs])

    def one(state: Any, knobs: Any, rows: Any) -> Any:
        return update(runs[0], knobs, state, runs[0].objective.batch(rows))

    step, losses = quick_jit(one if len(runs) == 1 else jax.vmap(one)), []
    for k in range(STEPS):
        state, metrics = step(state, knobs, stacked([windows(k)] * len(runs)))
        losses.append(np.asarray(metrics)[..., 0].tolist())
    np.testing.assert_allclose(losses, RECORDED[kind]["losses"], rtol=2e-5)
