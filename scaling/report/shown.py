"""Which runs of a large sweep a page shows, so that it stays a page: a file takes all of them."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np

from scaling.report.data import CurveLawShown, ReportData, Run
from scaling.report.runs_table import columns_of, order
from scaling.result import write_text_atomically

MOST_RUNS = 300
"""runs in the figures and in the table; with them a page is below 2 MB"""
MOST_EXCLUSIONS = 100
"""most reasons for excluding runs from the fit that are listed one by one"""
CURVE_LAW_POINTS = 3_000
"""of all curves of a law of whole curves together"""


def shown(data: ReportData, page: Path) -> ReportData:
    """`data` with what its page shows of the runs: the runs that test the forecast and, of each budget, those of the
    lowest loss, up to MOST_RUNS together. What was fitted is not changed; `missing` says what is left out."""
    left = len(data.exclusions) - MOST_EXCLUSIONS
    if left > 0:
        more = (f"and {left} more", f"{csv_of(page).name} has all")
        data = replace(data, exclusions=[*data.exclusions[:MOST_EXCLUSIONS], more])
    if len(data.runs) <= MOST_RUNS:
        return replace(data, curve_law=_thinned(data.curve_law, {run.run_id for run in data.runs}))
    kept = {id(run) for run in _choose(data.runs, MOST_RUNS)}
    ids = {(run.sweep, run.run_id) for run in data.runs if id(run) in kept}

    def stays(run: Run) -> bool:
        return (run.sweep, run.run_id) in ids

    note = (
        f"This page shows {len(ids)} of {len(data.runs)} runs: those that test a forecast and, of each budget, those "
        f"of the lowest loss. Laws and minima use all runs; {csv_of(page).name} lists all."
    )
    law = data.law and replace(
        data.law,
        residuals=[(run, value) for run, value in data.law.residuals if stays(run)],
        test_residuals=[(run, value) for run, value in data.law.test_residuals if stays(run)],
    )
    return replace(
        data,
        runs=[run for run in data.runs if stays(run)],
        curves=[curve for curve in data.curves if stays(curve.run)],
        isoflops=[replace(curve, runs=[run for run in curve.runs if stays(run)]) for curve in data.isoflops],
        law=law,
        curve_law=_thinned(data.curve_law, {run_id for _, run_id in ids}),
        missing=[*data.missing, note],
    )


def write_all(page: Path, data: ReportData) -> None:
    """The table of all runs beside a page that does not show them all, with its columns in full precision; beside
    another, none."""
    if len(data.runs) <= MOST_RUNS and len(data.exclusions) <= MOST_EXCLUSIONS:
        return csv_of(page).unlink(missing_ok=True)
    runs, columns, text = data.runs, columns_of(data.runs), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.key for column in columns])
    writer.writerows([column.plain(run) for column in columns] for run in sorted(runs, key=order))
    write_text_atomically(csv_of(page), text.getvalue())


def csv_of(page: Path) -> Path:
    """Where the table of all runs of a page is."""
    return page.with_suffix(".runs.csv")


def _choose(runs: Sequence[Run], most: int) -> list[Run]:
    """The best of every budget, then the second best, and so on; of those that do not all fit, some evenly along the
    budgets. Budgets are equal to within some per cent."""
    budgets: defaultdict[float, list[Run]] = defaultdict(list)
    for run in runs:
        budgets[round(math.log10(run.flops), 1) if run.flops > 0 else math.nan].append(run)
    ranks: defaultdict[int, list[Run]] = defaultdict(list)
    for budget in budgets.values():
        by_loss = sorted(budget, key=lambda run: math.inf if run.loss is None else run.loss)
        for rank, run in enumerate(by_loss):
            ranks[-1 if run.role == "test" else rank].append(run)
    kept: list[Run] = []
    for _, equals in sorted(ranks.items()):
        room = most - len(kept)
        equals.sort(key=lambda run: run.flops)
        kept += [equals[i] for i in np.linspace(0, len(equals) - 1, min(room, len(equals))).astype(int)]
    return kept


def _thinned(law: CurveLawShown | None, ids: Set[str]) -> CurveLawShown | None:
    """A law of whole curves with those of these runs, every so many-th point of each."""
    if law is None:
        return None
    curves = [curve for curve in law.curves if curve[0] in ids]
    every = max(1, sum(len(steps) for _, steps, _, _ in curves) // CURVE_LAW_POINTS)
    return replace(law, curves=[(name, x[::every], y[::every], z[::every]) for name, x, y, z in curves])
