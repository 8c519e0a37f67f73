"""A training step that is compiled ahead, and how long it takes; nothing of data, metrics or evaluation is in it."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling import accounting
from scaling.config import RunConfig
from scaling.models import functional
from scaling.training.knobs import make_knobs
from scaling.training.step import compiled_step


@dataclass(frozen=True)
class Timed:
    """What was measured of a run's step on one device."""

    compile_s: float
    step_s: float
    tokens_per_s: float
    mfu: float | None
    """by the exact count, of the device's bfloat16 peak; None where that is unknown"""
    temporary_gib: float
    """what the step takes beside the state, by the compiler"""
    state_gib: float
    loss: float
    """of the last step: random tokens, so about the logarithm of the vocabulary or below"""
    cudnn: bool
    """whether cuDNN's attention is in the program, by its text"""

    def row(self) -> dict[str, Any]:
        """As JSON has it, rounded to what is read of it."""
        found = {
            name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in vars(self).items()
        }
        return {**found, "finite": bool(np.isfinite(self.loss))}


def timed(config: RunConfig, steps: int, warm: int = 2) -> Timed:
    """Compile a run's step for the first device and take `steps` of them, after `warm` that do not count."""
    begun = time.perf_counter()
    compiled = compiled_step(config, jax.devices()[:1], dtype=np.uint16)
    compile_s = time.perf_counter() - begun
    state = jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), compiled.layout))()
    state = state._replace(params=jax.jit(lambda: functional.init(config.model, jax.random.key(0)))())
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(state))
    shape = (config.batch_size, config.model.context + 1)
    rows = np.random.default_rng(1).integers(0, config.model.vocab, shape, np.uint16)
    knobs, metrics = make_knobs(config), None
    for step in range(warm + steps):
        if step == warm:
            jax.block_until_ready(metrics)
            begun = time.perf_counter()
        state, metrics = compiled.update(state, knobs, rows)
    loss = float(np.asarray(metrics)[0])
    step_s = (time.perf_counter() - begun) / steps
    speed = config.batch_tokens / step_s
    peak = accounting.peak_flops(jax.devices()[0].device_kind, "bfloat16")
    mfu = None if peak is None else speed * accounting.flops_per_token(config).exact / peak
    temporary = compiled.update.memory_analysis().temp_size_in_bytes
    cudnn = "__cudnn$fmha" in compiled.update.as_text()
    return Timed(compile_s, step_s, speed, mfu, temporary / 2**30, state_bytes / 2**30, loss, cudnn)
