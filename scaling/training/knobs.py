"""The numbers in which runs of the same shape may differ, passed to a compiled step that they all share."""

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from scaling.config import RunConfig
from scaling.parallel import replicated


class Knobs(NamedTuple):
    """Scalars of one run, or arrays [runs] in a pack. Lengths are in steps."""

    learning_rate: ArrayLike
    """peak of the schedule"""
    weight_decay: ArrayLike
    warmup: ArrayLike
    cooldown: ArrayLike
    """of `wsd`"""
    steps: ArrayLike
    """of the whole run"""
    final: ArrayLike
    """share of the peak left at the last step"""
    seed: ArrayLike
    """of the dropout stream; the initial parameters and the data order are derived from it elsewhere"""


def make_knobs(run: RunConfig) -> Knobs:
    """The numbers of a run, as float32 and int32."""
    return Knobs(
        learning_rate=np.float32(run.optimizer.learning_rate),
        weight_decay=np.float32(run.optimizer.weight_decay),
        warmup=np.int32(run.warmup_steps),
        cooldown=np.int32(run.cooldown_steps),
        steps=np.int32(run.steps),
        final=np.float32(run.schedule.final),
        seed=np.int32(run.seed),
    )


def put_knobs(knobs: Knobs, mesh: Mesh) -> Knobs:
    """The knobs replicated on every device, once for all steps."""
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, replicated(mesh), lambda i: x[i]), knobs)
