"""Training FLOPs of a run as it was: with the keys that its text let queries see."""

from functools import lru_cache

from scaling import accounting
from scaling.config import RunConfig
from scaling.data.documents import Documents
from scaling.data.store import TokenStore
from scaling.families.attention_mask import AttentionMask


def flops_of(run: RunConfig, store: TokenStore | None, steps: int | None = None) -> accounting.Flops:
    """`accounting.flops_per_token` of the first `steps` steps, where documents are kept apart over the keys measured
    in the store's training windows; without a store as a plan counts them, as though every document filled its
    window."""
    if store is None or run.objective.mask != "document":
        return accounting.flops_per_token(run, steps=steps)
    split = store.train

    @lru_cache
    def documents(context: int) -> Documents:
        return Documents(split, context, run.data.long_documents)

    def keys(mask: AttentionMask, context: int) -> float:
        return documents(context).visible_keys(mask)

    return accounting.flops_per_token(run, keys=keys, steps=steps)
