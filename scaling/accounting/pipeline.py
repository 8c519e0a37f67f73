"""How long a pipeline's stages work and wait, counted in ticks: the time of a microbatch in one run of layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from scaling.accounting.layout import PIPELINE, in_stage, window_ways
from scaling.accounting.microbatches import microbatches
from scaling.config import RunConfig
from scaling.families import Staged, Tensor


@dataclass(frozen=True)
class Schedule:
    """M microbatches over S stages that each have R runs of layers, as `parallel.pipeline` makes them follow."""

    stages: int
    repeats: int
    microbatches: int
    """that follow each other, M"""
    rounds: int = 1
    """of as many, one behind the other, the backward pass of each before the next"""
    alternates: bool = False
    """whether a microbatch's backward pass begins as soon as it is through, see `parallel.one_f_one_b`"""
    counting: int = 0
    """forward passes of the layers that a step makes before the first gradient, to count in the whole batch what they
    read (`BlockPart.reads_counts`); of microbatches that follow each other as without alternation"""

    @property
    def ticks(self) -> int:
        """Forward in a round: M·R + S − 1, in M·R of which a stage computes what counts."""
        return self.microbatches * self.repeats + self.stages - 1

    @property
    def passes(self) -> float:
        """How often a device goes through all of its layers in a step; M where it has no stages."""
        return self.rounds * self.ticks / self.repeats

    @property
    def parts(self) -> int:
        """Microbatches of the batch."""
        return self.rounds * self.microbatches

    @property
    def ends(self) -> int:
        """How often a device goes through what is before and behind the layers: where all microbatches of a round
        are through the layers before the first goes back, with all of them at once."""
        return self.rounds if self.stages > 1 and not self.alternates else self.parts

    @property
    def in_rounds(self) -> bool:
        """Whether gradients are summed over rounds, besides over the ticks of one."""
        return self.stages > 1 and self.rounds > 1

    @property
    def held(self) -> float:
        """Microbatches of which all layers would keep as much as a device's do for the backward pass. 1 without
        stages; where that begins when the forward pass is through, those of all ticks, as much of one that does not
        count, and those of one group of microbatches twice where groups go around, in the loop over groups and in the
        one over their ticks; where it computes a run of layers again, that run."""
        if self.stages == 1:
            return 1.0
        group = self.repeats * self.stages
        return (1 if self.alternates else self.ticks + group * (self.repeats > 1)) / group

    @property
    def again(self) -> int:
        """Forward passes that layers make once more than their recomputation asks for."""
        return int(self.alternates)

    @property
    def waiting(self) -> int:
        """Streams of a microbatch that wait for the backward pass of a run of layers, where that alternates: at the
        first stage those of 2·R·S − 1 ticks, on the others as much room."""
        return 2 * self.repeats * self.stages - 1

    @property
    def bubble(self) -> float:
        """Share of the ticks that do not count (Narayanan et al. 2021, 2104.04473, section 2.2)."""
        return (self.stages - 1) / self.ticks


@dataclass(frozen=True)
class Outside:
    """Layers that are in no stage, see `parallel.ends`; of a device along `pipeline`."""

    layers: Mapping[str, tuple[float, float]]
    """by the first key of their parameters which share of its layers comes before the stages, and behind them"""
    turns: int
    """that it takes them in a step"""
    windows: float
    """in each, of those of a microbatch that a device of a stage has"""
    held: float
    """of as many microbatches it keeps something of these layers"""
    staged: Staged | None
    """the others; None without stages"""

    def share(self, tensor: Tensor) -> float:
        """Of a stack of layers what is in no stage."""
        return sum(self.layers.get(tensor.path[0], (0.0, 0.0)))

    def number(self, layers: int) -> int:
        """Of so many those that are in no stage."""
        return layers - self.staged.size * self.staged.runs if self.staged else 0

    @property
    def sides(self) -> int:
        """Before and behind the stages, where there are layers."""
        return sum(any(shares[i] for shares in self.layers.values()) for i in (0, 1))


def outside(run: RunConfig, mesh: Mapping[str, int], order: Schedule) -> Outside:
    """Of a run on a mesh: where all microbatches of a round are there together, a device takes every S-th of them."""
    staged = run.model.staged(order.stages * order.repeats) if order.stages > 1 else None
    layers = run.model.outside(staged) if staged else {}
    if order.alternates:
        part = window_ways(in_stage(mesh)) / end_ways(run, mesh, order)
        return Outside(layers, order.parts, part, part, staged)
    each = ceil(order.microbatches / order.stages)
    return Outside(layers, order.rounds * each, 1.0, each, staged)


def schedule(run: RunConfig, mesh: Mapping[str, int], platform: str) -> Schedule:
    """Of a run on a mesh; with one stage where that has no pipeline."""
    parts = microbatches(run, mesh, platform)
    together = run.placement.pipeline_microbatches or parts
    stages, alternates = mesh.get(PIPELINE, 1), run.placement.pipeline_schedule == "1f1b"
    counting = int(run.model.reads_counts and (parts > 1 or stages > 1))
    return Schedule(
        stages, run.placement.pipeline_repeats, together, parts // together, alternates and stages > 1, counting
    )


def end_ways(run: RunConfig, mesh: Mapping[str, int], order: Schedule) -> int:
    """Devices that compute windows of their own before and behind the layers: all, but where those of one microbatch
    are there at a time and do not divide over the stages, of which then each computes the same."""
    apart = window_ways(in_stage(mesh))
    shared = not order.alternates or run.batch_size % (order.parts * apart * order.stages) == 0
    return window_ways(mesh) if shared else apart
