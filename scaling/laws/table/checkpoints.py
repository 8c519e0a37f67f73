"""Which rows of a table are checkpoints of one training run, and so not independent."""

import re
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Labels
from scaling.laws.table.seen import Table, unread
from scaling.laws.table.words import choice

Checkpoints = Literal["all", "last"]

RUN_NAME = r"(.*[_./ ])?(run|runs|name|id|uid|job|trial|run_?name|run_?id)"
STEP = r"((global|training)_)?step|checkpoint|ckpt|iter(ation)?"
LEAST_CHECKPOINTS = 3
"""median rows per run from which rows count as checkpoints, where a column names the run"""
LEAST_UNNAMED, EVEN, SHARE = 4, 0.02, 0.8
"""the same where no column does; tolerance of token steps around their median, and the share of steps that must be
within it: runs log at even steps, whereas designs double their tokens"""
BY_RUNS = "resample whole runs if there are enough, since rows of one are not independent"


def checkpoints_of(runs: Table) -> tuple[str | None, NDArray[np.str_]] | None:
    """The column that shows that rows are checkpoints of training runs, and its labels: one N each, rising tokens.

    Without such a column (None), rows whose tokens rise in even steps: consecutive rows of one N, else all rows of
    it.
    """
    if not {"N", "D"} <= runs.values.keys():
        return None
    for name, labels in runs.labels.items():
        if re.fullmatch(RUN_NAME, name.lower()) and _are_runs(runs, labels):
            return name, labels
    for groups in (_stretches(runs), np.unique(runs.N, return_inverse=True)[1].ravel()):
        if _rise_evenly(runs, groups):
            return None, np.array([f"{runs.N[i]:.4g}-{group}" for i, group in enumerate(groups)])
    return None


def checkpoints_note(name: str | None, runs: int, rows: int) -> str:
    """The note where rows were treated as checkpoints; name: of the column that shows it."""
    if name is not None:
        return (
            f"the {rows} rows are checkpoints of {runs} runs, told apart by {choice('run', name)}: intervals "
            f"{BY_RUNS}; {_alone()}"
        )
    return (
        f"the {rows} rows look like checkpoints of {runs} runs (tokens rise in even steps at one N) and are treated "
        f"as such: intervals {BY_RUNS}; if they are separate runs, name a column that tells them apart: "
        f"{choice('run', 'COLUMN')}; {_alone()}"
    )


def _alone() -> str:
    return (
        "losses are higher before the learning rate has fallen: "
        f"{choice('checkpoints', 'last')} uses only the last row of each run"
    )


def earlier_rows(runs: Table, found: tuple[str | None, NDArray[np.str_]] | None) -> tuple[str | None, dict[int, str]]:
    """The column that names training runs, and the rows that are not the last of their run, by position and reason.

    found: as from `checkpoints_of`. Raises UserError where nothing shows which run a row belongs to.
    """
    if found is None or "D" not in runs.values:
        raise UserError(
            f"{choice('checkpoints', 'last')} needs to know which run each row belongs to: name the column that "
            f"identifies the run, {choice('run', 'COLUMN')}, and that of the tokens"
        )
    name, labels = found
    last = {str(labels[i]): int(i) for i in np.argsort(runs.D, kind="stable")}
    early = set(range(len(labels))) - set(last.values())
    return name, dict.fromkeys(sorted(early), "not the last checkpoint of its run")


def last_rows_note(name: str | None, runs: int, rows: int) -> str:
    """The note where only the last row of each training run was used."""
    by = "tokens that rise in even steps at one N" if name is None else choice("run", name)
    return f"{runs} of {rows} rows are used, the last of each run (told apart by {by})"


def step_notes(df: Any, runs: Table) -> Iterator[str]:
    """Notes for a table that has a column of steps and does not name the training run of each row."""
    for name in unread(df, runs, STEP):
        yield (
            f"the table has a column {name}: if rows are checkpoints of one run, they are not independent and "
            f"intervals are too narrow; name the column that identifies the run: {choice('run', 'COLUMN')}"
        )


def _are_runs(runs: Table, labels: NDArray[np.str_]) -> bool:
    sizes = []
    for label in np.unique(labels):
        rows = labels == label
        if len(np.unique(runs.N[rows])) > 1 or len(np.unique(runs.D[rows])) < rows.sum():
            return False
        sizes.append(int(rows.sum()))
    return float(np.median(sizes)) >= LEAST_CHECKPOINTS


def _stretches(runs: Table) -> Labels:
    """[rows]: a number for each stretch of consecutive rows with one N and rising D."""
    goes_on = (runs.N[1:] == runs.N[:-1]) & (runs.D[1:] > runs.D[:-1])
    return np.concatenate([[0], np.cumsum(~goes_on)]).astype(np.int64)


def _rise_evenly(runs: Table, groups: Labels) -> bool:
    """Whether the tokens of most groups rise in even steps, and groups have several rows."""
    even, sizes = [], []
    for group in np.unique(groups):
        D = np.unique(runs.D[groups == group])
        sizes.append(len(D))
        if len(D) >= LEAST_UNNAMED:
            steps = np.diff(D)
            even.append(float(np.mean(np.abs(steps / np.median(steps) - 1) < EVEN)) >= SHARE)
    return bool(even) and float(np.median(sizes)) >= LEAST_UNNAMED and float(np.mean(even)) >= SHARE
