"""Sizes of a design: the targets, and the ladder's models nearest to them."""

from collections.abc import Mapping
from typing import Any

from scaling import accounting, ladder
from scaling.config import BranchesDesign, IsoflopDesign, ModelConfig, SweepConfig, build, merge
from scaling.errors import UserError

PARAMS_KEY = ladder.SIZE_KEY
FLOPS_KEY = "flops"
"""not a key of a run: it sets the tokens of a run by its cost"""
SLACK = 0.2  # share of the step between two sizes by which a ladder of few shapes may miss a size
TEST_TOLERANCE = 0.05  # an N 5 % off the optimum costs about 1e-4 of the loss


def sized(
    sweep: SweepConfig,
    target: float,
    where: str,
    over: Mapping[str, Any] | None = None,
    tolerance: float = ladder.TOLERANCE,
    asked_by: str = "",
) -> dict[str, Any]:
    """The shape keys of the ladder's model of `target` parameters, or of one up to `tolerance` off where there is
    none within the ladder's own tolerance.

    over: other model keys that a run sets. asked_by: as in `ladder.model_for_params`. Raises UserError, starting with
    `where`, where there is no such model.
    """
    base = merge(sweep.run.get("model", {}), over or {})
    for allowed in (ladder.TOLERANCE, tolerance):
        try:
            return sizes_of(ladder.model_for_params(target, sweep.ladder, base, allowed, asked_by))
        except UserError as error:
            problem = error
    raise UserError(f"{where}: {problem}")


def in_row(spacing: float) -> float:
    """By how much the ladder may miss a size in a series of this spacing."""
    return spacing**SLACK - 1


def sizes_of(model: ModelConfig) -> dict[str, Any]:
    """The model keys that the ladder sets."""
    return {key: getattr(model, key) for key in model.SIZES}


def center(design: IsoflopDesign | BranchesDesign, budget: float) -> float | None:
    """The N that the design expects to be best at `budget`; None where it has no such expectation."""
    if design.center_params is None or design.center_flops is None:
        return None
    return design.center_params * (budget / design.center_flops) ** design.center_exponent


def expected_optimum(sweep: SweepConfig, budget: float) -> float | None:
    """The N (total parameters) that a design by budgets expects to be best at `budget`; None for other designs."""
    if not isinstance(sweep.design, IsoflopDesign | BranchesDesign):
        return None
    target = center(sweep.design, budget)
    if target is None:
        return None
    where = f"forecast.flops={budget:g} needs about {target:.4g} parameters"
    shape = sized(sweep, target, where, tolerance=TEST_TOLERANCE, asked_by="forecast.flops")
    return float(accounting.params(build(ModelConfig, merge(sweep.run["model"], shape), "model")).total)
