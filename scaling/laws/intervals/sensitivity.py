"""How far a fit depends on choices that the data do not settle: Huber's δ, and log or raw residuals."""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from scaling.errors import UserError
from scaling.laws.intervals.prediction import interval_of
from scaling.laws.quantities import budget_of, compared_quantities, derived
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.multistart import starts_of
from scaling.laws.solve.objectives import Loss, Residual, huber, l1, l2
from scaling.laws.solve.problem import make_problem
from scaling.laws.solve.solver import solve
from scaling.names import several
from scaling.text import align, percent

DELTAS = (1e-4, 1e-3, 1e-2, 1e-1)
"""from nearly L1 to nearly L2 for log losses"""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """The law fitted with other objectives."""

    C: float | None
    """FLOPs at which N* and L* are reported"""
    table: list[dict[str, Any]]
    """one row for each objective: `loss` (its kind), `delta`, `residual`, `own` (whether it is the fit's),
    `objective`, the parameters, and a, N* and L* where the law has them"""

    def spread(self, name: str) -> float:
        """Difference between the largest and the smallest value of a column."""
        values = [row[name] for row in self.table]
        return float(max(values) - min(values))

    def to_dict(self) -> dict[str, Any]:
        """The whole result as JSON values."""
        return {"C": self.C, "table": self.table}

    def summary(self) -> str:
        """An aligned text; the fit's own objective is marked."""
        names = [name for name in self.table[0] if name not in ("loss", "delta", "residual", "own", "objective")]
        rows = [["objective", *names]]
        for row in self.table:
            delta = "" if row["delta"] is None else f" {row['delta']:g}"
            mark = " *" if row["own"] else ""
            rows.append([f"{row['loss']}{delta}, {row['residual']}{mark}", *(f"{row[name]:.5g}" for name in names)])
        at = [] if self.C is None else [f"N*, L* at {self.C:.3g} FLOPs"]
        return "\n".join([*align(rows), *at])


def sensitivity(
    fit: FittedLaw,
    deltas: tuple[float, ...] = DELTAS,
    residuals: tuple[Residual, ...] = ("log", "raw"),
    C: float | None = None,
) -> Sensitivity:
    """Refit the same law and runs with other objectives: Huber at `deltas` between L1 and L2, for both residuals.

    deltas: for log residuals; for raw ones, in the unit of the losses, they are multiplied by the median loss.
    C: FLOPs at which N* and L* are reported; None: 10 times the largest of the runs.

    Each fit starts from the given fit's optimum and from 63 of the law's starts. The fit's own objective is a row of
    the table. Priors are not used. Raises UserError for an empty table.
    """
    residuals, deltas = several(residuals), several(deltas)
    if unknown := [name for name in residuals if name not in get_args(Residual)]:
        raise UserError(f"sensitivity: residuals are of {', '.join(get_args(Residual))}; got {unknown[0]!r}")
    if not residuals:
        raise UserError("sensitivity: residuals is empty; give 'log', 'raw' or both")
    if (fit.runs.loss <= 0).any():
        residuals = ("raw",)
    C = budget_of(fit, C)
    chosen: list[tuple[Loss, Residual]] = [(fit.loss, fit.residual)]
    for residual in residuals:
        unit = float(np.median(fit.runs.loss)) if residual == "raw" else 1.0
        for loss in (l1(), *(huber(delta * unit) for delta in deltas), l2()):
            if (loss, residual) != chosen[0]:
                chosen.append((loss, residual))
    rows = [_row(fit, loss, residual, C) for loss, residual in chosen]
    return Sensitivity(C, sorted(rows, key=_place))


def delta_warning(fit: FittedLaw, level: float = 0.9) -> str | None:
    """A one-line warning where the exponent a varies over DELTAS by more than the width of its own interval.

    None where it does not, and where the fit has no δ, no a or no interval. Cheap: four refits.
    """
    if fit.loss.kind != "huber" or "a" not in derived(fit.form) or fit.draws is None:
        return None
    found = {delta: _row(fit, huber(delta), fit.residual, None, starts=0)["a"] for delta in DELTAS}
    low, high = interval_of(fit, "a", level)
    least, most = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    if found[most] - found[least] <= high - low:
        return None
    return (
        f"a varies with Huber's δ by more than its {percent(level)} interval: {found[least]:.3f} at δ={least:g}, "
        f"{found[most]:.3f} at δ={most:g}; see laws.sensitivity(fit)"
    )


def _row(fit: FittedLaw, loss: Loss, residual: Residual, C: float | None, starts: int = 63) -> dict[str, Any]:
    problem = make_problem(fit.runs, fit.form, loss, residual, fit.fixed, fit.problem.common)
    begin = fit.theta[None]
    if starts:
        begin = np.concatenate([begin, starts_of(problem, fit.runs.loss, starts)])
    own = (loss, residual) == (fit.loss, fit.residual)
    solution = solve(problem, begin)
    best = int(solution.total.argmin())
    natural = fit.natural[None] if own else problem.natural(solution.theta[best : best + 1])
    objective = fit.objective if own else float(solution.objective[best])
    head = {"loss": loss.kind, "delta": loss.delta, "residual": residual, "own": own, "objective": objective}
    return head | {name: float(value[0]) for name, value in compared_quantities(fit, natural, C).items()}


def _place(row: dict[str, Any]) -> tuple[str, float, str]:
    """Sort key: by residual, then L1 before Huber by δ before L2."""
    ends = {"l1": 0.0, "l2": np.inf}
    return row["residual"], ends.get(row["loss"], row["delta"] or 0.0), row["loss"]
