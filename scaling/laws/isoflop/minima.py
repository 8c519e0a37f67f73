"""The result of an isoFLOP analysis: a minimum at each budget, and power laws through those that count."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from scaling.laws.arrays import Array
from scaling.laws.intervals.interval import Interval
from scaling.laws.isoflop.parabola import CURVATURES, Curvature
from scaling.laws.isoflop.power_law import FittedPowerLaw, power_law_line
from scaling.laws.isoflop.scatter import Scatter
from scaling.laws.isoflop.skew import Shape
from scaling.text import by_width, percent
from scaling.text import table as table_of

MinimumMethod = Literal["skewed", "parabola", "akima"]
Weights = Literal["variance", "ols"]
MinimumVerdict = Literal["interior", "below the smallest size", "above the largest size", "not convex"]


@dataclass(frozen=True, eq=False)
class IsoflopBudget:
    """The runs at one budget and the minimum of the curve through them."""

    C: float
    """training FLOPs: geometric mean of the runs'"""
    rows: tuple[str, ...]
    N: Array
    D: Array
    loss: Array
    shape: Shape
    """log L as a function of log N"""
    verdict: MinimumVerdict
    N_opt: float
    """NaN where the parabola is not convex, and where the spline has no interior minimum"""
    D_opt: float
    loss_opt: float
    N_interval: Interval
    D_interval: Interval
    loss_interval: Interval
    advice: tuple[float, ...]
    """sizes to add where the minimum does not count"""

    @property
    def counts(self) -> bool:
        """Whether the minimum is interior and convex."""
        return self.verdict == "interior"

    def curve(self, N: ArrayLike) -> Array:
        """The loss at N parameters; that of a spline is NaN outside the sizes."""
        return np.exp(self.shape(np.log(np.asarray(N, np.float64))))

    def to_dict(self) -> dict[str, Any]:
        """The minimum as JSON values; None for a missing minimum and for an open end of an interval."""
        return {
            "C": self.C,
            "runs": len(self.rows),
            "verdict": self.verdict,
            "N": _finite(self.N_opt),
            "D": _finite(self.D_opt),
            "loss": _finite(self.loss_opt),
            "N_interval": [_finite(end) for end in self.N_interval],
            "D_interval": [_finite(end) for end in self.D_interval],
            "loss_interval": [_finite(end) for end in self.loss_interval],
            "add_sizes": list(self.advice),
        }


@dataclass(frozen=True)
class OtherExponent:
    """The exponent a of N* ∝ C^a from another analysis of the same runs."""

    by: str
    exponent: float


@dataclass(frozen=True, eq=False)
class Isoflop:
    """Minima by budget and the power laws through those that count; None where fewer than two count."""

    budgets: tuple[IsoflopBudget, ...]
    noise_sd: float
    """noise of one run's log L: the scatter around the curves, or a sigma column's root mean square (splines)"""
    degrees_of_freedom: float
    """of noise_sd; infinite where sigma gives it"""
    level: float
    """coverage of every interval here"""
    N_law: FittedPowerLaw | None = None
    """N* against C; its exponent is a"""
    D_law: FittedPowerLaw | None = None
    """D* against C; its exponent is b"""
    loss_law: FittedPowerLaw | None = None
    """L* against C; with an offset only from four budgets on, since three points always lie on such a curve"""
    lost_draws: float = 0.0
    """share of draws in which a counted budget had no minimum; their power laws omit that budget"""
    method: MinimumMethod = "parabola"
    curvature: Curvature | None = None
    """of the parabolas, as requested or by the number of runs; None for splines"""
    skew: tuple[float, float] | None = None
    """of the curves, and its standard deviation (`isoflop.skew`); None where they have none by assumption"""
    weights: Weights = "variance"
    """of the minima in the power laws"""
    between: Scatter | None = None
    """scatter of log N* about its law, beyond the noise within budgets; the exponents' intervals include it"""
    others: tuple[OtherExponent, ...] = ()
    """the exponent from other curves, and without one of the budgets"""
    notes: tuple[str, ...] = ()
    """caveats"""

    @property
    def counted(self) -> tuple[IsoflopBudget, ...]:
        """The budgets whose minimum counts."""
        return tuple(budget for budget in self.budgets if budget.counts)

    def to_dict(self) -> dict[str, Any]:
        """The minima and the power laws through them as JSON values."""
        laws = {"N": self.N_law, "D": self.D_law, "loss": self.loss_law}
        return {
            "budgets": [budget.to_dict() for budget in self.budgets],
            "method": self.method,
            "curvature": self.curvature,
            "skew": None if self.skew is None else list(self.skew),
            "level": self.level,
            "noise_sd": self.noise_sd,
            "degrees_of_freedom": _finite(self.degrees_of_freedom),
            **{name: None if law is None else law.to_dict() for name, law in laws.items()},
            "lost_draws": self.lost_draws,
            "weights": self.weights,
            "between": None if self.between is None else self.between.to_dict(),
            "others": {other.by: other.exponent for other in self.others},
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """An aligned text."""
        return format_isoflop(self.to_dict())


def format_isoflop(table: dict[str, Any]) -> str:
    """The text of `Isoflop.to_dict`."""
    level = f"{percent(table['level'])}"
    rows = [["C (FLOPs)", "runs", "N* (parameters)", level, "D* (tokens)", level, "L* (loss)", level, "minimum"]]
    for budget in table["budgets"]:
        cells = [f"{budget['C']:.3g}", str(budget["runs"])]
        for name in ("N", "D", "loss"):
            cells += by_width(budget[name], budget[f"{name}_interval"])
        rows.append([*cells, budget["verdict"]])
    curvature = f", {CURVATURES[table['curvature']]}" if table["curvature"] else ""
    noise = f"noise {table['noise_sd']:.2%} of the loss"
    skew = table.get("skew")
    curve = table["method"] if skew is None else f"parabola skewed by {skew[0]:.2g} ± {skew[1]:.1g}"
    lines = [f"isoFLOP minima ({curve}{curvature}); {noise}", table_of(rows[0], rows[1:])]
    for budget in table["budgets"]:
        if budget["add_sizes"]:
            sizes = ", ".join(f"{size:.3g}" for size in budget["add_sizes"])
            lines.append(f"note: at C {budget['C']:.3g} the minimum is not used ({budget['verdict']}); add N {sizes}")
    laws = {"N*": table["N"], "D*": table["D"], "L*": table["loss"]}
    lines += [f"note: {note}" for note in table["notes"]]
    lines += [power_law_line(name, law) for name, law in laws.items() if law is not None]
    if table["between"]:
        lines.append(_between(table))
    if table["others"]:
        lines.append("a by other methods: " + "; ".join(f"{by} {a:.4f}" for by, a in table["others"].items()))
    if table["lost_draws"] > 0.01:
        lines.append(f"note: in {table['lost_draws']:.0%} of draws a budget had no minimum; their power laws omit it")
    return "\n".join(lines)


def _between(table: dict[str, Any]) -> str:
    """How the minima scatter about the law of N*, and whether the intervals of the exponents include that."""
    found, ols = table["between"], table["weights"] == "ols"
    if not found["degrees_of_freedom"]:
        return "note: two minima do not show the scatter between budgets: the exponents' intervals omit it"
    if ols:
        return f"minima scatter by {found['sd']:.1%} about the line; unweighted, intervals by Student's t"
    test = f"χ² {found['chi2']:.3g} on {found['degrees_of_freedom']}" if found["chi2"] is not None else "no noise"
    return (
        f"minima scatter by {found['sd']:.1%} about the line beyond the noise within budgets ({test}); the "
        "exponents' intervals include it, those of N* and D* do not"
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
