"""Sizes of a design: where they are wanted, and the ladder's models that come near."""

from collections.abc import Mapping
from typing import Any

from scaling import accounting, ladder
from scaling.config import BranchesDesign, IsoflopDesign, ModelConfig, SweepConfig, build, merge
from scaling.errors import UserError

PARAMS_KEY = ladder.SIZE_KEY
FLOPS_KEY = "flops"
"""not a key of a run: in its place, it sets the tokens of a run by what it costs"""
SLACK = 0.2  # of the step between two sizes: a ladder of few shapes may miss a size of a row by so much
TEST_TOLERANCE = 0.05  # an N 5 % off the optimum costs about 1e-4 of the loss


def sized(
    sweep: SweepConfig,
    target: float,
    where: str,
    over: Mapping[str, Any] | None = None,
    tolerance: float = ladder.TOLERANCE,
    asked_by: str = "",
) -> dict[str, Any]:
    """The shape keys of the ladder's model of `target` parameters; of one up to `tolerance` off where there is none
    within the ladder's own tolerance.

    over: what else a run sets of its model. asked_by: as in `ladder.model_for_params`. Raises UserError, which begins
    with `where`, where there is none.
    """
    base = merge(sweep.run.get("model", {}), over or {})
    for allowed in (ladder.TOLERANCE, tolerance):
        try:
            return sizes_of(ladder.model_for_params(target, sweep.ladder, base, allowed, asked_by))
        except UserError as error:
            problem = error
    raise UserError(f"{where}: {problem}")


def in_row(spacing: float) -> float:
    """How far the ladder may miss a size of a row of this spacing."""
    return spacing**SLACK - 1


def sizes_of(model: ModelConfig) -> dict[str, Any]:
    """What the ladder decides about a model."""
    return {key: getattr(model, key) for key in model.SIZES}


def center(design: IsoflopDesign | BranchesDesign, budget: float) -> float | None:
    """N that the design expects to be best at `budget`; None where it does not say."""
    if design.center_params is None or design.center_flops is None:
        return None
    return design.center_params * (budget / design.center_flops) ** design.center_exponent


def expected_optimum(sweep: SweepConfig, budget: float) -> float | None:
    """N, all parameters counted, that a design by budgets expects to be best at `budget`; None for other designs."""
    if not isinstance(sweep.design, IsoflopDesign | BranchesDesign):
        return None
    target = center(sweep.design, budget)
    if target is None:
        return None
    where = f"forecast.flops={budget:g} wants about {target:.4g} parameters"
    shape = sized(sweep, target, where, tolerance=TEST_TOLERANCE, asked_by="forecast.flops")
    return float(accounting.params(build(ModelConfig, merge(sweep.run["model"], shape), "model")).total)
