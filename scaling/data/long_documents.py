"""Windows of long documents, which a run may sample more often than others."""

import numpy as np

from scaling.config.run import LongDocuments
from scaling.data.store import Split


def weighted(split: Split, context: int, long: LongDocuments | None) -> tuple[int, np.ndarray]:
    """(number of windows of `context` targets in a split, int64 numbers of the windows that an epoch repeats).

    A window belongs to the document of its first token.
    """
    count = max(0, (split.n_tokens - 1) // context)
    if long is None:
        return count, np.zeros(0, np.int64)
    starts = np.asarray(split.doc_starts, np.int64)
    lengths = np.diff(np.append(starts, split.n_tokens))
    document = np.searchsorted(starts, np.arange(count) * context, side="right") - 1
    split.check()
    return count, np.repeat(np.flatnonzero(lengths[document] >= long.tokens), long.times - 1)
