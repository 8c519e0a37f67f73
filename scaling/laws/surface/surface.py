"""The best learning rate and batch size from a table of runs with several of each; see `response_surface`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.asked import amount, whole
from scaling.laws.intervals.interval import check_level, interval, require_draws
from scaling.laws.surface.basin import Basin
from scaling.laws.surface.optimum_law import OptimumLaw, optimum_law
from scaling.laws.surface.records import POINT, are_records, tried_runs
from scaling.laws.surface.search import SHAPES, Found, Settings, search
from scaling.laws.table.runs import AnyRuns, Runs, as_runs
from scaling.laws.table.text_table import read_table

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = {"lr": "learning_rate", "B": "batch_tokens"}
"""letters of the settings, and their default columns"""
SAME = 0.02
"""in ln N and ln D: runs of one point differ by less than this (tokens are whole batches)"""


@dataclass(frozen=True)
class BestSetting:
    """The learning rate, or the batch size, of lowest loss, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TunedPoint:
    """Runs of one N and D: their best setting, and its gain over the best that was tried."""

    N: float
    D: float
    rows: tuple[str, ...]
    """labels of its runs"""
    tried: dict[str, float]
    """the settings of its best run"""
    best: dict[str, BestSetting]
    gain: BestSetting
    """relative excess loss of the best run because it is not at the optimum"""
    diverged: float | None = None
    """the lowest learning rate at which a run of the point diverged: the best is below"""


@dataclass(frozen=True, eq=False)
class ResponseSurface:
    """Points with a surface of one shape, and power laws through their optima."""

    runs: Runs
    near: float
    level: float
    settings: Settings
    found: Found
    points: tuple[TunedPoint, ...]
    laws: dict[str, OptimumLaw]
    """laws of ln lr and ln batch in N/N₀ and D/D₀; empty where there are too few points"""
    units: Array
    """[2]: ln N₀, ln D₀, geometric means of the points"""
    draws: Array
    """[n, k]: draws of the shape and the points' optima"""

    @property
    def letters(self) -> tuple[str, ...]:
        """The settings that vary: lr, and B."""
        return tuple(self.points[0].tried)

    def optimum(self, N: float, D: float, level: float | None = None) -> dict[str, BestSetting]:
        """The best settings of a model of N parameters on D tokens, by letter.

        The interval is for a new point: it includes the scatter of the fitted points about the law.
        Raises UserError where there are too few points for a law.
        """
        size = self._size(N, D)
        ends = interval(self._drawn(size), self.level if level is None else level)
        return {
            letter: BestSetting(float(np.exp(law.at(size))), float(np.exp(ends[0][j])), float(np.exp(ends[1][j])))
            for j, (letter, law) in enumerate(self.laws.items())
        }

    def regret(self, N: float, D: float, *, level: float | None = None, **settings: float) -> BestSetting:
        """The relative excess loss at settings (lr=…, B=…) that are not the optimum: the median of the draws.

        It is not 0 at the law's own optimum, because the point's optimum scatters about it. Raises UserError as
        `optimum` does, and for a missing setting.
        """
        if missing := [letter for letter in self.letters if letter not in settings]:
            raise UserError(f"regret needs {', '.join(f'{letter}=…' for letter in missing)}")
        size = self._size(N, D)
        at = np.log([settings[letter] for letter in self.letters])
        lost = np.expm1(Basin(self.draws[:, :SHAPES]).rise(at - self._drawn(size).T, size))
        return BestSetting(float(np.median(lost)), *interval(lost, self.level if level is None else level))

    def backtest(self, C: float) -> "pd.DataFrame":
        """Fit the points of 6·N·D ≤ flops and compare the forecasts with those beyond.

        One row for each point beyond: for each setting its own optimum from its runs, the forecast, its interval, and
        whether the interval covers the optimum; `regret` at the forecast's settings by the point's own surface, with
        its interval, and `forecast_regret`, which the law expects there.
        """
        import pandas as pd

        C = amount(C, "backtest: C must be positive and finite")
        seen = C * np.exp(2 * SAME) >= 6 * self.runs.N * self.runs.D
        if seen.all() or not seen.any():
            raise UserError(f"backtest: {C:.3g} FLOPs leave no points on one side")
        before = response_surface(self.runs.rows_where(seen), near=self.near, level=self.level, n=len(self.draws))
        after = response_surface(self.runs.rows_where(~seen), near=self.near, level=self.level, n=len(self.draws))
        rows = []
        for i, point in enumerate(after.points):
            predicted = before.optimum(point.N, point.D)
            row: dict[str, Any] = {"N": point.N, "D": point.D}
            for letter, own in point.best.items():
                ahead = predicted[letter]
                row |= {letter: own.value, f"{letter}_forecast": ahead.value, f"{letter}_low": ahead.low}
                row |= {f"{letter}_high": ahead.high, f"{letter}_inside": ahead.low <= own.value <= ahead.high}
            at = {letter: setting.value for letter, setting in predicted.items()}
            lost = after.lost(i, at)
            row |= {"regret": lost.value, "regret_low": lost.low, "regret_high": lost.high}
            rows.append(row | {"forecast_regret": before.regret(point.N, point.D, **at).value})
        return pd.DataFrame(rows)

    def lost(self, point: int, settings: dict[str, float]) -> BestSetting:
        """As `regret`, at a fitted point relative to its own optimum: the median of the draws."""
        best = self._own_optima[:, point]
        size = np.log([self.points[point].N, self.points[point].D]) - self.units
        at = np.log([settings[letter] for letter in self.letters])
        lost = np.expm1(Basin(self.draws[:, :SHAPES]).rise(at - best, size))
        return BestSetting(float(np.median(lost)), *interval(lost, self.level))

    def to_dict(self) -> dict[str, Any]:
        """Everything but runs and draws as JSON values."""
        laws = {}
        for letter, law in self.laws.items():
            exponents = law.exponents(self.level)
            coefficient = law.values[0] - sum(exponents[name][0] * self.units["ND".index(name)] for name in law.names)
            laws[letter] = {
                "coefficient": float(np.exp(coefficient)),
                "exponents": {name: {"value": v, "interval": list(ends)} for name, (v, ends) in exponents.items()},
                "scatter": law.scatter,
            }
        return {
            "data_hash": self.runs.hash,
            "runs": len(self.runs),
            "conventions": dict(self.runs.conventions),
            "level": self.level,
            "near": self.near,
            "noise": self.found.noise,
            "degrees_of_freedom": self.found.freedom,
            "curvature": self._curvature,
            "laws": laws,
            "points": [
                {"N": p.N, "D": p.D, "runs": len(p.rows), "tried": p.tried, "gain": vars(p.gain)}
                | {"diverged": p.diverged}
                | {"best": {letter: vars(best) for letter, best in p.best.items()}}
                for p in self.points
            ],
            "notes": list(self.notes),
        }

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Caveats."""
        left = len(self.runs) - sum(len(point.rows) for point in self.points)
        notes = [f"{left} runs are the only ones at their N and D, so they compare no settings"] if left else []
        if lost := [point for point in self.points if point.diverged is not None]:
            of = f"{len(lost)} of {len(self.points)} points, as from {lost[0].diverged:.3g} on at N {lost[0].N:.3g}"
            notes.append(
                f"training diverged at a rate of {of}: such a run has no loss, so the surface does not use it"
                + (", but best rates are assumed to be lower" if "B" not in self.letters else "")
            )
        for letter in self.letters:
            off = [point for point in self.points if not self._inside(point, letter)]
            if off:
                notes.append(
                    f"{SETTINGS[letter]}: the optimum of {len(off)} of {len(self.points)} points lies beyond the "
                    f"values tried there, for example at N {off[0].N:.3g}, D {off[0].D:.3g}"
                )
        if not self.laws:
            notes.append(f"{len(self.points)} points are too few for a law of the optimum in N and D")
        elif all(law.names == ("N",) for law in self.laws.values()):
            notes.append("N and D rise together, or D does not vary: the exponent of N includes that of D")
        return tuple(notes)

    def _inside(self, point: TunedPoint, letter: str) -> bool:
        values = dict(zip(self.runs.rows, self.runs.column(letter), strict=True))
        own = [values[row] for row in point.rows]
        return min(own) <= point.best[letter].value <= max(own)

    @property
    def _curvature(self) -> dict[str, Any]:
        """Second derivatives of ln L in the log settings at N₀, D₀, and how the basin is skewed and scaled."""
        shape, drawn = self.found.theta[:SHAPES], self.draws[:, :SHAPES]
        named: dict[str, Any] = {"lr": (0, np.exp), "skew": (1, np.asarray)}
        named |= {"scale_N": (4, np.asarray), "scale_D": (5, np.asarray)}
        if "B" in self.letters:
            named |= {"B": (2, np.exp), "correlation": (3, np.tanh)}
        return {
            name: {"value": float(turn(shape[i])), "interval": list(interval(turn(drawn[:, i]), self.level))}
            for name, (i, turn) in named.items()
        }

    @cached_property
    def _own_optima(self) -> Array:
        """[n, points, dims] ln settings."""
        return _optima(self.draws, self.settings, self._tried)

    @property
    def _tried(self) -> Array:
        return np.log([[point.tried[letter] for letter in self.letters] for point in self.points])

    def _size(self, N: float, D: float) -> Array:
        if not self.laws:
            raise UserError(f"{len(self.points)} points are too few for a law of the optimum in N and D")
        return np.asarray(np.log([N, D]) - self.units)

    def _drawn(self, size: Array) -> Array:
        """[dims, n]: ln settings of the optimum there."""
        rng = np.random.default_rng(1)
        return np.stack([law.drawn(size, rng) for law in self.laws.values()])

    def summary(self) -> str:
        """An aligned text: the laws, the shape, each point."""
        from scaling.laws.text.surface import format_surface

        return format_surface(self.to_dict())


def response_surface(
    runs: AnyRuns,
    *,
    point: str | ArrayLike | None = None,
    near: float = 0.01,
    level: float = 0.9,
    n: int = 4000,
    seed: int = 0,
    where: Sequence[str] = (),
    allow: Sequence[str] = (),
    **columns: Any,
) -> ResponseSurface:
    """Fit the loss around the best learning rate and batch size of each N and D, and the law of these optima.

    runs: `laws.Runs` or a DataFrame, with columns as in `laws.Runs`, and lr= and B=, the columns of learning rate and
    batch size (in tokens or sequences); omit B where the batch size does not vary. For `scaling.load_runs` all
    columns
    are known: the completed runs of sweeps' points are used, N counts all parameters, and the runs must share one
    recipe except for sizes, tokens and settings.
    where, allow: for such records, as in `laws.from_results`.
    point: a column of the DataFrame, or one label per row: runs with one label differ only in settings and seed;
    None: runs of one N and D, within 2 %.
    near: a run has the weight 1/(1 + (x/near)²), x being its log loss above the lowest of its point, so that the
    surface describes the basin. n: number of draws.

    Each point has its own level and optimum; curvature, skew and their change with N and D are common to all (see
    `surface.basin`, with their priors), and so is the noise. So a sweep of three rates per point has intervals. The
    power laws are random-effects regressions through the points' optima (Li et al. 2025, 2503.04715: lr ∝ N^a D^b,
    batch ∝ D^c).

    Raises UserError where no point has two settings.
    """
    check_level(level)
    require_draws(n := whole(n, "n"))
    if not near > 0:
        raise UserError(f"near must be above 0, such as 0.01; got {near!r}")
    runs, labels, lost = _read(runs, point, where, allow, columns)
    tried = _tried(runs, labels, lost)
    units = tried.log_size.mean(0)
    settings = tried.settings(units, near)
    found = search(settings)
    rng = np.random.default_rng(whole(seed, "seed"))
    draws = found.draws(n, rng)
    optima = tried.limited(_optima(np.concatenate([found.theta[None], draws]), settings, tried.best_x))
    laws = {
        letter: optimum_law(optima[..., j], tried.log_size - units, rng) for j, letter in enumerate(tried.letters)
    }
    held = {letter: law for letter, law in laws.items() if law is not None}
    surface = ResponseSurface(runs, near, level, settings, found, (), held, units, draws)
    return replace(surface, points=_tuned_points(surface, tried, optima))


@dataclass(frozen=True, eq=False)
class _Tried:
    """The runs of the points that have two settings or more."""

    runs: Runs
    """all, of which `kept` [runs kept] are the rows"""
    kept: NDArray[np.int64]
    at: NDArray[np.int64]
    """[runs kept]: the point of each"""
    letters: tuple[str, ...]
    x: Array
    """[runs kept, dims]: ln settings"""
    y: Array
    """[runs kept]: ln loss"""
    best: NDArray[np.int64]
    """[points]: the kept run of lowest loss"""
    log_size: Array
    """[points, 2]: ln N, ln D"""
    diverged: tuple[float | None, ...]
    """[points]: as `TunedPoint.diverged`"""

    @property
    def best_x(self) -> Array:
        """[points, dims]."""
        return self.x[self.best]

    def settings(self, units: Array, near: float) -> Settings:
        """Input of the search; units and near as in `response_surface`."""
        weights = 1 / (1 + ((self.y - self.y[self.best][self.at]) / near) ** 2)
        return Settings(self.x - self.best_x[self.at], self.y, (self.log_size - units)[self.at], self.at, weights)

    def limited(self, optima: Array) -> Array:
        """Optima [..., points, dims] with the learning rate capped where training diverged, if the batch is fixed."""
        if "B" in self.letters:
            return optima
        limits = np.log([np.inf if rate is None else rate for rate in self.diverged])
        rates = np.minimum(optima[..., 0], np.maximum(limits, self.best_x[:, 0]))
        return np.concatenate([rates[..., None], optima[..., 1:]], -1)


def _read(
    runs: AnyRuns, point: Any, where: Sequence[str], allow: Sequence[str], columns: dict[str, Any]
) -> tuple[Runs, Any, Mapping[str, float]]:
    """The runs, the labels of their points, and the lowest rate that diverged at each; see `response_surface`."""
    conventions: Mapping[str, str] = {}
    lost: Mapping[str, float] = {}
    if isinstance(runs, str | Path):
        runs = read_table(runs)
    elif isinstance(runs, Mapping):
        import pandas as pd

        runs = pd.DataFrame(runs)
    if not isinstance(runs, Runs) and are_records(runs):
        runs, conventions, lost = tried_runs(runs, where, allow)
        point, columns = POINT if point is None else point, {"N": "params_total", **columns}
    elif where or allow:
        raise UserError("response_surface: where and allow are about records of scaling.load_runs")
    labels = runs[point] if isinstance(point, str) and not isinstance(runs, Runs) else point
    return _runs_of(runs, columns).with_conventions(**conventions), labels, lost


def _tried(runs: Runs, labels: Any, lost: Mapping[str, float]) -> _Tried:
    """The runs of points with several settings. Raises UserError where no point has two."""
    own, names = _points_of(runs, labels)
    letters = _varied(runs, own)
    x = np.log(np.stack([runs.column(letter) for letter in letters], 1))
    kept = np.flatnonzero([len(np.unique(x[own == i], axis=0)) > 1 for i in own])
    there, at = np.unique(own[kept], return_inverse=True)
    x, y = x[kept], np.log(runs.loss[kept])
    points = range(at.max() + 1)
    best = np.array([np.flatnonzero(at == i)[y[at == i].argmin()] for i in points])
    log_size = np.log(np.stack([runs.N[kept], runs.D[kept]], 1))
    log_size = np.stack([log_size[at == i].mean(0) for i in points])
    return _Tried(runs, kept, at, letters, x, y, best, log_size, tuple(lost.get(names[i]) for i in there))


def _tuned_points(surface: ResponseSurface, tried: _Tried, optima: Array) -> tuple[TunedPoint, ...]:
    """optima: [1 + draws, points, dims] ln settings, the estimate and then draws."""
    size, level = tried.log_size - surface.units, surface.level
    with np.errstate(over="ignore"):  # the loss of a very steep draw may overflow
        unreached = np.expm1(Basin(surface.draws[:, None, :SHAPES]).rise(tried.best_x - optima[1:], size))
    at_best = np.expm1(Basin(surface.found.theta[:SHAPES]).rise(tried.best_x - optima[0], size))
    return tuple(
        TunedPoint(
            float(np.exp(tried.log_size[i, 0])),
            float(np.exp(tried.log_size[i, 1])),
            tuple(tried.runs.rows[k] for k in tried.kept[tried.at == i]),
            {letter: float(np.exp(tried.best_x[i, j])) for j, letter in enumerate(tried.letters)},
            {letter: _setting(optima[:, i, j], level) for j, letter in enumerate(tried.letters)},
            BestSetting(float(at_best[i]), *interval(unreached[:, i], level)),
            tried.diverged[i],
        )
        for i in range(len(tried.best))
    )


def _runs_of(runs: "Runs | pd.DataFrame", columns: dict[str, Any]) -> Runs:
    if isinstance(runs, Runs):
        return as_runs(runs, **columns)
    found = {letter: name for letter, name in SETTINGS.items() if letter not in columns and name in runs}
    given = {letter: name for letter, name in {**found, **columns}.items() if name is not None}
    return Runs(runs, **{"duplicates": "keep", **given})


def _varied(runs: Runs, point: NDArray[np.int64]) -> tuple[str, ...]:
    """The settings that vary within a point. Raises UserError where the learning rate does not."""
    if "lr" not in runs.values:
        raise UserError("response_surface needs the column of the learning rate: lr=COLUMN")
    given = [letter for letter in SETTINGS if letter in runs.values]
    for letter in given:
        if not (runs.column(letter) > 0).all():
            name, row = runs.conventions[letter], runs.rows[int(np.flatnonzero(~(runs.column(letter) > 0))[0])]
            raise UserError(f"column {name!r} must be above 0; row {row} is not")
    letters = tuple(
        letter for letter in given if any(np.ptp(runs.column(letter)[point == i]) > 0 for i in np.unique(point))
    )
    if "lr" not in letters:
        raise UserError("response_surface: no point has runs with two learning rates")
    return letters


def _points_of(runs: Runs, point: Any) -> tuple[NDArray[np.int64], Sequence[str]]:
    """[runs]: a number for each label, or for each cluster of N and D separated by gaps of more than `SAME`.

    Also returns the labels by number.
    """
    if point is not None:
        given = np.asarray(point).astype(str)
        if given.shape != (len(runs),):
            raise UserError(f"point must hold {len(runs)} labels; got shape {given.shape}")
        names, number = np.unique(given, return_inverse=True)
        return np.asarray(number), [str(name) for name in names]
    labels = []
    for column in (np.log(runs.N), np.log(runs.D)):
        order = np.argsort(column)
        label = np.empty(len(column), np.int64)
        label[order] = np.concatenate([[0], np.cumsum(np.diff(column[order]) > SAME)])
        labels.append(label)
    places, number = np.unique(np.stack(labels, 1), axis=0, return_inverse=True)
    return np.asarray(number.ravel()), [""] * len(places)


def _optima(theta: Array, settings: Settings, tried: Array) -> Array:
    """[n, points, dims] ln settings."""
    return theta[:, SHAPES:].reshape(len(theta), settings.points, -1) + tried


def _setting(y: Array, level: float) -> BestSetting:
    low, high = interval(y[1:], level)
    return BestSetting(float(np.exp(y[0])), float(np.exp(low)), float(np.exp(high)))
