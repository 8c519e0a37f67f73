"""Whether the learning rate of each point of a sweep is the best one, by the runs that tried others."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scaling.errors import UserError
from scaling.validity import BETTER, Verdict

if TYPE_CHECKING:
    import pandas as pd

TuningState = Literal["tuned", "bracketed", "untuned"]

FACTOR = "learning_rate_factor"  # in a label: times the learning rate that the run would have
RATE = "optimizer.learning_rate"  # in a label of a grid that varies it
ENOUGH = 0.001  # share of the loss: largest possible gain where a rate counts as tuned; seeds scatter by as much
SURFACE_DRAWS = 1000
CERTIFICATE = (
    "best_rate", "best_rate_low", "best_rate_high", "tuning_gain", "tuning_gain_low", "tuning_gain_high"
)  # fmt: skip
WIDEST = 4.0  # factor between neighbouring rates beyond which a parabola says little about the loss between them


@dataclass(frozen=True)
class Tuning:
    """The verdict on the best of several learning rates, from their losses."""

    state: TuningState
    """tuned: better than both neighbours, with little to gain between them; bracketed: better than both neighbours;
    untuned: no rate was tried on one side, or on both"""
    note: str
    """why it is not tuned; empty where it is"""
    best: float | None
    """the key of the best loss; None where no run has a loss"""


def judge_rates(losses: Mapping[float, float], what: str = "learning rate") -> Tuning:
    """The state of a point by its loss at each rate.

    losses: by rate or by factor, more than 0; infinite where training diverged. what: which of the two, for the note.

    A parabola through log loss against log rate at the best and its neighbours estimates the possible gain.
    """
    rates = sorted(losses)
    if not rates or math.isinf(min(losses.values())):
        return Tuning("untuned", f"no {what} has a result", None)
    middle = math.sqrt(rates[0] * rates[-1])
    best = min(rates, key=lambda rate: (losses[rate], abs(math.log(rate / middle))))
    if len(rates) == 1:
        return Tuning("untuned", f"only one {what} was tried", best)
    i = rates.index(best)
    if i in (0, len(rates) - 1):
        beyond = best**2 / rates[1 if i == 0 else -2]
        side = "smallest" if i == 0 else "largest"
        return Tuning("untuned", f"the best {what} is the {side} tried, {best:.3g}; add {beyond:.3g}", best)
    low, high = rates[i - 1], rates[i + 1]
    if (step := max(best / low, high / best)) > WIDEST:
        return Tuning("bracketed", f"the {what} next to the best is a factor {step:.3g} away; add one between", best)
    if lost := [rate for rate in (low, high) if math.isinf(losses[rate])]:
        return Tuning("bracketed", f"{what} {lost[0]:.3g}, next to the best, diverged; add one between", best)
    at, gain = _vertex([low, best, high], [losses[rate] for rate in (low, best, high)])
    if gain > ENOUGH:
        return Tuning("bracketed", f"{what} {at:.3g} would lower the loss by about {gain:.2%}", best)
    return Tuning("tuned", "", best)


def _vertex(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """The rate at the minimum of a parabola through three points, the lowest in the middle, and the gain there as a
    share of the middle's loss."""
    x, y = np.log(np.divide(rates, rates[1])), np.log(np.divide(losses, losses[1]))
    curvature, slope, _ = np.polyfit(x, y, 2)
    if curvature <= 0:  # the three are the same
        return rates[1], 0.0
    at = -slope / (2 * curvature)
    return float(rates[1] * np.exp(at)), float(-np.expm1(slope * at / 2))


def tuning_columns(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[Mapping[str, Any]], left_out: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Columns of `load_runs` for each of `rows`; `labels` have what the design requested.

    left_out: ids of runs that the user excludes.

    Runs of one sweep whose labels differ only in learning rate and seed form a point. Its loss at a rate is the
    geometric mean over the seeds that have a result at every rate (over all seeds, if there is no such seed),
    infinite where one of them diverged; all seeds of a point share one best rate.

    learning_rate_factor: factor on the rule's rate, NaN where the sweep did not vary it that way.
    point: the label without learning rate and seed; empty, as are the others, for excluded runs.
    tuning, tuning_note: of the point, as in Tuning.
    better_run: id of the run to be fitted in place of this one; empty where it is this one.
    """
    points: dict[tuple[str, str], list[int]] = {}
    columns: list[dict[str, Any]] = []
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        point = ", ".join(f"{key}={value}" for key, value in label.items() if key not in (FACTOR, RATE, "seed"))
        plays = row["role"] == "fit" and bool(label) and row["run_id"] not in left_out
        columns.append(
            {FACTOR: label.get(FACTOR, math.nan), "point": point if plays else "", "tuning": "", "tuning_note": ""}
            | {"better_run": ""}
        )
        if plays:
            points.setdefault((row["sweep"], point), []).append(i)
    for members in points.values():
        what, key = ("factor", FACTOR) if FACTOR in labels[members[0]] else ("learning rate", "")
        values = {i: labels[i][key] if key else rows[i]["learning_rate"] for i in members}
        found = judge_rates(_mean_losses(rows, values), what)
        for i in members:
            columns[i] |= {"tuning": found.state, "tuning_note": found.note}
            if found.best is not None and values[i] != found.best:
                columns[i]["better_run"] = _instead(rows, [j for j in members if values[j] == found.best], rows[i])
    return columns


def certified(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the columns of their sweep's `certificates`, NaN where there is none."""
    sweeps: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        sweeps.setdefault(row["sweep"], []).append(row)
    found, none = {name: certificates(own) for name, own in sweeps.items()}, dict.fromkeys(CERTIFICATE, math.nan)
    return [{**row, **found[row["sweep"]].get(row["run_id"], none)} for row in rows]


def certificates(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Columns of `load_runs` for those runs of one sweep whose point tried several rates, by run id.

    best_rate: the learning rate of lowest loss at the run's point by a response surface of all points
    (`laws.response_surface`), best_rate_low and best_rate_high its 90 % interval, which ends where training diverged.
    tuning_gain, tuning_gain_low, tuning_gain_high: the relative excess loss of the point's best run over that
    optimum. Empty for a sweep whose points do not share one recipe.
    """
    import pandas as pd

    from scaling import laws

    rates: dict[str, set[float]] = {}
    for row in rows:
        if row["point"] and row["status"] == "completed":
            rates.setdefault(row["point"], set()).add(row["learning_rate"])
    if not any(len(tried) > 1 for tried in rates.values()):
        return {}
    table = pd.DataFrame(rows)
    try:
        surface = laws.response_surface(table, n=SURFACE_DRAWS)
    except UserError:
        return {}
    found: dict[str, dict[str, float]] = {}
    for point in surface.points:
        best, gain = point.best["lr"], point.gain
        values = zip(CERTIFICATE, (best.value, best.low, best.high, gain.value, gain.low, gain.high), strict=True)
        labels = table["point"][table["run_id"].isin(point.rows)]
        columns = dict(values)
        found |= {str(run_id): columns for run_id in table["run_id"][table["point"].isin(labels)]}
    return found


def tuning_verdicts(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Mapping[str, Any]]
) -> list[tuple[Verdict, ...]]:
    """Verdicts on each of `rows` from the rates that were tried, by its `tuning_columns`; empty for most.

    A run at a rate that is not the best of its point is to be left out; the best is untuned where no rate was tried
    on one side. For a sweep that tried one rate everywhere there are no verdicts on single runs.
    """
    tried = {
        row["sweep"]
        for row, of in zip(rows, columns, strict=True)
        if of["better_run"] or of["tuning"] in ("tuned", "bracketed")
    }
    found: list[tuple[Verdict, ...]] = []
    for row, of in zip(rows, columns, strict=True):
        if of["better_run"] and row["status"] == "completed":
            found.append((Verdict("excluded", f"{BETTER}: {of['better_run']}"),))
        elif of["tuning"] == "untuned" and row["sweep"] in tried:
            found.append((Verdict("untuned", of["tuning_note"]),))
        else:
            found.append(())
    return found


def _mean_losses(rows: Sequence[Mapping[str, Any]], values: Mapping[int, float]) -> dict[float, float]:
    """The loss at each rate of the runs `values` (position to rate)."""
    measured: dict[float, dict[int, float]] = {}
    for i, value in values.items():
        loss = math.inf if rows[i]["status"] == "diverged" else rows[i]["loss"]
        if rows[i]["status"] != "failed" and loss is not None:
            measured.setdefault(value, {})[rows[i]["seed"]] = loss
    shared = set.intersection(*(set(of_seed) for of_seed in measured.values())) if measured else set()
    return {
        value: math.exp(np.mean([math.log(loss) for seed, loss in of_seed.items() if not shared or seed in shared]))
        for value, of_seed in measured.items()
    }


def _instead(rows: Sequence[Mapping[str, Any]], best: Sequence[int], row: Mapping[str, Any]) -> str:
    """Id of the run at the best rate with the seed of `row`, or of the first."""
    same = [i for i in best if rows[i]["seed"] == row["seed"]]
    return str(rows[[*same, *best][0]]["run_id"])


def tuning_lines(runs: "pd.DataFrame") -> list[str]:
    """A line for each point of a table by `load_runs` that is not tuned."""
    if "tuning" not in runs:  # no run has a result
        return []
    rows = runs[runs["tuning"].isin(("untuned", "bracketed"))].drop_duplicates(["sweep", "point"])
    return [
        f"{row['point']}: {row['tuning']}: {row['tuning_note']}{_certified(row)}" for row in rows.to_dict("records")
    ]


def certificate_cells(row: Mapping[Any, Any]) -> tuple[str, str] | None:
    """The best rate and its gain, with intervals; None where there is no certificate."""
    if math.isnan(row.get("best_rate", math.nan)):
        return None
    best, low, high, gain, least, most = (row[name] for name in CERTIFICATE)
    return f"{best:.3g} [{low:.3g}, {high:.3g}]", f"{gain:.2%} [{least:.2%}, {most:.2%}]"


def _certified(row: Mapping[Any, Any]) -> str:
    cells = certificate_cells(row)
    return f"; best learning rate {cells[0]}, which would lower the loss by {cells[1]}" if cells else ""
