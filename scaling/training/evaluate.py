"""The held-out loss: the mean over every token of the split, with its standard error, and bits per byte."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from scaling.accounting.layout import window_ways
from scaling.config import RunConfig
from scaling.data import Split, eval_batches
from scaling.models import functional
from scaling.objectives import Batch
from scaling.parallel import batch_sharding, replicated, use
from scaling.parallel.distributed import local_rows, put_batch

Measure = Callable[[functional.Params, Any, Batch], tuple[jax.Array, Any]]

CPU_BATCH_TOKENS = 2048  # fits a CPU's cache: 4 layers of width 64 ran at 100k tokens/s, with 8192 at 70k
BATCH_TOKENS = 16384  # elsewhere: keeps a device busy, and evaluation needs no memory for gradients
STREAMS = 16
"""segments that the split is cut into for a model that carries state from window to window, evaluated side by side;
each begins with an empty state, so the number is the same on any devices"""

PREFIX = {name: f"eval_{name}" for name in ("loss", "loss_sem", "tokens", "windows")}
"""names in metrics.jsonl, distinct from those of training"""


@dataclass(frozen=True)
class Evaluation:
    """A loss on the held-out split."""

    loss: float
    """in the objective's unit, mean over all targets of the split"""
    loss_sem: float | None
    """its standard error, treating windows as independent; None for a split of one window"""
    bits_per_byte: float | None
    """loss / ln 2 · tokens of the split / bytes of its text (end-of-document tokens count as tokens, not bytes); None
    if the objective's loss is not a likelihood, an upper bound if the loss is a bound"""
    tokens: int
    windows: int

    def as_record(self) -> dict[str, Any]:
        """The entries for a line of metrics.jsonl."""
        return {PREFIX.get(key, key): value for key, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Evaluation":
        return cls(**{field.name: record[PREFIX.get(field.name, field.name)] for field in fields(cls)})


class Evaluator:
    """Evaluates parameters on a whole split by the objective's held-out measure; compiled once, at the first call."""

    def __init__(self, run: RunConfig, mesh: Mesh, split: Split):
        self.run, self.mesh, self.split, self.context = run, mesh, split, run.model.context
        copies = window_ways(mesh.shape)
        tokens = CPU_BATCH_TOKENS if mesh.devices.flat[0].platform == "cpu" else BATCH_TOKENS
        needed = -(-split.n_tokens // (self.context * copies))
        self.streams = STREAMS if run.model.carries else None
        rows = min(max(1, tokens // self.context), needed) if self.streams is None else -(-self.streams // copies)
        self.batch_size = rows * copies

        self._losses = self._compiled(lambda model, batch, state: model.window_losses(*batch, state=state))

    def __call__(self, params: functional.Params, check: Callable[[], None] | None = None) -> Evaluation:
        """The loss of `params`; `check` is called before every batch and may raise to abort."""
        losses_N, weights_N = self._sums(self._losses, params, check)
        ratio = self.split.n_tokens / self.split.n_bytes if self.run.objective.LIKELIHOOD else None
        return summarise(losses_N, weights_N, tokens_per_byte=ratio)

    def by_position(self, params: functional.Params, first: Sequence[int]) -> list[Evaluation | None]:
        """The losses of the targets at positions `first[i]` to `first[i + 1]`, exclusive, counted from 0 in each
        window; None where there are no targets."""
        first_K = np.asarray(first)

        def measured(model: Any, batch: Batch, state: Any) -> tuple[jax.Array, Any]:
            losses_BxL, state = model.target_losses(*batch, state=state)
            both_2xBxL = jnp.stack([losses_BxL, batch.weights_BxL])
            return jnp.moveaxis(jnp.add.reduceat(both_2xBxL, first_K, axis=2), 1, 0), state

        sums_Nx2xK, _ = self._sums(self._compiled(measured), params, None)
        parts = (sums_Nx2xK[:, :, i].T for i in range(len(first_K)))
        return [summarise(*part, tokens_per_byte=None) if part[1].any() else None for part in parts]

    def _compiled(self, measure: Callable[[Any, Batch, Any], tuple[jax.Array, Any]]) -> Measure:
        """Compile `measure`, a function (model, batch, state) → (sums for each window, state after them)."""

        def measured(params: functional.Params, state: Any, batch: Batch) -> tuple[jax.Array, Any]:
            with use(self.mesh):
                return measure(functional.bind_run(self.run, params), batch, state)

        return jax.jit(measured, out_shardings=(replicated(self.mesh), batch_sharding(self.mesh)))

    def _sums(
        self, measure: Measure, params: functional.Params, check: Callable[[], None] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(sums for every window, [windows, …]; the weight of its targets, [windows]), padding included."""
        losses: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        pending: deque[list[jax.Array]] = deque()
        batches = eval_batches(self.split, self.context, self.batch_size, streams=self.streams)
        state = self._start_state(params)
        for index, batch in enumerate(batches):
            if check is not None:
                check()
            parts = []
            for part in self.run.objective.held_out(batch, index, self.run.model):
                part_losses, after = measure(params, state, jax.tree.map(self._put, part))
                state = after if self.streams else state
                parts.append(part_losses)
            pending.append(parts)
            weights.append(batch.weights_BxL.sum(-1, dtype=np.float64))
            if len(pending) > 2:
                losses.append(_mean(pending.popleft()))  # blocks, so that batches do not pile up on the device
        losses += map(_mean, pending)
        return np.concatenate(losses), np.concatenate(weights)

    def _start_state(self, params: functional.Params) -> Any:
        shapes = jax.eval_shape(lambda p: functional.bind_run(self.run, p).start_state(self.batch_size), params)
        return jax.tree.map(lambda x: self._put(np.zeros(x.shape, x.dtype)), shapes)

    def _put(self, x: np.ndarray) -> Any:
        if jax.process_count() == 1:
            return jax.device_put(x, batch_sharding(self.mesh))
        start, stop = local_rows(self.mesh, len(x))
        return put_batch(x[start:stop], self.mesh, len(x))


def _mean(parts: list[Any]) -> np.ndarray:
    return np.mean([np.asarray(part, np.float64) for part in parts], axis=0)


def summarise(losses: np.ndarray, weights: np.ndarray, *, tokens_per_byte: float | None) -> Evaluation:
    """The ratio Σ losses / Σ weights over independent windows, with its standard error.

    losses, weights: sums over the targets of each window; a window of weight 0 is padding and does not count.
    The standard error is that of a ratio estimator (Cochran 1977, Sampling Techniques, section 6.4).
    """
    used = weights > 0
    losses, weights = losses[used], weights[used]
    n, total = len(losses), float(weights.sum())
    loss = float(losses.sum()) / total
    residuals = losses - loss * weights
    sem = math.sqrt(float((residuals**2).sum()) * n / (n - 1)) / total if n > 1 else None
    bits = None if tokens_per_byte is None else loss / math.log(2) * tokens_per_byte
    return Evaluation(loss, sem, bits, round(total), n)
