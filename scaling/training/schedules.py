"""Learning rates over a run. Step k counts from 0, and the update of step k uses the rate at k."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scaling.config import ScheduleConfig

Schedule = Callable[[ArrayLike], jax.Array]


def make_schedule(config: ScheduleConfig, peak: float, steps: int, batch_tokens: int = 1) -> Schedule:
    """The learning rate at step k of `steps`, as a traceable function into float32.

    batch_tokens: tokens of a step, for a warmup that is given in tokens.

    Warmup takes the first W = `config.warmup_steps(…)` steps: peak · (k + 1) / W, so the first step already learns
    and the last of the W is at the peak. From there `cosine` and `linear` fall to exactly final · peak at the last
    step; `wsd` holds the peak and falls as 1 − √u over the last `config.cooldown_steps(…)` steps, u = 1 at the last
    one, to final · peak (Hägele et al. 2024, 2405.18392, eq. 1; theirs ends at 0); `inverse_sqrt` is
    peak · √(W / (k + 1)) (Vaswani et al. 2017, 1706.03762, eq. 3); `constant` holds the peak. A run of one step is
    at the peak.

    Steps past the end keep the last value (inverse_sqrt goes on falling).
    """
    warmup = config.warmup_steps(steps, batch_tokens)
    shape = _shape(config, warmup, config.cooldown_steps(steps, batch_tokens), steps)

    def schedule(step: ArrayLike) -> jax.Array:
        done = jnp.asarray(step, jnp.float32) + 1  # steps taken once this one is
        rise = jnp.minimum(1.0, done / max(warmup, 1))
        return jnp.float32(peak) * jnp.where(done < warmup, rise, shape(done))

    return schedule


def _shape(config: ScheduleConfig, warmup: int, cooldown: int, steps: int) -> Callable[[jax.Array], jax.Array]:
    """The rate after warmup as a share of the peak; 1 where `done` is the first step at the peak."""
    top = max(warmup, 1)
    final = config.final

    def progress(done: jax.Array) -> jax.Array:
        return jnp.clip((done - top) / max(steps - top, 1), 0.0, 1.0)

    if config.name == "cosine":
        return lambda done: final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress(done)))
    if config.name == "linear":
        return lambda done: 1 - (1 - final) * progress(done)
    if config.name == "wsd":
        start = steps - cooldown
        return lambda done: 1 - (1 - final) * jnp.sqrt(jnp.clip((done - start) / max(cooldown, 1), 0.0, 1.0))
    if config.name == "inverse_sqrt":
        return lambda done: jnp.sqrt(top / jnp.maximum(done, top))
    return jnp.ones_like
