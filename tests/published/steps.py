"""A few updates of a case, as `scaling train` makes them: warmup, decay, clipping, microbatches."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from published.cases import CASES, LENGTH, Case
from published.weights import weights
from tiny_run import quick_jit

from scaling.config import RunConfig, build
from scaling.training.knobs import make_knobs
from scaling.training.state import TrainState
from scaling.training.step import run_optimizer, update

STEPS, ROWS, WARMUP, FINAL, VOCAB = 12, 4, 3, 0.1, 256
ADAMW = {"learning_rate": 3e-3, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
WINDOWS = np.random.default_rng(1).integers(0, VOCAB, (STEPS, ROWS, LENGTH + 1))
"""[steps, B, L + 1]: the inputs and the targets of each step"""
TRAINED = {
    name: replace(case, changes=case.changes | {"vocab": VOCAB}, settings=case.settings | {"vocab_size": VOCAB})
    for name, case in CASES.items()
    if name in ("gpt2", "llama-3.1")
}


def losses(case: Case) -> np.ndarray:
    """[steps], the loss of each batch before the update that it makes."""
    values: dict[str, Any] = {
        "model": case.model.model_dump(mode="json"),
        "data": {"corpus": "python_stdlib"},  # not read
        "optimizer": ADAMW,
        "schedule": {"name": "cosine", "warmup": WARMUP / STEPS, "final": FINAL},
        "batch_size": ROWS,
        "tokens": STEPS * ROWS * LENGTH,
        "placement": {"accumulate": 2, "compute_dtype": "float32"},
    }
    run = build(RunConfig, values, "the case")
    knobs, params = make_knobs(run), jax.tree.map(jnp.asarray, weights(case.model, case.usual))
    state = TrainState(jnp.int32(0), params, run_optimizer(run, knobs).init(params))
    step, found = quick_jit(lambda state, rows: update(run, knobs, state, run.objective.batch(rows))), []
    for rows in WINDOWS:
        state, metrics = step(state, rows)
        found.append(metrics[0])
    return np.asarray(found)
