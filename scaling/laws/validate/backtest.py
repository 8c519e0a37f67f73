"""Backtests: fit the runs up to a budget, predict those beyond it, and measure errors and coverage."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount, whole
from scaling.laws.forms import Form, get_form
from scaling.laws.intervals.bootstrap import resample_counts
from scaling.laws.intervals.interval import check_level, interval
from scaling.laws.solve.checks import fixed_values, require_fittable
from scaling.laws.solve.draws import ROWS_PER_PARAMETER, Resampling
from scaling.laws.solve.multistart import multistart, starts_of
from scaling.laws.solve.objectives import Loss, Residual, huber, objective_of, untransform
from scaling.laws.solve.priors import Prior, drawn_means
from scaling.laws.solve.problem import Problem, make_problem
from scaling.laws.solve.solver import solve
from scaling.laws.table.runs import AnyRuns, Runs, as_runs
from scaling.names import several
from scaling.text import align, percent

BANDS = (1.0, 2.0, 4.0, 10.0, 100.0, np.inf)
"""bins of distance beyond the cut, in units of the cut, in which errors are reported"""
ROUNDING = 1 + 1e-9
"""a run of exactly the cut counts as seen, however its FLOPs were rounded"""
NO_GAP = 0.02
"""in log C: narrower gaps are no place to cut, since whole batches scatter the runs of one budget by about a
percent"""


@dataclass(frozen=True)
class Score:
    """The quality of predictions; errors are log(predicted / actual), so 0.01 is one percent too high."""

    predicted: int
    """number of predictions; a run beyond several cuts is predicted from each"""
    bias: float
    """mean error"""
    rmse: float
    """root mean square error"""
    worst: float
    """the largest error in absolute value, with its sign"""
    coverage: float
    """share of runs inside their intervals"""
    width: float
    """median of log(high / low)"""


@dataclass(frozen=True)
class Cut:
    """A law fitted to the runs up to `cut` and the scores of its predictions beyond."""

    cut: float
    fitted: int
    params: dict[str, float]
    furthest: float
    """largest C of a predicted run, in units of the cut"""
    score: Score


@dataclass(frozen=True, eq=False)
class Backtest:
    """Predictions of runs that the law was not fitted to."""

    form: str
    by: str
    level: float
    cuts: tuple[Cut, ...]
    points: tuple[dict[str, Any], ...]
    """one for each prediction: cut, row, value (of the quantity `by`), ahead (value/cut), actual, predicted, low,
    high, error"""
    notes: tuple[str, ...]

    @property
    def score(self) -> Score:
        """The score over all cuts."""
        return _score(self.points)

    @property
    def by_distance(self) -> list[dict[str, Any]]:
        """The scores by distance beyond the cut: rows with `from` and `to` in units of the cut."""
        rows = []
        for low, high in pairwise(BANDS):
            inside = [point for point in self.points if low < point["ahead"] <= high]
            if inside:
                rows.append({"from": low, "to": high, **asdict(_score(inside))})
        return rows

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row for each cut."""
        return [
            {"cut": c.cut, "fitted": c.fitted, "furthest": c.furthest, **asdict(c.score), "params": c.params}
            for c in self.cuts
        ]

    def to_dict(self) -> dict[str, Any]:
        """The whole backtest as JSON values."""
        bands = [{**row, "to": None if row["to"] == np.inf else row["to"]} for row in self.by_distance]
        return {
            "form": self.form,
            "by": self.by,
            "level": self.level,
            "score": asdict(self.score),
            "table": self.table,
            "by_distance": bands,
            "points": list(self.points),
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """An aligned text: the scores by cut, and by distance beyond it."""
        head = ["predicted", "bias", "rmse", "worst", f"inside {percent(self.level)}", "width"]
        rows = [[f"fitted to {self.by} ≤", "runs", "up to", *head]]
        rows += [[f"{c.cut:.3g}", str(c.fitted), f"{c.furthest:.3g}×", *_cells(c.score)] for c in self.cuts]
        far = [["ahead", *head]]
        for row in self.by_distance:
            values = {key: value for key, value in row.items() if key not in ("from", "to")}
            end = "more" if row["to"] == np.inf else f"{row['to']:g}×"
            far.append([f"{row['from']:g}× to {end}", *_cells(Score(**values))])
        far.append(["all", *_cells(self.score)])
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([f"{self.form}, backtest", *align(rows), "", *align(far), *notes])


def backtest(
    runs: AnyRuns,
    law: str | Form = "chinchilla",
    *,
    by: str = "flops",
    cuts: Sequence[float] | None = None,
    loss: Loss | str | None = None,
    residual: Residual = "log",
    level: float = 0.9,
    starts: int = 64,
    n: int = 300,
    kind: Resampling | None = None,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    priors: Mapping[str, Prior] | None = None,
) -> Backtest:
    """Rolling origin: at each cut, fit to the runs with C ≤ cut and predict all runs beyond it.

    by: the quantity to cut by: "flops" (training FLOPs), or a column's letter such as "N".
    cuts: values; None: up to five, spread evenly in log C from where there are two rows per parameter of the law,
    each moved to the largest C before the widest gap nearby, so that no budget is cut in two.
    level: of the intervals. They are for a single run: a bootstrap draw of the law, plus the scatter of a run (a
    residual drawn from the fit's own, widened for the parameters' degrees of freedom).
    draws, kind, seed: the bootstrap at each cut; kind as in `Fit.bootstrap`, None: "runs" where the table names the
    run of each row, else "noise" where there are fewer than ten rows per parameter, else "rows".
    fixed, priors: of the law at every cut, as in `laws.fit`; the weight of priors follows from the runs up to the
    cut.

    Raises UserError where a cut leaves nothing to predict, or too little to fit.
    """
    law, loss, priors = get_form(law), objective_of(loss, huber()), priors or {}
    fixed, starts = fixed_values(law, fixed), whole(starts, "starts", 1)
    check_level(level)
    n, seed = whole(n, "backtest: n", 2), whole(seed, "backtest: seed")
    table = as_runs(runs).sorted()
    values = table.column("C" if by == "flops" else by)
    free = len(law.free(fixed))
    must = "backtest: a cut must be positive and finite"
    asked = None if cuts is None else sorted({amount(cut, must) for cut in several(cuts)})
    chosen = default_cuts(values, free) if asked is None else asked
    _require_cuts(chosen, values, by, cuts is None)
    _require(table, law, residual, fixed, priors)
    problem = make_problem(table, law, loss, residual, fixed)
    found, points = [], []
    for number, cut in enumerate(chosen):
        seen = values <= cut * ROUNDING
        try:
            require_fittable(table.exclude(~seen, "beyond the cut"), law, residual, fixed, priors)
        except UserError as error:
            raise UserError(f"backtest at {by} ≤ {cut:g}: {error}; or choose other cuts=[…]") from None
        refit = _Refit(problem, priors, table, seen, starts)
        drawn = refit.single_runs(n, kind, np.random.default_rng([seed, number]))
        predicted = _points(table, values, cut, ~seen, refit, drawn, level)
        points += predicted
        params = dict(zip(law.params, (float(v) for v in problem.natural(refit.theta)), strict=True))
        furthest = float(values.max() / cut)
        found.append(Cut(cut, int(seen.sum()), params, furthest, _score(predicted)))
    return Backtest(law.name, by, level, tuple(found), tuple(points), _notes(table, values, chosen))


def default_cuts(values: Array, parameters: int, count: int = 5) -> list[float]:
    """Up to `count` values to cut at; see `backtest`. Empty where there are too few rows."""
    ordered = np.sort(values)
    logs = np.log(ordered)
    first = min(2 * parameters, len(logs) - 1) - 1
    last = len(logs) - 1 - max(1, min(parameters, len(logs) // 20))
    if first < parameters or last < first:
        return []
    gaps, wanted = np.diff(logs), np.linspace(logs[first], logs[last], count)
    spacing = wanted[1] - wanted[0]
    # Where all gaps are that narrow, they count nevertheless.
    least = NO_GAP if (gaps[first : last + 1] > NO_GAP).any() or np.ptp(logs) < 5 * NO_GAP else 0.0
    cuts: list[float] = []
    for value in wanted:
        places = np.arange(first, last + 1)
        places = places[np.abs(logs[places] - value) <= spacing / 2 + 1e-12]
        if len(places) and gaps[places].max() > least:
            cut = float(ordered[places[gaps[places].argmax()]])
            if not cuts or np.log(cut / cuts[-1]) > spacing / 2:
                cuts.append(cut)
    return cuts


def _require(
    runs: Runs, form: Form, residual: Residual, fixed: Mapping[str, float], priors: Mapping[str, Prior]
) -> None:
    require_fittable(runs, form, residual, fixed, priors)
    if (bad := np.flatnonzero(runs.loss <= 0)).size:
        named = ", ".join(runs.rows[i] for i in bad[:5])
        raise UserError(f"backtest scores relative errors, which need positive losses; rows {named} are not")


class _Refit:
    """The law fitted to part of the rows; the others have weight 0, so that all cuts share a compiled program."""

    def __init__(
        self, problem: Problem, priors: Mapping[str, Prior], runs: Runs, seen: NDArray[np.bool_], starts: int
    ):
        self.priors, self.runs, self.seen = priors, runs, seen
        theta = starts_of(problem.rows(seen), runs.loss[seen], starts)
        self.problem, solution = multistart(replace(problem, weights=problem.weights * seen), theta, priors)
        self.root = np.sqrt(problem.sharing(self.problem.common).weights)
        self.theta = solution.best
        self.residuals = problem.residuals(self.theta)
        self.freedom = max(int(seen.sum()) - len(problem.free), 1)

    def single_runs(self, n: int, kind: Resampling | None, rng: np.random.Generator) -> Array:
        """Drawn transformed losses [n, points] of single runs."""
        problem, count = self.problem, int(self.seen.sum())
        if kind is None:
            few = count < ROWS_PER_PARAMETER * len(problem.free)
            kind = "runs" if self.runs.run is not None else "noise" if few else "rows"
        root = self.root
        own = (self.residuals * root)[self.seen] * np.sqrt(count / self.freedom)
        y, weights, fitted = None, np.tile(problem.weights, (n, 1)), None
        if kind == "noise":
            sd = np.sqrt(np.mean(own**2)) * np.sqrt(self.freedom / rng.chisquare(self.freedom, n))
            y = problem.y + self.residuals + sd[:, None] / root * rng.standard_normal((n, len(root)))
            scatter = sd[:, None] * rng.standard_normal((n, len(root)))
            fitted = problem.natural(self.theta)
        else:
            weights[:, self.seen] *= resample_counts(self._groups(kind), n, len(problem.free) + 1, rng)
            scatter = rng.choice(own, (n, len(root)))
        means = drawn_means(problem, self.priors, n, rng, fitted)
        theta = solve(problem, np.tile(self.theta, (n, 1)), y, weights, means, tolerance=1e-9).theta
        return np.asarray(problem.residuals(theta) + problem.y + scatter / root)

    def _groups(self, kind: Resampling) -> NDArray[np.int64]:
        if kind == "rows":
            return np.arange(int(self.seen.sum()))
        if kind != "runs":
            raise UserError(f"backtest: kind must be 'rows', 'runs' or 'noise'; got {kind!r}")
        if self.runs.run is None:
            raise UserError("backtest: kind='runs' needs runs with a run column: laws.Runs(…, run='name')")
        return np.unique(self.runs.run[self.seen], return_inverse=True)[1].astype(np.int64)


def _points(
    runs: Runs, values: Array, cut: float, beyond: NDArray[np.bool_], refit: _Refit, drawn: Array, level: float
) -> list[dict[str, Any]]:
    """The predictions from one cut."""
    residual = refit.problem.residual
    predicted = refit.problem.fitted(refit.theta)
    lows, highs = (untransform(ends, residual, np) for ends in interval(drawn.T, level))
    return [
        {
            "cut": cut,
            "row": runs.rows[i],
            "value": float(values[i]),
            "ahead": float(values[i] / cut),
            "actual": float(runs.loss[i]),
            "predicted": float(predicted[i]),
            "low": float(lows[i]),
            "high": float(highs[i]),
            "error": float(np.log(predicted[i] / runs.loss[i])),
        }
        for i in np.flatnonzero(beyond)
    ]


def _score(points: Sequence[dict[str, Any]]) -> Score:
    errors = np.array([point["error"] for point in points])
    inside = [point["low"] <= point["actual"] <= point["high"] for point in points]
    with np.errstate(all="ignore"):  # raw residuals may put the low end below zero: the width is then infinite
        width = np.median([np.log(p["high"] / p["low"]) if p["low"] > 0 else np.inf for p in points])
    return Score(
        predicted=len(points),
        bias=float(errors.mean()),
        rmse=float(np.sqrt(np.mean(errors**2))),
        worst=float(errors[np.abs(errors).argmax()]),
        coverage=float(np.mean(inside)),
        width=float(width),
    )


def _cells(score: Score) -> list[str]:
    return [
        str(score.predicted),
        f"{score.bias:+.2%}",
        f"{score.rmse:.2%}",
        f"{score.worst:+.2%}",
        f"{score.coverage:.0%}",
        f"{score.width:.2%}",
    ]


def _require_cuts(cuts: Sequence[float], values: Array, by: str, automatic: bool) -> None:
    if not cuts and automatic:
        raise UserError(
            f"backtest: {len(values)} runs at {len(np.unique(values))} values of {by} leave no cut with enough runs "
            "on both sides; add runs, or give cuts=[…]"
        )
    if not cuts:
        raise UserError("backtest: cuts is empty; give at least one value, or None to have them chosen")
    for cut in cuts:
        if not (np.isfinite(cut) and values.min() <= cut * ROUNDING < values.max()):
            raise UserError(
                f"backtest: a cut of {cut:g} leaves no runs to fit or to predict; {by} of the runs ranges from "
                f"{values.min():.4g} to {values.max():.4g}"
            )


def _notes(runs: Runs, values: Array, cuts: Sequence[float]) -> tuple[str, ...]:
    if runs.run is None:
        return ()
    both: set[str] = set()
    for cut in cuts:
        seen = values <= cut * ROUNDING
        both |= set(runs.run[seen]) & set(runs.run[~seen])
    if not both:
        return ()
    return (f"{len(both)} runs have rows on both sides of a cut: their later rows are easier than unseen runs",)
