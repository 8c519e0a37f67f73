"""The held-out loss: mean over every token of the split, with its standard error, and bits per byte."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from scaling.config import RunConfig
from scaling.data import Split, eval_batches
from scaling.models import functional
from scaling.parallel import batch_sharding, replicated, use
from scaling.parallel.distributed import local_rows, put_batch

CPU_BATCH_TOKENS = 2048  # what fits its cache: 4 layers of width 64 ran at 100k tokens/s, with 8192 at 70k
BATCH_TOKENS = 16384  # elsewhere: enough to keep a device busy, without the memory that gradients take

PREFIX = {name: f"eval_{name}" for name in ("loss", "loss_sem", "tokens", "windows")}
"""names in metrics.jsonl, apart from those of training"""


@dataclass(frozen=True)
class Evaluation:
    """A loss on the held-out split."""

    loss: float
    """nats per token, mean over all targets of the split"""
    loss_sem: float | None
    """its standard error, windows taken as independent; None for a split of one window"""
    bits_per_byte: float
    """loss / ln 2 · tokens of the split / bytes of its text (end-of-document tokens are tokens, not bytes)"""
    tokens: int
    windows: int

    def as_record(self) -> dict[str, Any]:
        """Its part of a line of metrics.jsonl."""
        return {PREFIX.get(key, key): value for key, value in asdict(self).items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Evaluation":
        return cls(**{field.name: record[PREFIX.get(field.name, field.name)] for field in fields(cls)})


class Evaluator:
    """Evaluates parameters on a whole split; compiled at the first call, once."""

    def __init__(self, run: RunConfig, graph: functional.Graph, mesh: Mesh, split: Split):
        self.mesh, self.split, self.context = mesh, split, run.model.context
        copies = mesh.shape["data"] * mesh.shape["fsdp"]
        tokens = CPU_BATCH_TOKENS if jax.default_backend() == "cpu" else BATCH_TOKENS
        needed = -(-split.n_tokens // (self.context * copies))
        self.batch_size = min(max(1, tokens // self.context), needed) * copies

        def nats(params: functional.Params, tokens: Any, targets: Any, weights: Any) -> jax.Array:
            with use(mesh):
                return functional.bind(graph, params).per_window_nats(tokens, targets, weights)

        self._nats = jax.jit(nats, out_shardings=replicated(mesh))

    def __call__(self, params: functional.Params, check: Callable[[], None] | None = None) -> Evaluation:
        """The loss of `params`; `check` is called before every batch and may raise to give up."""
        nats: list[Any] = []
        weights: list[np.ndarray] = []
        for batch in eval_batches(self.split, self.context, self.batch_size):
            if check is not None:
                check()
            nats.append(self._nats(params, *(self._put(x) for x in batch)))
            weights.append(batch.weights_BxL.sum(-1, dtype=np.float64))
            if len(nats) > 2:
                nats[-3] = np.asarray(nats[-3], np.float64)  # waits, so that batches do not pile up on the device
        return summarise(
            np.concatenate([np.asarray(n, np.float64) for n in nats]),
            np.concatenate(weights),
            tokens_per_byte=self.split.n_tokens / self.split.n_bytes,
        )

    def _put(self, x: np.ndarray) -> Any:
        if jax.process_count() == 1:
            return jax.device_put(x, batch_sharding(self.mesh))
        start, stop = local_rows(self.mesh, len(x))
        return put_batch(x[start:stop], self.mesh, len(x))


def summarise(nats: np.ndarray, weights: np.ndarray, *, tokens_per_byte: float) -> Evaluation:
    """The mean of a ratio over independent windows.

    nats, weights: of each window, sums over its targets; a window of weight 0 is padding and does not count.
    The standard error is that of the ratio Σ nats / Σ weights (Cochran 1977, Sampling Techniques, section 6.4).
    """
    used = weights > 0
    nats, weights = nats[used], weights[used]
    n, total = len(nats), float(weights.sum())
    loss = float(nats.sum()) / total
    residuals = nats - loss * weights
    sem = math.sqrt(float((residuals**2).sum()) * n / (n - 1)) / total if n > 1 else None
    return Evaluation(loss, sem, loss / math.log(2) * tokens_per_byte, round(total), n)
