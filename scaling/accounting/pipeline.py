"""How long a pipeline's stages work and wait, counted in ticks: the time of a microbatch in one run of layers."""

from collections.abc import Mapping
from dataclasses import dataclass

from scaling.accounting.layout import PIPELINE
from scaling.accounting.microbatches import microbatches
from scaling.config import RunConfig


@dataclass(frozen=True)
class Schedule:
    """M microbatches over S stages that each have R runs of layers, as `parallel.pipeline` makes them follow."""

    stages: int
    repeats: int
    microbatches: int
    """that follow each other, M"""
    rounds: int = 1
    """of as many, one behind the other, the backward pass of each before the next"""

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
        """How often a device goes through what is before and behind the layers: a pipeline has all microbatches of a
        round there at once."""
        return self.rounds if self.stages > 1 else self.microbatches

    @property
    def held(self) -> float:
        """Microbatches of which all layers would keep as much as a device's do for the backward pass: that begins
        when the forward pass is through, and of what does not count as much is kept. 1 without stages."""
        return self.ticks / (self.repeats * self.stages) if self.stages > 1 else 1.0

    @property
    def bubble(self) -> float:
        """Share of the ticks that do not count (Narayanan et al. 2021, 2104.04473, section 2.2)."""
        return (self.stages - 1) / self.ticks


def schedule(run: RunConfig, mesh: Mapping[str, int], platform: str) -> Schedule:
    """Of a run on a mesh; with one stage where that has no pipeline."""
    parts = microbatches(run, mesh, platform)
    together = run.placement.pipeline_microbatches or parts
    return Schedule(mesh.get(PIPELINE, 1), run.placement.pipeline_repeats, together, parts // together)
