"""Training FLOPs of an actual run, with the visible keys measured in its text."""

from functools import lru_cache

from scaling import accounting
from scaling.config import RunConfig
from scaling.data.documents import Documents
from scaling.data.store import TokenStore
from scaling.families.attention_mask import AttentionMask


class MeasuredFlops:
    """`accounting.flops_per_token` of a run. If attention is masked by document, visible keys are measured in the
    store's training windows; without a store they are counted as in a plan, as if documents filled their windows."""

    def __init__(self, run: RunConfig, store: TokenStore | None):
        self._run, self._store = run, store
        self._documents = lru_cache(self._measured)
        self._counted = lru_cache(self._count)

    def of(self, steps: int | None = None) -> accounting.Flops:
        """FLOPs over the first `steps` steps (default: all). Texts are measured once."""
        return self._counted(steps if self._run.data.curriculum else None)

    def _count(self, steps: int | None) -> accounting.Flops:
        measured = self._store is not None and self._run.objective.mask == "document"
        return accounting.flops_per_token(self._run, keys=self._keys if measured else None, steps=steps)

    def _keys(self, mask: AttentionMask, context: int) -> float:
        return self._documents(context).visible_keys(mask)

    def _measured(self, context: int) -> Documents:
        assert self._store is not None
        parts = self._run.model.context // context
        return Documents(self._store.train, context, self._run.data.long_documents, parts)


def flops_of(run: RunConfig, store: TokenStore | None, steps: int | None = None) -> accounting.Flops:
    """`MeasuredFlops.of`, for a single use."""
    return MeasuredFlops(run, store).of(steps)
