"""Document boundaries in the windows of a store, and the keys visible under document masking."""

from functools import lru_cache

import numpy as np

from scaling.config import RunConfig
from scaling.config.run import LongDocuments
from scaling.data.long_documents import weighted
from scaling.data.store import Split
from scaling.families.attention_mask import AttentionMask, visible_keys_within

MEASURED = 2**22
"""tokens in the windows, spread evenly over a split, over which the mean is taken"""


class Documents:
    """The documents of a split, cut into windows of `context` tokens as in `Batches`.

    parts: of a run's windows that these are, in a stage of a curriculum; whole windows are repeated for `long`.
    """

    def __init__(self, split: Split, context: int, long: LongDocuments | None = None, parts: int = 1):
        self.split, self.context, self.long, self.parts = split, context, long, parts
        self.visible_keys = lru_cache(self._visible_keys)

    def starts(self) -> np.ndarray:
        """int64 [windows, context]: for each token, the position in its window where its document begins; for all
        windows or as many as MEASURED allows, each as often as it occurs in an epoch."""
        windows, again = weighted(self.split, self.context * self.parts, self.long)
        whole = np.concatenate([np.arange(max(1, windows)), again])
        met = len(whole) * self.parts
        count = min(met, max(1, MEASURED // self.context))
        window_N, part_N = np.divmod(np.arange(count) * met // count, self.parts)
        first_Nx1 = (whole[window_N] * self.parts + part_N)[:, None] * self.context
        at_NxL = first_Nx1 + np.arange(self.context)
        starts = np.asarray(self.split.doc_starts)
        of_NxL = starts[np.searchsorted(starts, at_NxL, side="right") - 1]
        return np.maximum(of_NxL - first_Nx1, 0)

    def _visible_keys(self, mask: AttentionMask) -> float:
        """Mean over tokens of the number of keys that a query sees under a `document` mask."""
        return visible_keys_within(self.starts(), mask)


def cut_documents(run: RunConfig, split: Split) -> list[str]:
    """A note if a run masks attention by document and most of its text is in documents longer than a window."""
    lengths = np.diff(split.doc_starts, append=split.n_tokens)
    cut = lengths[lengths > run.model.context].sum() / split.n_tokens
    if run.objective.mask != "document" or cut <= 1 / 2:
        return []
    return [
        f"objective.documents=mask: {cut:.0%} of the text is in documents longer than model.context="
        f"{run.model.context}, which are cut into several windows; a longer context keeps more of them whole"
    ]
