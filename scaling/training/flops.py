"""Training FLOPs of a run as it was: with the keys that its text let queries see."""

from scaling import accounting
from scaling.config import RunConfig
from scaling.data.documents import Documents
from scaling.data.store import TokenStore


def flops_of(run: RunConfig, store: TokenStore | None) -> accounting.Flops:
    """`accounting.flops_per_token`, where documents are kept apart over the keys measured in the store's training
    windows; without a store as a plan counts them, as though every document filled its window."""
    if store is None or run.objective.mask != "document":
        return accounting.flops_per_token(run)
    documents = Documents(store.train, run.model.context, run.data.long_documents)
    return accounting.flops_per_token(run, keys=documents.visible_keys)
