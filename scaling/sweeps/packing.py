"""Which runs train side by side in one program, so that a small model does not leave an accelerator idle."""

from collections.abc import Sequence
from itertools import pairwise

from scaling import accounting
from scaling.config import shape_of
from scaling.sweeps.designs import PlannedRun

MOST = 16  # runs in a pack: one that fails costs all of them an attempt
FULL_S = 5e-3
"""seconds of work per step, at the assumed share of the peak, from which a device counts as fully used

A step of a small model is some hundred kernels, each of which takes microseconds to launch, whatever it computes: a
model of 8 layers spends about 2 ms on that. Assumed, not measured: experiments/packing measures it.
"""
MEMORY_SHARE = 0.6
"""share of a device's memory that a pack may take: XLA reserves a quarter, and states are stacked at the start"""


def make_packs(runs: Sequence[PlannedRun], device: str, slots: int) -> list[tuple[PlannedRun, ...]]:
    """`runs` in groups that train side by side; each group in the order given.

    Runs of one shape (`config.shape_of`) are packed where `device` is an accelerator with a known peak that a step of
    one run leaves under-used. A pack has as many runs as give the device FULL_S of work per step and fit in its
    memory, at most MOST, and no more than each device's share of the runs. On a CPU, where running them one after the
    other is faster, and where a run spans several devices, every run is on its own.

    device: kind of each device as its maker or `accounting` names it; empty where unknown.
    slots: devices that the runs share.
    """
    fair = -(-len(runs) // max(1, slots))
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(repr(shape_of(run.config)), []).append(run)
    return [pack for group in groups.values() for pack in _split(group, min(room(group[0], device), fair))]


def room(run: PlannedRun, device: str) -> int:
    """How many runs like this one a device can train side by side; 1 where packing is not known to help."""
    config, known = run.config, accounting.device(device)
    requested = config.placement.compute_dtype
    dtype = "bfloat16" if requested == "auto" else requested
    peak = accounting.peak_flops(device, dtype)
    if known is None or known.memory is None or peak is None or run.devices > 1:
        return 1
    work_s = config.batch_tokens * accounting.flops_per_token(config).exact / (accounting.ASSUMED_MFU * peak)
    memory = accounting.memory(config, devices=1, kind=known.name).total
    return max(1, min(MOST, int(FULL_S / work_s), int(MEMORY_SHARE * known.memory / memory)))


def _split(runs: Sequence[PlannedRun], most: int) -> list[tuple[PlannedRun, ...]]:
    """`runs` split evenly into as few parts of at most `most` as possible: fewer sizes mean fewer programs."""
    parts = -(-len(runs) // most)
    bounds = [len(runs) * i // parts for i in range(parts + 1)]
    return [tuple(runs[a:b]) for a, b in pairwise(bounds)]
