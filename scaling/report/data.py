"""The contents of a report as plain values: figures, page and summary read only these."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scaling.result import UNIT

if TYPE_CHECKING:
    from scaling.laws import Forecast
    from scaling.laws.pooled import Gain

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Run:
    """One record of a run."""

    run_id: str
    role: Literal["fit", "test"]
    status: str
    params: float
    """all of them, embedding included"""
    tokens: float
    """repeats included"""
    flops: float
    """training FLOPs by the exact count"""
    loss: float | None
    """on the held-out split"""
    loss_sem: float | None
    bits_per_byte: float | None
    active: float | None = None
    """parameters that a token uses; None: not in a table from elsewhere"""
    learning_rate: float = math.nan
    """NaN: not in a table from elsewhere"""
    seed: int | None = None
    epochs: float = 1.0
    wall_s: float = math.nan
    wall_s_spent: float = 0.0
    """without the trunk's before a branch"""
    validity: str = "valid"
    """see `scaling.validity.Verdict`"""
    reason: str = ""
    """why it is not valid, or a remark in its record"""
    folder: Path | None = None
    """where its records are"""
    sweep: str = ""
    """which it is of, where there are several"""
    name: str = ""
    """what a table from elsewhere calls it, where that is more than the row's label"""

    @property
    def called(self) -> str:
        """What people read."""
        return self.name or self.run_id

    @property
    def standing(self) -> str:
        """What became of it, and why it does not count where it does not."""
        what = self.status if self.validity == "valid" else self.validity
        return f"{what}: {self.reason}" if self.reason else what


@dataclass(frozen=True)
class TrainingCurve:
    """Training loss of a run on its way."""

    run: Run
    flops: Sequence[float]
    loss: Sequence[float]


@dataclass(frozen=True)
class Minimum:
    """The best size at one budget, by the parabola through its runs."""

    n: float
    d: float
    loss: float
    n_interval: Bounds | None = None
    d_interval: Bounds | None = None
    loss_interval: Bounds | None = None


@dataclass(frozen=True)
class IsoflopCurve:
    """The runs of one budget."""

    flops: float
    runs: Sequence[Run]
    curve_n: Sequence[float] = ()
    curve_loss: Sequence[float] = ()
    minimum: Minimum | None = None
    """None: the curve has none"""
    interior: bool = False
    """the minimum lies inside the range of sizes, on a curve that opens upwards: only such a minimum counts"""
    note: str = ""
    """why it does not count"""


@dataclass(frozen=True)
class OptimumCurve:
    """N* or D* as a power of the budget, through the interior minima."""

    symbol: Literal["N*", "D*"]
    exponent: float
    interval: Bounds | None
    """of the exponent"""
    flops: Sequence[float]
    values: Sequence[float]
    band_low: Sequence[float] = ()
    band_high: Sequence[float] = ()
    parametric: Sequence[float] = ()
    """the same by the parametric law, empty without one"""


@dataclass(frozen=True)
class Frontier:
    """The least loss at each budget by the parametric law."""

    flops: Sequence[float]
    loss: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    n: Sequence[float] = ()
    """of the model that reaches it"""
    d: Sequence[float] = ()


@dataclass(frozen=True)
class Law:
    """The parametric law that was fitted."""

    formula: str
    exponent: float | None
    """a of N* ∝ C^a"""
    interval: Bounds | None
    summary: str
    """as `scaling fit` prints it; empty while the sweep is being trained"""
    residuals: Sequence[tuple[Run, float]]
    """runs of the fit, and how much what it predicts of them is above the law, in per cent"""
    test_residuals: Sequence[tuple[Run, float]] = ()
    """the same of the test runs, which were not fitted"""
    of: str = "loss"
    """what the law predicts"""


@dataclass(frozen=True)
class CurveLawShown:
    """The law of whole curves that was fitted to the sweep."""

    summary: str
    """as `scaling fit --law annealing` prints it"""
    curves: Sequence[tuple[str, Sequence[float], Sequence[float], Sequence[float]]]
    """of each run its name, steps, losses and the law's"""


@dataclass(frozen=True)
class Titles:
    """What the quantities are called on the axes and in the captions; these are the framework's own conventions."""

    flops: str = "training FLOPs (exact count)"
    params: str = "parameters N (total)"
    tokens: str = "training tokens D (repeats included)"
    loss: str = f"held-out loss ({UNIT})"
    conventions: str = ""
    """the end of every caption; empty: what the framework's own records say"""


@dataclass(frozen=True)
class Live:
    """A sweep that was being trained when its report was made."""

    counts: str
    """how many runs are in which state, and when that was"""
    running: Sequence[tuple[str, ...]]
    """run id, share done, training loss, speed and time left of each running run"""


@dataclass(frozen=True)
class ReportData:
    """The contents of a report on one sweep. Empty and None: not available for the sweep; `missing` says why."""

    name: str
    folder: Path
    subtitle: str
    level: float
    """coverage of all intervals"""
    runs: Sequence[Run]
    curves: Sequence[TrainingCurve] = ()
    isoflops: Sequence[IsoflopCurve] = ()
    curves_are: str = "a parabola in log N"
    """what is drawn through the runs of a budget"""
    n_law: OptimumCurve | None = None
    d_law: OptimumCurve | None = None
    law: Law | None = None
    frontier: Frontier | None = None
    forecast: "Forecast | None" = None
    """frozen"""
    conventions: Sequence[tuple[str, str]] = ()
    exclusions: Sequence[tuple[str, str]] = ()
    """run id and why it takes no part in the fit"""
    versions: Sequence[tuple[str, str]] = ()
    tuning: Sequence[tuple[str, str, str, str, str]] = ()
    """of each point that tried several learning rates: what it is, its state, the best rate and what is to be gained
    by it, with intervals, and why it is not tuned"""
    curve_law: CurveLawShown | None = None
    missing: Sequence[str] = ()
    """sentences: what is not there, and why"""
    live: Live | None = None
    """None: nothing is being trained"""
    titles: Titles = Titles()
    unit: str = UNIT
    """of the losses of its runs"""
    about: str = ""
    """what it is a report of, where that is no sweep with a forecast"""
    gains: "Sequence[Gain]" = ()
    """what compute is worth in each group of runs but the first"""

    @property
    def meaning(self) -> str:
        """What N, FLOPs, loss and tokens are here, in one sentence."""
        if self.titles.conventions:
            return self.titles.conventions
        epochs = max((run.epochs for run in self.runs), default=0.0)
        seen = (
            "no training token was seen twice" if epochs <= 1 else f"training data were seen up to {epochs:.3g} times"
        )
        return (
            "N counts all parameters, embedding included; FLOPs are the exact training count; loss is the mean over "
            f"the whole held-out split; {seen}."
        )

    @property
    def finished(self) -> list[Run]:
        """Runs that have a loss."""
        return [run for run in self.runs if run.loss is not None]

    @property
    def tests(self) -> list[Run]:
        """Finished runs that test the forecast."""
        return [run for run in self.finished if run.role == "test"]

    @property
    def error(self) -> float | None:
        """Forecast over actual loss, less one, in per cent: mean over the test runs."""
        if self.forecast is None or not self.tests:
            return None
        errors = [self.forecast.loss / run.loss - 1 for run in self.tests if run.loss is not None]
        return 100 * sum(errors) / len(errors)

    @property
    def actual(self) -> float | None:
        """Mean loss of the test runs."""
        losses = [run.loss for run in self.tests if run.loss is not None]
        return sum(losses) / len(losses) if losses else None


def frozen_on(forecast: "Forecast") -> str:
    """When a forecast was made, to the minute."""
    return datetime.fromisoformat(forecast.date).strftime("%Y-%m-%d %H:%M UTC")
