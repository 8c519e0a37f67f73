"""Approaches 1, 2 and 3 to the compute-optimal size (Hoffmann et al. 2022), side by side with the known bias of
each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.asked import amount
from scaling.laws.fit import fit
from scaling.laws.intervals.interval import Interval, check_level, interval
from scaling.laws.intervals.prediction import Optimum
from scaling.laws.isoflop.analysis import isoflop
from scaling.laws.isoflop.envelope import Envelope, envelope
from scaling.laws.isoflop.minima import MinimumMethod
from scaling.laws.isoflop.parabola import CURVATURES
from scaling.laws.isoflop.power_law import FittedPowerLaw
from scaling.laws.quantities import quantity
from scaling.laws.solve.draws import Resampling
from scaling.laws.solve.objectives import huber
from scaling.laws.table.curves import cut_curves
from scaling.laws.table.runs import AnyRuns, Runs, as_runs
from scaling.names import several
from scaling.text import percent, range_of
from scaling.text import table as table_of

AT = "approaches: C must be training FLOPs above 0"
DELTA = 1e-3
"""Huber's δ on log loss in approach 3, as in Hoffmann et al."""
FEW = 50
"""runs below which approach 3 draws fresh noise: a resample of rows would lose whole budgets"""
BUDGET_STEP = 2.0
"""factor between the budgets at which training curves are read for approaches 2 and 3, as in Porian et al. 2024"""
BIASES = {
    "1 envelope": (
        "N* moves in steps from size to size; a point before a run's end was at a learning rate that its schedule "
        "had not yet lowered; the least of noisy losses is too low"
    ),
    "2 parabola": (
        "the loss is no parabola in log N: over 2.5 decades of sizes N* is off by 5 % for exponents .34 and .28 and "
        "by 20 to 25 % where they differ by a factor of two, too large where alpha > beta, too small where "
        "alpha < beta; sizes that drift off the minimum's middle with C, as one grid for all budgets does, move a by "
        ".01, and by .04 where the exponents differ so"
    ),
    "2 akima": "it assumes no form and so averages no noise over the sizes: wide intervals with few or noisy sizes",
    "3 parametric": (
        "it depends on the form, on delta and on the objective; E is badly identified, and N* far beyond the runs "
        "with it"
    ),
}


@dataclass(frozen=True)
class Approach:
    """The result of one approach; without a `reason` all numbers are present."""

    name: str
    bias: str
    """the known bias of the approach"""
    note: str = ""
    """what it was computed from"""
    exponent: float | None = None
    """a of N* ∝ C^a"""
    exponent_interval: Interval | None = None
    optima: tuple[Optimum, ...] = ()
    """at each of `Approaches.C`"""
    reason: str = ""
    """why it cannot be applied to these runs"""


@dataclass(frozen=True)
class Approaches:
    """The approaches on the same runs."""

    rows: tuple[Approach, ...]
    level: float
    """of every interval here"""
    C: tuple[float, ...]
    """training FLOPs of the optima"""

    def __getitem__(self, name: str) -> Approach:
        """The approach by its name or a prefix: "1", "2 akima", "3". Raises UserError unless exactly one matches."""
        found = [row for row in self.rows if row.name.startswith(name)]
        if len(found) != 1:
            raise UserError(f"not one approach {name!r}; there are {', '.join(row.name for row in self.rows)}")
        return found[0]

    def summary(self) -> str:
        """An aligned text."""
        level = f"{percent(self.level)}"
        cells = [["approach", "a", level]]
        for C in self.C:
            cells[0] += [f"N* at {C:.3g}", level, f"D* at {C:.3g}", level]
        for row in self.rows:
            if row.exponent is None or row.exponent_interval is None:
                cells.append([row.name] + ["—"] * (len(cells[0]) - 1))
                continue
            line = [row.name, f"{row.exponent:.3f}", range_of(row.exponent_interval)]
            for best in row.optima:
                for value, ends in ((best.N, best.N_interval), (best.D, best.D_interval)):
                    line += [f"{value:.3g}", range_of(ends or (None, None))]
            cells.append(line)
        lines = [table_of(cells[0], cells[1:])]
        lines += [f"{row.name} was not possible: {row.reason}" for row in self.rows if row.reason]
        lines += [f"{row.name}: {row.note}" for row in self.rows if row.note]
        lines += [f"{row.name} has a known bias: {row.bias}" for row in self.rows]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The whole result as JSON values."""
        return {"level": self.level, "C": list(self.C), "approaches": [_row_dict(row) for row in self.rows]}


def approaches(runs: AnyRuns, level: float = 0.9, seed: int = 0, C: Sequence[float] | None = None) -> Approaches:
    """Approach 1 (envelope), 2 (isoFLOP minima of parabolas and of Akima splines) and 3 (Chinchilla's law).

    Rows of one training run less than a factor of √2 in FLOPs apart are a training curve: approaches 2 and 3 then
    read the curves at budgets a factor of two apart. An approach that cannot be applied to these runs gives its
    reason.
    level: coverage of the intervals: resamples of runs (1), noise (2), and for 3 resamples of runs, of rows, or fresh
    noise for fewer than 50 rows without run labels.
    C: training FLOPs at which to report N* and D*; None: the most of any run, and ten times that.

    Raises UserError where C is empty or not above 0.
    """
    check_level(level)
    runs = as_runs(runs)
    largest = float(runs.flops.max())
    at = (largest, 10 * largest) if C is None else tuple(amount(c, AT) for c in several(C))
    if not at:
        raise UserError(f"{AT}; got none")

    def attempt(name: str, do: Callable[[], Approach]) -> Approach:
        try:
            return do()
        except UserError as error:
            return Approach(name, BIASES[name], reason=str(error))

    rows = (
        attempt("1 envelope", lambda: _first(envelope(runs, level, seed=seed), at)),
        attempt("2 parabola", lambda: _second("parabola", _table(runs), level, seed, at)),
        attempt("2 akima", lambda: _second("akima", _table(runs), level, seed, at)),
        attempt("3 parametric", lambda: _parametric(_table(runs), level, seed, at)),
    )
    return Approaches(rows, level, at)


def _table(runs: Runs) -> Runs:
    """The runs, or if they are training curves their losses at common budgets."""
    if runs.run is None:
        return runs
    order = np.lexsort((runs.flops, runs.N, runs.run))
    same = (runs.run[order][1:] == runs.run[order][:-1]) & (runs.N[order][1:] == runs.N[order][:-1])
    if not (same & (np.diff(np.log(runs.flops[order])) < 0.5 * np.log(BUDGET_STEP))).any():
        return runs
    largest = float(runs.flops.max())
    count = 1 + int(np.log(largest / runs.flops.min()) / np.log(BUDGET_STEP))
    return cut_curves(runs, largest / BUDGET_STEP ** np.arange(count)[::-1])


def _first(found: Envelope, C: tuple[float, ...]) -> Approach:
    note = (
        f"{len(found.C)} points by {len(set(found.run))} runs; {found.left_out} more had no size to beat on one side"
    )
    return _from_laws("1 envelope", note, found.level, (found.N_law, found.D_law, found.loss_law), C)


def _second(method: MinimumMethod, runs: Runs, level: float, seed: int, C: tuple[float, ...]) -> Approach:
    found = isoflop(runs, level=level, seed=seed, method=method)
    name = f"2 {method}"
    note = f"{len(found.counted)} of {len(found.budgets)} minima count; noise {found.noise_sd:.2%} of the loss"
    if found.curvature is not None:
        note += f"; {CURVATURES[found.curvature]}"
    note += "".join(f"; {text}" for text in found.notes)
    if not runs.form_budgets():
        note += "; not a design of budgets: rows within 10 % in FLOPs were taken together"
    if runs.run is not None and len(set(runs.run)) < len(runs):
        note += "; rows of one run share its noise, so the intervals are too narrow"
    if found.N_law is None or found.D_law is None or found.loss_law is None:
        return Approach(name, BIASES[name], reason=f"{note}; a power law needs two")
    return _from_laws(name, note, found.level, (found.N_law, found.D_law, found.loss_law), C)


def _from_laws(
    name: str,
    note: str,
    level: float,
    laws: tuple[FittedPowerLaw, FittedPowerLaw, FittedPowerLaw],
    C: tuple[float, ...],
) -> Approach:
    optima = []
    for c in C:
        N, D, loss = (law(c) for law in laws)
        ends: list[Interval] = [interval(law.drawn(c), level) for law in laws]
        optima.append(Optimum(c, N, D, loss, level, *ends))
    return Approach(name, BIASES[name], note, laws[0].exponent, laws[0].exponent_interval, tuple(optima))


def _parametric(runs: Runs, level: float, seed: int, C: tuple[float, ...]) -> Approach:
    fitted = fit(runs, "chinchilla", loss=huber(DELTA))
    kind: Resampling | None = "noise" if runs.run is None and len(runs) < FEW else None
    drawn = fitted.bootstrap(seed=seed, kind=kind)
    note = f"{fitted.form.formula} by huber({DELTA:g}) on log loss of {len(runs)} rows, {len(drawn)} of {drawn.kind}"
    note += "".join(f"; {text}" for text in drawn.notes)
    return Approach(
        "3 parametric",
        BIASES["3 parametric"],
        note,
        float(quantity(fitted.form, fitted.natural, "a")),
        fitted.interval("a", level),
        tuple(fitted.optimal(c, level, runs.per_token) for c in C),
    )


def _row_dict(row: Approach) -> dict[str, Any]:
    optima = [
        {"C": best.C, "N": best.N, "D": best.D, "loss": best.loss}
        | {
            f"{name}_interval": None if ends is None else [float(end) if np.isfinite(end) else None for end in ends]
            for name, ends in (("N", best.N_interval), ("D", best.D_interval), ("loss", best.loss_interval))
        }
        for best in row.optima
    ]
    return {
        "name": row.name,
        "exponent": row.exponent,
        "exponent_interval": None if row.exponent_interval is None else list(row.exponent_interval),
        "optima": optima,
        "bias": row.bias,
        "note": row.note,
        "reason": row.reason,
    }
