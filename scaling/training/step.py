"""One update: the gradient of a batch and the optimizer, as a pure function that is compiled once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scaling.config import RunConfig
from scaling.data.store import token_dtype
from scaling.families import tree
from scaling.models import functional
from scaling.models.parameters import trained, with_rest
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, placed, replicated, use
from scaling.parallel.host import check_host, on_device, on_host
from scaling.training.gradients import gradients
from scaling.training.knobs import Knobs, make_knobs
from scaling.training.optimizer import global_norm, make_optimizer
from scaling.training.schedules import make_schedule
from scaling.training.state import TrainState, abstract_state

METRICS = ("loss", "z_loss", "grad_norm", "learning_rate")
"""the metrics of every step

loss: in the objective's unit, without the z-loss; z_loss: weighted; grad_norm: before clipping.
"""

DROPOUT = 0x5EED  # separates the stream of dropout keys from that of the initial parameters


def metric_names(run: RunConfig) -> tuple[str, ...]:
    """Names of the metrics of a step, in the order of its vector, which is read from the device as one array."""
    return (*METRICS, *run.model.losses, *run.model.metrics)


def run_optimizer(run: RunConfig, knobs: Knobs) -> optax.GradientTransformation:
    """The optimizer of a run with these knobs, plain or traced; its state does not depend on them."""
    schedule = make_schedule(run.schedule.name, knobs)
    return make_optimizer(run.optimizer, schedule, tree(run.tensors()), knobs.weight_decay)


def update(run: RunConfig, knobs: Knobs, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
    """The state after one more batch, and its metrics as one float32 vector in the order of `metric_names`.

    Numbers in which runs of the same shape may differ are read from `knobs`, never from `run`.
    """
    key = None
    if run.model.random:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(knobs.seed), DROPOUT), state.step)
    grads, means = gradients(run, state.params, batch, key, state.reference)
    before = on_device(state.opt_state) if run.placement.offload_optimizer else state.opt_state
    updates, opt_state = run_optimizer(run, knobs).update(grads, before, state.params)
    declared = tree(run.tensors())
    params = with_rest(optax.apply_updates(trained(state.params, declared), updates), state.params, declared)
    params = functional.updated(run.model, params, means.aux.counts)
    rate = make_schedule(run.schedule.name, knobs)(state.step)
    by_name = means.aux.losses | functional.metrics(run.model, means.aux.counts)
    extra = (by_name[name] for name in (*run.model.losses, *run.model.metrics))
    values = (means.loss, run.model.z_loss * means.z, global_norm(grads), rate, *extra)
    metrics = jnp.stack([jnp.asarray(value, jnp.float32) for value in values])
    return TrainState(state.step + 1, params, opt_state, state.reference), metrics


class Step(NamedTuple):
    """The compiled update of a run on its devices."""

    mesh: Mesh
    layout: TrainState
    """shapes, dtypes and shardings of the state"""
    update: Any
    """(state, knobs, the objective's `rows` of a batch) → (state, metrics); the input state is donated"""


def compiled_step(run: RunConfig, devices: Sequence[Any] | None = None, runs: int = 1, dtype: Any = None) -> Step:
    """The update of a run compiled for its mesh over `devices`, which need not be present
    (`jax.experimental.topologies`).

    devices: of the mesh; default: all of JAX's devices. runs: number of runs side by side; if more than one, it is
    the first axis of every argument and result, and the mesh must have one device. dtype: of the tokens in the run's
    store; default: that of a store with the run's vocabulary.
    Raises UserError if the run does not fit the devices.

    Runs that differ only in their knobs have the same program, so they share JAX's on-disk compilation cache.
    """
    mesh = make_mesh(run.placement.mesh, devices, run.placement.dcn)
    run = placed(run, mesh)
    layout = run_layout(run, mesh)
    rows = rows_spec(run, dtype or token_dtype(run.data.tokenizer.vocab), run.model.context)
    return Step(mesh, layout, compile_step(run, mesh, layout, rows, runs))


def rows_spec(run: RunConfig, dtype: Any, context: int) -> Any:
    """Shapes and dtypes of a batch in windows of `context` tokens. dtype: of stored tokens."""
    return run.objective.spec(run.model, run.batch_tokens // context, context, dtype)


def run_layout(run: RunConfig, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a run's state on a mesh.

    Raises UserError as `abstract_state` does, and if the placement needs host memory that the devices lack."""
    layout = abstract_state(run.model, run_optimizer(run, make_knobs(run)), mesh)
    check_host(mesh, run.placement)
    if run.placement.offload_optimizer:
        layout = layout._replace(opt_state=on_host(layout.opt_state))
    return layout._replace(reference=layout.params) if run.has_reference else layout


def compile_step(run: RunConfig, mesh: Mesh, layout: TrainState, rows: Any, runs: int = 1) -> Any:
    """Compile `update`. layout: from `run_layout`. rows: arrays or shapes of a batch, as the objective's `rows`."""

    def step(state: TrainState, knobs: Knobs, rows: Any) -> tuple[TrainState, jax.Array]:
        with use(mesh):
            return update(run, knobs, state, run.objective.batch(rows))

    arguments = (layout, jax.eval_shape(lambda: make_knobs(run)), _shapes(rows))
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


def _shapes(arrays: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
