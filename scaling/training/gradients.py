"""The gradient of a batch, accumulated over microbatches, of its mean loss and all auxiliary losses."""

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
    """How a step splits a batch into microbatches. Row i belongs to microbatch i mod `parts`, so that rows stay on
    their device."""

    parts: int
    """number of microbatches"""
    together: int
    """microbatches per round: those that go through a pipeline together, 1 without a pipeline"""

    @property
    def number(self) -> int:
        return self.parts // self.together

    def rows(self, batch: Batch, index: Any) -> Batch:
        """The rows of a round."""
        if self.number == 1:
            return batch

        def own(x: jax.Array) -> jax.Array:
            return x.reshape(-1, self.number, self.together, *x.shape[1:])[:, index].reshape(-1, *x.shape[1:])

        return jax.tree.map(own, batch)

    def key(self, key: Any, index: Any) -> Any:
        """The key of a round's microbatch; in a pipeline, the keys of its microbatches."""
        if key is None or self.parts == 1:
            return key
        if stages() == 1:
            return jax.random.fold_in(key, index)
        return jax.vmap(partial(jax.random.fold_in, key))(index * self.together + jnp.arange(self.together))


class MeanLoss(NamedTuple):
    """The contribution of some rows to a batch's mean loss, auxiliary losses included.

    Sums are divided by totals of the whole batch, so that tokens count the same however the batch is split: those of
    the objective by its count; auxiliary losses and counts of layers by the number of input tokens, since experts
    compute every token whatever the weight of its target.
    """

    run: RunConfig
    declared: Any
    """tree of declarations"""
    reference: functional.Params | None
    count: Any
    tokens: int

    def loss(
        self, rest: functional.Params, own: functional.Params, rows: Batch, key: Any
    ) -> tuple[jax.Array, LossSums]:
        """(loss to differentiate by `own`, the means). rest: all parameters, read where `own` is None."""
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
    """Gradient of the batch's mean loss including auxiliary losses, and the means of the loss and its terms.

    The gradient covers the trained parameters, with None in place of the others.

    reference: parameters of a reference model for the objective, if any.
    """
    rounds, declared = rounds_of(run), tree(run.tensors())
    mean = MeanLoss(run, declared, reference, run.objective.count(batch), batch.tokens_BxL.size)
    rest = _computed(run, params, declared)
    own = trained(rest, declared)
    if run.model.reads_counts and (rounds.number > 1 or stages() > 1):
        rest = functional.informed(run.model, rest, _counts(mean, rounds, rest, own, batch, key))
    value_and_grad = _value_and_grad(mean, rounds, rest)

    def of_round(index: Any) -> Gradients:
        with zero_stage(run.placement.zero):
            (_, means), grads = value_and_grad(own, rounds.rows(batch, index), rounds.key(key, index))
            return Gradients(map_declared(lambda t, g: laid_out(g, t) if t.trained else g, declared, grads), means)

    if rounds.number == 1:
        return of_round(0)

    def add(sums: Gradients, index: Any) -> tuple[Gradients, None]:
        return jax.tree.map(jnp.add, sums, of_round(index)), None

    empty = Gradients(jax.tree.map(jnp.zeros_like, trained(params, declared)), _no_means(run))
    return jax.lax.scan(add, empty, jnp.arange(rounds.number))[0]


def rounds_of(run: RunConfig) -> Rounds:
    """How a run's batch is split into microbatches on the active mesh."""
    parts = max(1, run.placement.accumulate)
    return Rounds(parts, (run.placement.pipeline_microbatches or parts) if stages() > 1 else 1)


def _computed(run: RunConfig, params: functional.Params, declared: Any) -> functional.Params:
    """The parameters as a step computes with them, see `zero.copied`."""
    dtype = compute_dtype(run.placement.compute_dtype, target_platform())
    with zero_stage(run.placement.zero):
        return map_declared(lambda tensor, w: copied(w, tensor, dtype), declared, params)


def _value_and_grad(mean: MeanLoss, rounds: Rounds, rest: functional.Params) -> Any:
    """A function (trained parameters, rows of a round, its key or keys) → ((loss, means), gradients)."""
    if stages() > 1 and mean.run.placement.pipeline_schedule == "1f1b":
        return partial(alternated, partial(mean.loss, rest), declared=mean.declared, microbatches=rounds.together)
    return jax.value_and_grad(partial(mean.loss, rest), has_aux=True)


def _counts(
    mean: MeanLoss, rounds: Rounds, rest: functional.Params, own: functional.Params, batch: Batch, key: Any
) -> dict[str, Any]:
    """The layers' counts over the whole batch, from a separate forward pass before the first gradient."""

    def add(counts: Any, index: Any) -> tuple[Any, None]:
        with zero_stage(mean.run.placement.zero):
            means = mean.loss(rest, own, rounds.rows(batch, index), rounds.key(key, index))[1]
            return jax.tree.map(jnp.add, counts, means.aux.counts), None

    counts: dict[str, Any] = jax.lax.scan(add, _no_counts(mean.run), jnp.arange(rounds.number))[0]
    return counts


def _no_counts(run: RunConfig) -> dict[str, Any]:
    return jax.tree.map(jnp.zeros, run.model.counts, is_leaf=lambda shape: isinstance(shape, tuple))


def _no_means(run: RunConfig) -> LossSums:
    """Zeros to accumulate the means over microbatches."""
    zero = jnp.zeros((), jnp.float32)
    return LossSums(zero, zero, Aux(dict.fromkeys(run.model.losses, zero), _no_counts(run)))
