"""Windows of long documents, which a run may meet more often than others."""

import numpy as np

from scaling.config.run import LongDocuments
from scaling.data.store import Split


def weighted(split: Split, context: int, long: LongDocuments | None) -> tuple[int, np.ndarray]:
    """(windows of `context` targets in a split, int64 numbers of those that an epoch meets beside all of them).

    A window is of the document that its first token is of.
    """
    count = max(0, (split.n_tokens - 1) // context)
    if long is None:
        return count, np.zeros(0, np.int64)
    starts = np.asarray(split.doc_starts, np.int64)
    lengths = np.diff(np.append(starts, split.n_tokens))
    document = np.searchsorted(starts, np.arange(count) * context, side="right") - 1
    split.check()
    return count, np.repeat(np.flatnonzero(lengths[document] >= long.tokens), long.times - 1)
