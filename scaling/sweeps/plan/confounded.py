"""Quantities that vary together in a design, so that a law cannot tell their effects apart."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from scaling.config import GridDesign, RunConfig, SweepConfig
from scaling.ladder import SIZE_KEY, size_keys
from scaling.sweeps.designs import PlannedRun
from scaling.sweeps.designs.sizes import FLOPS_KEY

TUNED = ("optimizer", "schedule", "batch_size", "placement", "records", "seed")
"""sections of a run that no law reads as a variable: they may follow a size"""
TOGETHER = 0.999
"""correlation of two logarithms from which a law that is a sum of powers cannot separate them in practice"""
FEWEST = 3  # distinct pairs of values, since any two lie on a line


def confounded_notes(sweep: SweepConfig, runs: Sequence[PlannedRun]) -> list[str]:
    """A line for each set of quantities that vary together. runs: of the design."""
    return [*_shapes(sweep, runs), *_zipped(sweep, runs), *_sizes_and_tokens(runs)]


def _shapes(sweep: SweepConfig, runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Axes along which runs of one requested size get other shapes from the ladder."""
    design = sweep.design
    if not isinstance(design, GridDesign) or SIZE_KEY not in design.axes:
        return
    axes = [(key,) for key in design.axes if key not in (SIZE_KEY, FLOPS_KEY)] + [tuple(design.zip)]
    for axis in axes:
        found: dict[str, list[PlannedRun]] = defaultdict(list)
        for run in runs:
            found[repr({key: run.label[key] for key in design.keys if key not in axis})].append(run)
        differ = [group for group in found.values() if len({_shape(run.config) for run in group}) > 1]
        if not differ:
            continue
        first = {_shape(run.config): run for run in reversed(differ[0])}
        told = "; ".join(
            f"layers={layers}, d_model={width} with {_values(run.label, axis)}"
            for (layers, width), run in reversed(first.items())
        )
        size = f"{SIZE_KEY}={differ[0][0].label[SIZE_KEY]:g}"
        yield (
            f"at {_count(len(differ), len(found))} the ladder's shape changes with {_told(axis)} ({size}: {told}), "
            "so their effects cannot be told apart there; use values that have as many "
            f"{sweep.ladder.count.replace('_', ' ')} parameters in one shape, or a finer ladder "
            f"(ladder.width_multiple={sweep.ladder.width_multiple}), whose shapes differ less"
        )


def _zipped(sweep: SweepConfig, runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Pairs of zipped keys of which each determines the other; those of a shape count as one, the size."""
    zipped = sweep.design.zip if isinstance(sweep.design, GridDesign) else {}
    keys = [key for key in zipped if key.partition(".")[0] not in TUNED]
    sizes = tuple(key for key in keys if key in (SIZE_KEY, *size_keys()))
    for one, other in combinations([sizes] * bool(sizes) + [(key,) for key in keys if key not in sizes], 2):
        pairs, ones, others = (
            {repr([run.label[key] for key in some]) for run in runs} for some in ((*one, *other), one, other)
        )
        if 1 < len(pairs) == len(ones) == len(others):
            yield (
                f"design.zip: {_told(one)} and {_told(other)} vary together in all runs, so the effect of one cannot "
                "be told from that of the other; if a law reads either, vary it in design.axes"
            )


def _sizes_and_tokens(runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Parameters and tokens that lie on one power law."""
    points = {(_size(run), run.tokens) for run in runs}
    if len(points) < FEWEST or any(len({point[i] for point in points}) < FEWEST for i in (0, 1)):
        return
    correlation = float(np.corrcoef(np.log(np.array(sorted(points), float)).T)[0, 1])
    if abs(correlation) >= TOGETHER:
        yield (
            f"N and D vary together in all runs (the correlation of their logarithms is {correlation:.4f}), so a law "
            "of both cannot tell their effects apart; add runs of one size with other numbers of tokens"
        )


def _size(run: PlannedRun) -> float:
    """The requested size; the total where none was."""
    return float(run.label.get(SIZE_KEY) or run.label.get("target_params") or run.params)


def _shape(config: RunConfig) -> tuple[int, int]:
    return config.model.layers, config.model.d_model


def _values(label: Mapping[str, Any], axis: Sequence[str]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]}={_value(label[key])}" for key in axis)


def _told(keys: Sequence[str]) -> str:
    return " and ".join(keys)


def _count(part: int, whole: int) -> str:
    return "every point" if part == whole else f"{part} of {whole} points"


def _value(value: Any) -> str:
    """A value of an axis; of a mapping its own values."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(each)}" for key, each in value.items()) + "}"
    return "null" if value is None else str(value)
