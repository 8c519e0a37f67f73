"""Features of a schedule at a checkpoint that laws read: the area under the rate, and the drops of the rate before.

The effect of a drop of the rate before step t depends on its age, so drops are summed in blocks of age: single steps
first, then blocks that widen with age. A block's total drop is exact, and is placed at the mean age, area and rate of
its drops. Abrupt drops are therefore exact as well, and gradual decays have an error of the square of a block's
width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.laws.arrays import Array, Labels
from scaling.laws.curves.curve import LossCurve

BLOCKS = 48
"""most blocks of age"""
LEAST_RATE = 1e-6
"""lower bound of rates, as a share of the peak, because laws have powers of the rate"""


@dataclass(frozen=True, eq=False)
class Trace:
    """Schedules at checkpoints, concatenated over all curves."""

    area: Array
    """[points], S1: sum of the rates up to the step, those of the warmup included"""
    drop: Array
    """[points, blocks], drop of the rate in each block of steps; negative where it rose"""
    age: Array
    """[points, blocks], steps since the drop"""
    log_share: Array
    """[points, blocks], log of the share of `area` since the drop"""
    log_rate: Array
    """[points, blocks], log of the rate after the drop"""


def trace_of(curves: Sequence[LossCurve], warmup_at_peak: bool) -> Trace:
    """The schedules of `curves` at their checkpoints, which lie after the warmup.

    warmup_at_peak: count the steps of the warmup at the peak rate (Tissue et al.), not at their own.
    """
    oldest = max((int(curve.steps[-1]) for curve in curves), default=1)
    # ages at which blocks begin; unique because the youngest are single steps
    edges = np.unique(np.round(np.geomspace(1, oldest + 1, BLOCKS)).astype(np.int64)) - 1
    edges = np.append(edges, oldest + 1)
    parts = [_trace(curve, edges, warmup_at_peak) for curve in curves]
    return Trace(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _trace(curve: LossCurve, edges: Labels, warmup_at_peak: bool) -> tuple[Array, ...]:
    rates, start = curve.rates.copy(), curve.warmup
    if warmup_at_peak:
        rates[:start] = curve.peak
    fell = np.concatenate([np.zeros(start), -np.diff(rates[start - 1 :])])
    area = np.concatenate([[0.0], np.cumsum(rates)])
    weight = np.abs(fell)

    def until(values: Array) -> Array:  # sums over the first k updates, k from 0
        return np.concatenate([[0.0], np.cumsum(values)])

    # the block of ages [a, b) before step t are the updates t − b + 1 … t − a, with none before the first
    last = np.maximum(curve.steps[:, None] - edges[:-1], 0)
    first = np.maximum(curve.steps[:, None] - edges[1:], 0)

    def block(sums: Array) -> Array:
        return np.asarray(sums[last] - sums[first])

    weights = block(until(weight))
    empty = weights <= 1e-12 * curve.peak

    def mean(values: Array, otherwise: float) -> Array:
        return np.where(empty, otherwise, block(until(weight * values)) / np.where(empty, 1.0, weights))

    total = area[curve.steps]
    update = np.arange(1, len(rates) + 1, dtype=np.float64)
    age = np.where(empty, 0.0, curve.steps[:, None] - mean(update, 0.0))
    since = np.where(empty, total[:, None], total[:, None] - mean(area[:-1], 0.0))
    rate = np.maximum(mean(rates, curve.peak), LEAST_RATE * curve.peak)
    share = np.maximum(since, LEAST_RATE * curve.peak) / total[:, None]
    return total, np.where(empty, 0.0, block(until(fell))), np.maximum(age, 0.0), np.log(share), np.log(rate)
