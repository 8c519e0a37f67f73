"""Which rows of a fit belong together: clusters of dependent rows, strata that are resampled separately."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.arrays import Labels
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.table.budgets import budget_labels


def clusters_of(fit: FittedLaw, cluster: ArrayLike | bool | None) -> Labels | None:
    """Number of each sorted row's cluster; None: every row is independent."""
    if cluster is False or (cluster is None and fit.runs.run is None):
        return None
    if cluster is None or cluster is True:
        if fit.runs.run is None:
            raise UserError("cluster=True needs runs with a run column: laws.Runs(…, run='name')")
        return np.unique(fit.runs.run, return_inverse=True)[1].astype(np.int64)
    return _labels(fit, cluster, "cluster")


def strata_of(fit: FittedLaw, strata: ArrayLike | Literal["budget"]) -> Labels:
    """Number of each sorted row's stratum. Raises UserError for a stratum with a single row."""
    if isinstance(strata, str):
        if strata != "budget":
            raise UserError(f"bootstrap: strata must be 'budget' or {len(fit.runs)} labels; got {strata!r}")
        labels = budget_labels(fit.runs.flops)
    else:
        labels = _labels(fit, strata, "strata")
    if np.bincount(labels).min() < 2:
        raise UserError(
            f"bootstrap: {(np.bincount(labels) < 2).sum()} of {labels.max() + 1} strata hold a single row, which "
            "every draw would repeat; name strata of two rows or more, or use kind='noise'"
        )
    return labels


def _labels(fit: FittedLaw, given: ArrayLike, name: str) -> Labels:
    labels = np.asarray(given).astype(str)
    if labels.shape != (len(fit.runs),):
        raise UserError(f"{name} must hold {len(fit.runs)} labels; got shape {labels.shape}")
    return np.unique(labels[fit.input_order], return_inverse=True)[1].astype(np.int64)
