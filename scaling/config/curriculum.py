"""Windows that are shorter at the beginning of a run than at its end."""

from collections.abc import Sequence
from itertools import pairwise

from pydantic import Field

from scaling.frozen import Config
from scaling.numbers import divisors


class Stage(Config):
    """A part of a run in which each window is cut into shorter ones: the same text in the same order and the same
    tokens per batch, with less context (sequence length warm-up; Li et al. 2022, 2108.06084)."""

    context: int = Field(ge=1)
    """tokens of a window; divides `model.context`"""
    until: float = Field(gt=0, lt=1)
    """share of the run's steps after which the next stage begins"""


def check_stages(stages: Sequence[Stage], context: int, axis: int) -> None:
    """Raises ValueError unless the stages are in order and cut windows of `context` tokens into equal ones, each of
    which `axis` devices can share."""
    for before, after in pairwise(stages):
        if after.until <= before.until:
            raise ValueError(
                f"data.curriculum: a stage with until={after.until:g} follows one with until={before.until:g}; sort "
                "the stages by `until`"
            )
    for stage in stages:
        if context % stage.context or stage.context % axis or stage.context == context:
            able = [k for k in divisors(context)[:-1] if k % axis == 0]
            near = sorted(sorted(able, key=lambda k: abs(k - stage.context))[:2])
            shared = f" and a multiple of placement.mesh.context={axis}" if axis > 1 else ""
            raise ValueError(
                f"data.curriculum: context={stage.context}; allowed: a divisor of model.context={context} that is "
                f"less than it{shared}" + (f"; nearest: {', '.join(map(str, near))}" if near else "")
            )


def stage_steps(stages: Sequence[Stage], context: int, steps: int) -> list[tuple[int, int]]:
    """(tokens of a window, step at which it ends) for each part of a run of `steps` steps; at least the last step has
    windows of `context`. Parts without a step are left out."""
    parts, last = [], 0
    ends = [(stage.context, min(round(stage.until * steps), steps - 1)) for stage in stages]
    for width, end in [*ends, (context, steps)]:
        if end > last:
            parts.append((width, end))
            last = end
    return parts
