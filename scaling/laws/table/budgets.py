"""Which rows were trained with the same compute."""

from itertools import pairwise

import numpy as np

from scaling.laws.arrays import Array, Labels

TOLERANCE = 0.1
"""share by which the FLOPs of one budget's rows may differ: with whole batches a budget is not met exactly"""
LEAST_SIZES = 4
"""fewest sizes of a budget in a table that looks like an isoFLOP design"""
APART = 3.0
"""smallest distance of such a budget from the others, in units of its own spread of log FLOPs"""
LEAST_SHARE = 0.8
"""smallest share of all rows that are in such budgets"""


def budget_labels(flops: Array, tolerance: float = TOLERANCE) -> Labels:
    """Number of each row's budget, by rising FLOPs [rows].

    A row whose FLOPs are more than `tolerance` above the smallest of a budget begins the next one.
    """
    order = np.argsort(flops, kind="stable")
    labels = np.zeros(len(flops), np.int64)
    first, number = flops[order[0]], 0
    for i in order:
        if flops[i] > first * (1 + tolerance):
            first, number = flops[i], number + 1
        labels[i] = number
    return labels


def form_budgets(flops: Array, N: Array) -> bool:
    """Whether rows look like an isoFLOP design rather than an arbitrary collection of runs.

    Most rows must be in budgets with at least `LEAST_SIZES` sizes, further away from the others than `TOLERANCE` and
    than `APART` times the spread of their own FLOPs.
    """
    labels, logs = budget_labels(flops), np.log(flops)
    groups = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    gaps = [float(logs[later].min() - logs[earlier].max()) for earlier, later in pairwise(groups)]
    inside = 0
    for rows, before, after in zip(groups, [np.inf, *gaps], [*gaps, np.inf], strict=True):
        near = min(before, after)
        alone = near > np.log1p(TOLERANCE) and near >= APART * np.ptp(logs[rows])
        inside += len(rows) * bool(alone and len(np.unique(N[rows])) >= LEAST_SIZES)
    return inside >= LEAST_SHARE * len(flops)
