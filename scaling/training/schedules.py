"""Learning-rate schedules. Steps k count from 0, and the update of step k uses the rate at k."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scaling.training.knobs import Knobs

Schedule = Callable[[ArrayLike], jax.Array]


def make_schedule(name: str, knobs: Knobs) -> Schedule:
    """The learning rate at step k, as a traceable function with float32 results.

    name: as in `ScheduleConfig`. knobs: the numbers of a run, plain or traced.

    Warmup takes the first W steps: peak · (k + 1) / W, so that the first step has a nonzero rate and step W is at the
    peak. After that, `cosine` and `linear` fall to exactly final · peak at the last step; `wsd` holds the peak and
    falls as 1 − √u over its cooldown, with u = 1 at the last step, to final · peak (Hägele et al. 2024, 2405.18392,
    eq. 1; theirs ends at 0); `inverse_sqrt` is peak · √(W / (k + 1)) (Vaswani et al. 2017, 1706.03762, eq. 3);
    `constant` holds the peak. A run of one step is at the peak.

    Steps past the end keep the last value (inverse_sqrt keeps falling).
    """

    def schedule(step: ArrayLike) -> jax.Array:
        done = jnp.asarray(step, jnp.float32) + 1  # steps taken once this one is
        peak, final, warmup, cooldown, steps = (
            jnp.asarray(x, jnp.float32)
            for x in (knobs.learning_rate, knobs.final, knobs.warmup, knobs.cooldown, knobs.steps)
        )
        top = jnp.maximum(warmup, 1)  # the first step at the peak
        return peak * jnp.where(done < warmup, done / top, _shape(name, done, top, cooldown, steps, final))

    return schedule


def _shape(
    name: str, done: jax.Array, top: jax.Array, cooldown: jax.Array, steps: jax.Array, final: jax.Array
) -> jax.Array:
    """The rate after warmup as a share of the peak; 1 where `done` is `top`."""

    def part(since: jax.Array, length: jax.Array) -> jax.Array:
        return jnp.clip((done - since) / jnp.maximum(length, 1), 0.0, 1.0)

    if name == "cosine":
        return final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * part(top, steps - top)))
    if name == "linear":
        return 1 - (1 - final) * part(top, steps - top)
    if name == "wsd":
        return 1 - (1 - final) * jnp.sqrt(part(steps - cooldown, cooldown))
    if name == "inverse_sqrt":
        return jnp.sqrt(top / jnp.maximum(done, top))
    return jnp.ones_like(done)
