"""Where documents begin in windows of a store: what attention sees that keeps them apart."""

from functools import lru_cache

import numpy as np

from scaling.config import RunConfig
from scaling.config.run import LongDocuments
from scaling.data.long_documents import weighted
from scaling.data.store import Split
from scaling.families.attention_mask import AttentionMask, visible_keys_within

MEASURED = 2**22
"""tokens of the windows, spread evenly over a split, that a mean is taken over"""


class Documents:
    """Those of a split, cut into windows of `context` tokens as `Batches` cuts it."""

    def __init__(self, split: Split, context: int, long: LongDocuments | None = None):
        self.split, self.context, self.long = split, context, long
        self.visible_keys = lru_cache(self._visible_keys)

    def starts(self) -> np.ndarray:
        """int64 [windows, context]: the place in its window at which the document of each token begins there, of all
        windows or of as many as MEASURED allows, each as often as an epoch meets it."""
        windows, again = weighted(self.split, self.context, self.long)
        met = np.concatenate([np.arange(max(1, windows)), again])
        count = min(len(met), max(1, MEASURED // self.context))
        first_Nx1 = met[np.arange(count) * len(met) // count][:, None] * self.context
        at_NxL = first_Nx1 + np.arange(self.context)
        starts = np.asarray(self.split.doc_starts)
        of_NxL = starts[np.searchsorted(starts, at_NxL, side="right") - 1]
        return np.maximum(of_NxL - first_Nx1, 0)

    def _visible_keys(self, mask: AttentionMask) -> float:
        """Mean over tokens of the keys that a query of a `document` mask sees."""
        return visible_keys_within(self.starts(), mask)


def cut_documents(run: RunConfig, split: Split) -> list[str]:
    """A note where a run keeps documents apart and most of its text is in such as no window holds."""
    lengths = np.diff(split.doc_starts, append=split.n_tokens)
    cut = lengths[lengths > run.model.context].sum() / split.n_tokens
    if run.objective.mask != "document" or cut <= 1 / 2:
        return []
    return [
        f"objective.documents=mask: {cut:.0%} of the text is in documents longer than model.context="
        f"{run.model.context}, of which a window sees a part; a longer context keeps more of them whole"
    ]
