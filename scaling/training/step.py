"""One update: gradients of a batch, in microbatches, and the optimizer; a pure function that is compiled once."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from scaling.accounting import compute_dtype
from scaling.config import RunConfig
from scaling.data.store import token_dtype
from scaling.families import tree
from scaling.models import LossSums, functional
from scaling.models.layer import Aux
from scaling.models.parameters import map_declared, trained, with_rest
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, make_mesh, placed, replicated, use
from scaling.parallel.host import check_host, on_device, on_host
from scaling.parallel.one_f_one_b import alternated
from scaling.parallel.pipeline import stages
from scaling.parallel.sharding import target_platform
from scaling.parallel.zero import copied, laid_out, zero_stage
from scaling.training.knobs import Knobs, make_knobs
from scaling.training.optimizer import global_norm, make_optimizer
from scaling.training.schedules import make_schedule
from scaling.training.state import TrainState, abstract_state

METRICS = ("loss", "z_loss", "grad_norm", "learning_rate")
"""what every step measures

loss: in the objective's unit, without the z-loss; z_loss: its weighted share; grad_norm: before clipping.
"""

DROPOUT = 0x5EED  # sets the stream of dropout keys apart from that of the initial parameters


class Gradients(NamedTuple):
    grads: functional.Params
    means: LossSums


def metric_names(run: RunConfig) -> tuple[str, ...]:
    """What a step of a run measures, in the order of its vector: one array is read from the device in one go."""
    return (*METRICS, *run.model.losses, *run.model.metrics)


def gradients(
    run: RunConfig, params: functional.Params, batch: Batch, key: Any, reference: functional.Params | None = None
) -> Gradients:
    """Gradient of the batch's mean loss with all that is added to it, and the means of these.

    It is that of the trained parameters, with None in place of the others. Every microbatch's sums are divided by the
    count of the whole batch, so tokens count the same however the batch is cut; what layers add and count, by the
    tokens that are read, since experts compute each of them whatever its target weighs. Row i belongs to microbatch i
    mod `accumulate`: each device keeps rows that it already has.

    reference: parameters of a model that the objective may compare with.
    """
    objective, parts = run.objective, max(1, run.placement.accumulate)
    count, tokens, declared = objective.count(batch), batch.tokens_BxL.size, tree(run.tensors())
    dtype = compute_dtype(run.placement.compute_dtype, target_platform())
    with zero_stage(run.placement.zero):
        copies = map_declared(lambda tensor, w: copied(w, tensor, dtype), declared, params)
    own = trained(copies, declared)

    def total(rest: functional.Params, own: functional.Params, part: Batch, key: Any) -> tuple[jax.Array, LossSums]:
        model = functional.bind_run(run, with_rest(own, rest, declared), reference)
        sums = objective.sums(model, part, key)
        loss = (sums.loss + run.model.z_loss * sums.z) / count
        means = LossSums(sums.loss / count, sums.z / count, jax.tree.map(lambda x: x / tokens, sums.aux))
        return sum(means.aux.losses.values(), loss), means

    together = (run.placement.pipeline_microbatches or parts) if stages() > 1 else 1
    rounds = parts // together
    zero = jnp.zeros((), jnp.float32)
    counts = jax.tree.map(jnp.zeros, run.model.counts, is_leaf=lambda shape: isinstance(shape, tuple))
    nothing = Aux(dict.fromkeys(run.model.losses, zero), counts)

    def key_of(index: Any) -> Any:
        """That of a microbatch; those of a round of them, which follow each other through the layers."""
        if key is None or parts == 1:
            return key
        if stages() == 1:
            return jax.random.fold_in(key, index)
        return jax.vmap(partial(jax.random.fold_in, key))(index * together + jnp.arange(together))

    def part(index: Any) -> Batch:
        if rounds == 1:
            return batch

        def rows(x: jax.Array) -> jax.Array:
            return x.reshape(-1, rounds, together, *x.shape[1:])[:, index].reshape(-1, *x.shape[1:])

        return jax.tree.map(rows, batch)

    def counted(counts: Any, index: Any) -> tuple[Any, None]:
        with zero_stage(run.placement.zero):
            means = total(copies, own, part(index), key_of(index))[1]
            return jax.tree.map(jnp.add, counts, means.aux.counts), None

    rest = copies
    if run.model.reads_counts and (rounds > 1 or stages() > 1):  # of the whole batch, before the first gradient
        rest = functional.informed(run.model, rest, jax.lax.scan(counted, counts, jnp.arange(rounds))[0])
    made = jax.value_and_grad(partial(total, rest), has_aux=True)
    if stages() > 1 and run.placement.pipeline_schedule == "1f1b":
        made = partial(alternated, partial(total, rest), declared=declared, microbatches=together)

    def of(index: Any) -> Gradients:
        with zero_stage(run.placement.zero):
            (_, means), grads = made(own, part(index), key_of(index))
            return Gradients(map_declared(lambda t, g: laid_out(g, t) if t.trained else g, declared, grads), means)

    if rounds == 1:
        return of(0)

    def add(sums: Gradients, index: Any) -> tuple[Gradients, None]:
        return jax.tree.map(jnp.add, sums, of(index)), None

    empty = Gradients(jax.tree.map(jnp.zeros_like, trained(params, declared)), LossSums(zero, zero, nothing))
    return jax.lax.scan(add, empty, jnp.arange(rounds))[0]


def run_optimizer(run: RunConfig, knobs: Knobs) -> optax.GradientTransformation:
    """The optimizer of a run with these numbers, plain or traced; its state does not depend on them."""
    schedule = make_schedule(run.schedule.name, knobs)
    return make_optimizer(run.optimizer, schedule, tree(run.tensors()), knobs.weight_decay)


def update(run: RunConfig, knobs: Knobs, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
    """The state after one more batch, and its `metric_names` as one float32 vector.

    Numbers in which runs of one shape differ come from `knobs`, none of them from `run`.
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
    told = means.aux.losses | functional.metrics(run.model, means.aux.counts)
    extra = (told[name] for name in (*run.model.losses, *run.model.metrics))
    values = (means.loss, run.model.z_loss * means.z, global_norm(grads), rate, *extra)
    metrics = jnp.stack([jnp.asarray(value, jnp.float32) for value in values])
    return TrainState(state.step + 1, params, opt_state, state.reference), metrics


class Step(NamedTuple):
    """The compiled update of a run on its devices."""

    mesh: Mesh
    layout: TrainState
    """shapes, dtypes and places of the state"""
    update: Any
    """(state, knobs, rows of a batch) → (state, metrics), of the objective's `rows`; the state given is consumed"""


def compiled_step(run: RunConfig, devices: Sequence[Any] | None = None, runs: int = 1, dtype: Any = None) -> Step:
    """The update of a run compiled for its mesh over `devices`, which need not be there
    (`jax.experimental.topologies`).

    devices: of the mesh; all of JAX's where unset. runs: if several, that many side by side: every argument and
    result has them as its first axis; for a mesh of one device. dtype: of the tokens of its store; unset: of a store
    of its vocabulary.
    Raises UserError where the run does not fit the devices.

    Runs that differ in their knobs alone have the same program: what JAX keeps of one on the disk serves the others.
    """
    mesh = make_mesh(run.placement.mesh, devices, run.placement.dcn)
    run = placed(run, mesh)
    layout = run_layout(run, mesh)
    rows = rows_spec(run, dtype or token_dtype(run.data.tokenizer.vocab), run.model.context)
    return Step(mesh, layout, compile_step(run, mesh, layout, rows, runs))


def rows_spec(run: RunConfig, dtype: Any, context: int) -> Any:
    """Arrays of the shapes and dtypes of a batch in windows of `context`. dtype: of stored tokens."""
    return run.objective.spec(run.model, run.batch_tokens // context, context, dtype)


def run_layout(run: RunConfig, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and places of a run's state on a mesh. Raises UserError as `abstract_state`, and where devices
    have no memory of the host that the placement asks for."""
    layout = abstract_state(run.model, run_optimizer(run, make_knobs(run)), mesh)
    for key in ("offload_optimizer", "offload_activations"):
        if getattr(run.placement, key):
            check_host(mesh, key)
    if run.placement.offload_optimizer:
        layout = layout._replace(opt_state=on_host(layout.opt_state))
    return layout._replace(reference=layout.params) if run.has_reference else layout


def compile_step(run: RunConfig, mesh: Mesh, layout: TrainState, rows: Any, runs: int = 1) -> Any:
    """`update` compiled. layout: from `run_layout`. rows: arrays or shapes of a batch as the objective's `rows`."""

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
