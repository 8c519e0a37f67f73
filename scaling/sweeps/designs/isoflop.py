"""The isoFLOP design: several sizes at each of several budgets (Hoffmann et al. 2022, approach 2)."""

from collections.abc import Iterator

from scaling.config import IsoflopDesign, SweepConfig
from scaling.sweeps.designs.planned import DesignPoint
from scaling.sweeps.designs.sizes import center, in_row, sized


def isoflop_points(sweep: SweepConfig, design: IsoflopDesign) -> Iterator[DesignPoint]:
    """The design's points budget by budget, by rising size."""
    for budget in design.budgets:
        for target in target_sizes(design, budget):
            yield isoflop_point(sweep, design, budget, target)


def isoflop_point(sweep: SweepConfig, design: IsoflopDesign, budget: float, target: float) -> DesignPoint:
    """The run of about `target` parameters at `budget`. Raises UserError where the ladder has none."""
    where = f"design.budgets: {budget:g} FLOPs needs {target:.4g} parameters"
    keys = "design.center_params or the budget"
    model = sized(sweep, target, where, tolerance=in_row(design.spacing), asked_by=keys)
    return DesignPoint({"model": model}, {"budget": budget, "target_params": round(target)}, budget)


def target_sizes(design: IsoflopDesign, budget: float) -> tuple[float, ...]:
    """The target sizes at one budget: `design.sizes` of them in steps of `spacing`, symmetric about the centre."""
    half, middle = (design.sizes - 1) / 2, center(design, budget)
    assert middle is not None
    return tuple(middle * design.spacing ** (k - half) for k in range(design.sizes))
