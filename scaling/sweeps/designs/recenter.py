"""Further sizes at the budgets of an isoFLOP design whose minimum turned out to lie outside their sizes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scaling.config import IsoflopDesign, SweepConfig
from scaling.errors import UserError
from scaling.sweeps.designs.isoflop import isoflop_point
from scaling.sweeps.designs.make import plan_points
from scaling.sweeps.designs.planned import DesignPoint, PlannedRun
from scaling.sweeps.run_store import DONE

if TYPE_CHECKING:
    import pandas as pd

    from scaling.laws.isoflop import Isoflop, IsoflopBudget
    from scaling.sweeps.run_store import Entry

ROUND = "round"  # label of a run added to the design later: the round that added it, from 1


@dataclass(frozen=True)
class Extension:
    """Runs to add to a sweep."""

    runs: tuple[PlannedRun, ...]
    said: tuple[str, ...] = ()
    """a line for each budget without a minimum that counts"""


def all_runs(
    sweep: SweepConfig, runs: tuple[PlannedRun, ...], planned: Mapping[str, "Entry"], folder: str | None = None
) -> tuple[PlannedRun, ...]:
    """`runs`, those of `sweep`'s design, and the runs that earlier launches added to it.

    planned: the sweep's `plan.json`. folder: where sweeps' folders are kept. Raises UserError where the ladder can no
    longer make an added run.
    """
    design = sweep.design
    if not isinstance(design, IsoflopDesign):
        return runs
    wanted = {
        (entry.label["budget"], entry.label["target_params"], entry.label[ROUND]): None
        for entry in planned.values()
        if entry.role == "fit" and ROUND in entry.label and entry.label["budget"] in design.budgets
    }
    known = {run.id for run in runs}
    added = plan_points(sweep, [_point(sweep, design, *each) for each in wanted], folder)
    return (*runs, *(run for run in added if run.id not in known))


def extend(
    sweep: SweepConfig, planned: Mapping[str, "Entry"], results: "pd.DataFrame", folder: str | None = None
) -> Extension:
    """Two further sizes, at the design's spacing, on each side where the minimum of a budget may lie, for budgets
    whose runs all have a result. Each budget is extended at most `design.recenter` times; other designs never are.

    planned: the sweep's `plan.json`. results: as from `load_runs`. folder: where sweeps' folders are kept.
    """
    from scaling import laws

    design = sweep.design
    if not isinstance(design, IsoflopDesign) or not design.recenter:
        return Extension(())
    fit = {run_id: entry.label for run_id, entry in planned.items() if entry.role == "fit"}
    table = results[results["run_id"].isin(list(fit))]
    try:
        runs = laws.from_results(table)
        found = laws.isoflop(runs, [fit[row]["budget"] for row in runs.rows])
    except UserError as error:
        return Extension((), (f"the budgets' minima were not checked: {error}",))
    measured = set(table["run_id"][table["status"].isin(DONE)])
    points: list[DesignPoint] = []
    notes = []
    for budget in found.budgets:
        C = fit[budget.rows[0]]["budget"]
        labels = {run_id: label for run_id, label in fit.items() if label["budget"] == C}
        after = max(label.get(ROUND, 0) for label in labels.values())
        if budget.counts or labels.keys() - measured:
            continue
        new = list(_further(sweep, design, budget, C, labels, after + 1)) if after < design.recenter else []
        points += new
        sizes = ", ".join(f"{point.label['target_params']:,}" for point in new)
        also = f"adding {sizes} parameters" if new else "no more sizes are added"
        where = "is not convex" if budget.verdict == "not convex" else f"has its minimum {budget.verdict}"
        notes.append(f"budget {C:g}: {_curve(found)} {where}; {also}")
    return Extension(plan_points(sweep, points, folder), tuple(notes))


def _curve(found: "Isoflop") -> str:
    """Which curve has the minimum: one fitted to more than a budget's own losses, whose minimum may lie elsewhere."""
    if found.curvature == "own" or len(found.budgets) == 1:
        return "its parabola"
    kind = "one curvature" if found.curvature == "shared" else "a curvature linear in log C"
    return f"its parabola ({kind} for all {len(found.budgets)} budgets)"


def _further(
    sweep: SweepConfig,
    design: IsoflopDesign,
    budget: "IsoflopBudget",
    C: float,
    labels: Mapping[str, Mapping[str, Any]],
    number: int,
) -> Iterator[DesignPoint]:
    """The sizes to add at a budget, if the ladder has a model that the budget trains for at least one step."""
    wanted = [label["target_params"] for label in labels.values()]
    below = sum(size < budget.N.min() for size in budget.advice)
    above = sum(size > budget.N.max() for size in budget.advice)
    for k in (*range(-1, -below - 1, -1), *range(1, above + 1)):
        target = round((min(wanted) if k < 0 else max(wanted)) * design.spacing**k)
        try:
            point = _point(sweep, design, C, target, number)
            plan_points(sweep, [point])
        except UserError:
            continue
        yield point


def _point(sweep: SweepConfig, design: IsoflopDesign, budget: float, target: float, number: int) -> DesignPoint:
    point = isoflop_point(sweep, design, budget, target)
    return replace(point, label={**point.label, ROUND: number})
