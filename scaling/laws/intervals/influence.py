"""Which runs a fit depends on most: the law refitted with one run left out at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.quantities import budget_of, compared_quantities
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.solve.solver import solve
from scaling.text import align


@dataclass(frozen=True, eq=False)
class Influence:
    """The fit without each run, the most influential first."""

    C: float | None
    """FLOPs of the forecast whose changes are reported"""
    base: dict[str, float]
    """the fit's own parameters and derived quantities"""
    table: list[dict[str, Any]]
    """one row for each run left out: `run`, `rows`, the quantities of `base` without it, and `shift`, the change of
    `ranked_by` in jackknife standard errors"""
    jackknife: dict[str, float]
    """jackknife standard error of each quantity, one run left out at a time (Efron and Stein 1981)"""
    ranked_by: str
    """L* where the law has one at C, else a, else the last parameter"""

    def to_dict(self) -> dict[str, Any]:
        """The whole result as JSON values."""
        return {
            "C": self.C,
            "base": self.base,
            "jackknife": self.jackknife,
            "ranked_by": self.ranked_by,
            "table": self.table,
        }

    def summary(self, count: int = 10) -> str:
        """An aligned text of the `count` most influential runs."""
        names = list(self.base)
        rows = [["without", "rows", *names, "shift"]]
        rows += [["(nothing)", "", *(f"{self.base[name]:.5g}" for name in names), ""]]
        for row in self.table[:count]:
            rows.append(
                [row["run"], str(row["rows"]), *(f"{row[name]:.5g}" for name in names), f"{row['shift']:+.2f}"]
            )
        rows.append(["jackknife s.e.", "", *(f"{self.jackknife[name]:.2g}" for name in names), ""])
        at = f" at {self.C:.3g} FLOPs" if self.C is not None else ""
        return "\n".join([*align(rows), f"shift: of {self.ranked_by}{at}, in jackknife standard errors"])


def influence(fit: FittedLaw, C: float | None = None) -> Influence:
    """Leave out one run at a time: parameters, the exponent a, and the forecast at C FLOPs.

    A run is a label of the table's run column, or a row where it has none. All refits are lanes of one solve, with
    the rows left out at weight 0, each started from the fit's own optimum.
    C: FLOPs of the forecast; None: 10 times the largest of the runs. Laws of other columns than N and D have no
    forecast.

    Raises UserError where leaving out a run leaves too few rows to fit.
    """
    labels = np.array(fit.runs.rows) if fit.runs.run is None else fit.runs.run
    names, where = np.unique(labels, return_inverse=True)
    weights = fit.problem.weights * (where[None] != np.arange(len(names))[:, None])
    if (weights > 0).sum(1).min() < len(fit.problem.free):
        run = names[(weights > 0).sum(1).argmin()]
        raise UserError(f"influence: without {run} fewer rows than parameters are left; label runs more finely")
    starts = np.broadcast_to(fit.theta, (len(names), len(fit.theta)))
    natural = fit.problem.natural(solve(fit.problem, starts, weights=weights).theta)
    C = budget_of(fit, C)
    base = {name: float(value[0]) for name, value in compared_quantities(fit, fit.natural[None], C).items()}
    drawn = compared_quantities(fit, natural, C)
    count = len(names)
    error = {
        name: float(np.sqrt((count - 1) / count * np.sum((value - value.mean()) ** 2)))
        for name, value in drawn.items()
    }
    by = next((name for name in ("L*", "a") if name in base), fit.problem.free[-1])
    shift = (drawn[by] - base[by]) / max(error[by], 1e-300)
    rows = [
        {"run": str(names[i]), "rows": int((where == i).sum()), "shift": float(shift[i])}
        | {name: float(value[i]) for name, value in drawn.items()}
        for i in np.argsort(-np.abs(shift), kind="stable")
    ]
    return Influence(C, base, rows, error, by)
