"""One update: gradients of a batch, in microbatches, and the optimizer; a pure function that is compiled once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scaling.config import RunConfig
from scaling.models import functional
from scaling.parallel import batch_sharding, replicated, use
from scaling.training.knobs import Knobs, make_knobs
from scaling.training.optimizer import global_norm, make_optimizer
from scaling.training.schedules import make_schedule
from scaling.training.state import TrainState

METRICS = ("loss", "z_loss", "grad_norm", "learning_rate")
"""what a step measures, in the order of its vector: one array is read from the device in one go

loss: nats per token, without the z-loss; z_loss: its weighted share of the objective; grad_norm: before clipping.
"""

DROPOUT = 0x5EED  # sets the stream of dropout keys apart from that of the initial parameters


class Batch(NamedTuple):
    """Windows of one step on the device."""

    tokens_BxL: jax.Array
    targets_BxL: jax.Array
    weights_BxL: jax.Array
    """a target of weight 0 does not count"""


class Gradients(NamedTuple):
    grads: functional.Params
    nats: jax.Array
    z: jax.Array


def from_windows(windows_BxL1: jax.Array) -> Batch:
    """Windows of L + 1 tokens, any integer type, as L inputs and the L tokens that follow them, all of weight 1."""
    tokens = windows_BxL1.astype(jnp.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], jnp.ones_like(tokens[:, 1:], jnp.float32))


def gradients(
    run: RunConfig, graph: functional.Graph, params: functional.Params, batch: Batch, key: Any
) -> Gradients:
    """Gradient of the batch's mean objective, with the means of nats and of log² Z.

    Every microbatch's sums are divided by the weight of the whole batch, so tokens count the same however the
    batch is cut. Row i belongs to microbatch i mod `accumulate`: each device keeps rows that it already has.
    """
    model, parts = run.model, max(1, run.placement.accumulate)
    weight = jnp.maximum(jnp.sum(batch.weights_BxL), 1.0)

    def objective(params: functional.Params, part: Batch, key: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        sums = functional.bind(graph, params).loss_sum(*part, dropout_key=key)
        return (sums.nats + model.z_loss * sums.z) / weight, (sums.nats / weight, sums.z / weight)

    def of(part: Batch, key: Any) -> Gradients:
        (_, (nats, z)), grads = jax.value_and_grad(objective, has_aux=True)(params, part, key)
        return Gradients(grads, nats, z)

    if parts == 1:
        return of(batch, key)

    def microbatch(index: Any) -> Batch:
        return Batch(*(x.reshape(-1, parts, x.shape[-1])[:, index] for x in batch))

    def add(total: Gradients, index: Any) -> tuple[Gradients, None]:
        own_key = None if key is None else jax.random.fold_in(key, index)
        return jax.tree.map(jnp.add, total, of(microbatch(index), own_key)), None

    zero = jnp.zeros((), jnp.float32)
    start = Gradients(jax.tree.map(jnp.zeros_like, params), zero, zero)
    return jax.lax.scan(add, start, jnp.arange(parts))[0]


def run_optimizer(run: RunConfig, knobs: Knobs) -> optax.GradientTransformation:
    """The optimizer of a run with these numbers, plain or traced; its state does not depend on them."""
    schedule = make_schedule(run.schedule.name, knobs)
    return make_optimizer(run.optimizer, schedule, functional.metadata(run.model), knobs.weight_decay)


def update(
    run: RunConfig, graph: functional.Graph, knobs: Knobs, state: TrainState, batch: Batch
) -> tuple[TrainState, jax.Array]:
    """The state after one more batch, and the METRICS of that batch as one float32 vector.

    Numbers in which runs of one shape differ come from `knobs`, none of them from `run`.
    """
    key = None
    if run.model.dropout:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(knobs.seed), DROPOUT), state.step)
    grads, nats, z = gradients(run, graph, state.params, batch, key)
    updates, opt_state = run_optimizer(run, knobs).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    rate = make_schedule(run.schedule.name, knobs)(state.step)
    values = (nats, run.model.z_loss * z, global_norm(grads), rate)
    metrics = jnp.stack([jnp.asarray(value, jnp.float32) for value in values])
    return TrainState(state.step + 1, params, opt_state), metrics


def compile_step(
    run: RunConfig,
    graph: functional.Graph,
    mesh: Mesh,
    layout: TrainState,
    windows: jax.ShapeDtypeStruct,
    runs: int = 1,
) -> Any:
    """`update` compiled: (state, knobs, windows [B, L + 1]) → (state, metrics). The state given is consumed.

    layout: from `abstract_state`. windows: shape and integer type of a batch. runs: if several, that many side by
    side: every argument and result has them as its first axis; for a mesh of one device.

    Runs that differ in their knobs alone have the same program: what JAX keeps of one on the disk serves the others.
    """

    def step(state: TrainState, knobs: Knobs, windows_BxL1: jax.Array) -> tuple[TrainState, jax.Array]:
        with use(mesh):
            return update(run, graph, knobs, state, from_windows(windows_BxL1))

    arguments = (layout, jax.eval_shape(lambda: make_knobs(run)), windows)
    states = jax.tree.map(lambda x: x.sharding, layout)
    batches = batch_sharding(mesh)
    if runs > 1:
        arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype), arguments)
        states = batches = replicated(mesh)
    jitted = jax.jit(
        step if runs == 1 else jax.vmap(step),
        donate_argnums=0,
        in_shardings=(states, replicated(mesh), batches),
        out_shardings=(states, replicated(mesh)),
    )
    return jitted.lower(*arguments).compile()
