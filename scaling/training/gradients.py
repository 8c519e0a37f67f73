"""The gradient of a batch, in microbatches: of its mean loss and of all that is added to it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.accounting import compute_dtype
from scaling.config import RunConfig
from scaling.families import tree
from scaling.models import LossSums, functional
from scaling.models.layer import Aux
from scaling.models.parameters import map_declared, trained, with_rest
from scaling.objectives import Batch
from scaling.parallel.one_f_one_b import alternated
from scaling.parallel.pipeline import stages
from scaling.parallel.sharding import target_platform
from scaling.parallel.zero import copied, laid_out, zero_stage


class Gradients(NamedTuple):
    grads: functional.Params
    means: LossSums


class Rounds(NamedTuple):
    """A batch as a step goes through it. Row i belongs to microbatch i mod `parts`: each device keeps rows that it
    already has."""

    parts: int
    """microbatches"""
    together: int
    """of a round: those that follow each other through the stages of a pipeline, 1 elsewhere"""

    @property
    def number(self) -> int:
        return self.parts // self.together

    def rows(self, batch: Batch, index: Any) -> Batch:
        """Those of a round."""
        if self.number == 1:
            return batch

        def own(x: jax.Array) -> jax.Array:
            return x.reshape(-1, self.number, self.together, *x.shape[1:])[:, index].reshape(-1, *x.shape[1:])

        return jax.tree.map(own, batch)

    def key(self, key: Any, index: Any) -> Any:
        """That of a round's microbatch; in a pipeline those of its microbatches."""
        if key is None or self.parts == 1:
            return key
        if stages() == 1:
            return jax.random.fold_in(key, index)
        return jax.vmap(partial(jax.random.fold_in, key))(index * self.together + jnp.arange(self.together))


class MeanLoss(NamedTuple):
    """The share of some rows in a batch's mean loss, with all that is added to it.

    Sums are divided by what the whole batch has, so tokens count the same however the batch is cut: those of the
    objective by its count; what layers add and count by the tokens that are read, since experts compute each of them
    whatever its target weighs.
    """

    run: RunConfig
    declared: Any
    """tree of tensors"""
    reference: functional.Params | None
    count: Any
    tokens: int

    def of(
        self, rest: functional.Params, own: functional.Params, rows: Batch, key: Any
    ) -> tuple[jax.Array, LossSums]:
        """(what is differentiated by `own`, the means). rest: parameters, of which those are read that `own` has None
        in place of."""
        model = functional.bind_run(self.run, with_rest(own, rest, self.declared), self.reference)
        sums = self.run.objective.sums(model, rows, key)
        loss = (sums.loss + self.run.model.z_loss * sums.z) / self.count
        means = LossSums(
            sums.loss / self.count, sums.z / self.count, jax.tree.map(lambda x: x / self.tokens, sums.aux)
        )
        return sum(means.aux.losses.values(), loss), means


def gradients(
    run: RunConfig, params: functional.Params, batch: Batch, key: Any, reference: functional.Params | None = None
) -> Gradients:
    """Gradient of the batch's mean loss with all that is added to it, and the means of these.

    It is that of the trained parameters, with None in place of the others.

    reference: parameters of a model that the objective may compare with.
    """
    rounds, declared = rounds_of(run), tree(run.tensors())
    mean = MeanLoss(run, declared, reference, run.objective.count(batch), batch.tokens_BxL.size)
    rest = _computed(run, params, declared)
    own = trained(rest, declared)
    if run.model.reads_counts and (rounds.number > 1 or stages() > 1):
        rest = functional.informed(run.model, rest, _counts(mean, rounds, rest, own, batch, key))
    made = _value_and_grad(mean, rounds, rest)

    def of(index: Any) -> Gradients:
        with zero_stage(run.placement.zero):
            (_, means), grads = made(own, rounds.rows(batch, index), rounds.key(key, index))
            return Gradients(map_declared(lambda t, g: laid_out(g, t) if t.trained else g, declared, grads), means)

    if rounds.number == 1:
        return of(0)

    def add(sums: Gradients, index: Any) -> tuple[Gradients, None]:
        return jax.tree.map(jnp.add, sums, of(index)), None

    empty = Gradients(jax.tree.map(jnp.zeros_like, trained(params, declared)), _no_means(run))
    return jax.lax.scan(add, empty, jnp.arange(rounds.number))[0]


def rounds_of(run: RunConfig) -> Rounds:
    """How a run's batch is cut on the mesh that is traced for."""
    parts = max(1, run.placement.accumulate)
    return Rounds(parts, (run.placement.pipeline_microbatches or parts) if stages() > 1 else 1)


def _computed(run: RunConfig, params: functional.Params, declared: Any) -> functional.Params:
    """What a step computes with in place of its parameters."""
    dtype = compute_dtype(run.placement.compute_dtype, target_platform())
    with zero_stage(run.placement.zero):
        return map_declared(lambda tensor, w: copied(w, tensor, dtype), declared, params)


def _value_and_grad(mean: MeanLoss, rounds: Rounds, rest: functional.Params) -> Any:
    """A function of (trained parameters, rows and keys of a round) to ((loss, means), gradients)."""
    if stages() > 1 and mean.run.placement.pipeline_schedule == "1f1b":
        return partial(alternated, partial(mean.of, rest), declared=mean.declared, microbatches=rounds.together)
    return jax.value_and_grad(partial(mean.of, rest), has_aux=True)


def _counts(
    mean: MeanLoss, rounds: Rounds, rest: functional.Params, own: functional.Params, batch: Batch, key: Any
) -> dict[str, Any]:
    """What layers count in the whole batch, of a forward pass of its own: known before the first gradient."""

    def add(counts: Any, index: Any) -> tuple[Any, None]:
        with zero_stage(mean.run.placement.zero):
            means = mean.of(rest, own, rounds.rows(batch, index), rounds.key(key, index))[1]
            return jax.tree.map(jnp.add, counts, means.aux.counts), None

    counts: dict[str, Any] = jax.lax.scan(add, _no_counts(mean.run), jnp.arange(rounds.number))[0]
    return counts


def _no_counts(run: RunConfig) -> dict[str, Any]:
    return jax.tree.map(jnp.zeros, run.model.counts, is_leaf=lambda shape: isinstance(shape, tuple))


def _no_means(run: RunConfig) -> LossSums:
    """What sums over microbatches begin with."""
    zero = jnp.zeros((), jnp.float32)
    return LossSums(zero, zero, Aux(dict.fromkeys(run.model.losses, zero), _no_counts(run)))
