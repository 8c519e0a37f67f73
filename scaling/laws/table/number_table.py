"""The columns of a user's table as numbers, and its rows that are not valid runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.laws.arrays import Array
from scaling.laws.table.given import text_column
from scaling.laws.table.reading import (
    Duplicates,
    Missing,
    duplicate_pairs,
    find_columns,
    number_column,
    refuse_duplicates,
    require_range,
    unit_of,
)

ROLES = ("N", "D", "loss", "C", "sigma")
"""columns with a meaning of their own; laws of other quantities name theirs"""


@dataclass(frozen=True)
class NumberTable:
    """The numbers of a table."""

    names: Mapping[str, str]
    """of columns, by letter"""
    rows: tuple[str, ...]
    """label of each"""
    values: Mapping[str, Array]
    """as plain counts; NaN where missing"""
    run: NDArray[np.str_] | None
    notes: tuple[str, ...]

    def unfit(
        self, df: Mapping[str, NDArray[Any]], signed: bool, duplicates: Duplicates, missing: Missing
    ) -> dict[int, str]:
        """The rows to leave out, by position and reason: missing values and duplicate rows, where requested.

        Raises UserError for values that no run can have, and for duplicate rows that are not to be dropped or kept.
        """
        gone: dict[int, str] = {}
        if missing == "drop":
            for key, column in self.values.items():
                gone |= dict.fromkeys(np.flatnonzero(np.isnan(column)).tolist(), f"{self.names[key]} is missing")
        out = [i in gone for i in range(len(self.rows))]
        for key, column in self.values.items():
            positive = key in ROLES and (key != "loss" or not signed)
            require_range(column, df[self.names[key]], self.names[key], self.rows, positive, out)
        if duplicates == "keep":
            return gone
        compared = [*(column for key, column in self.values.items() if key != "sigma")]
        pairs = duplicate_pairs(compared if self.run is None else [*compared, self.run])
        pairs = [pair for pair in pairs if pair[1] not in gone]
        if duplicates == "error":
            refuse_duplicates(pairs, df, self.rows)
        return gone | {i: f"the same run as row {self.rows[first]}" for first, i in pairs}


def number_table(
    df: Mapping[str, NDArray[Any]],
    rows: Callable[[int], tuple[str, ...]],
    names: Mapping[str, Any],
    reads: Sequence[str] | None,
) -> NumberTable:
    """Read the columns of a table as numbers; rows: their labels, from their number; names, reads: as in
    `find_columns`.

    Raises UserError for a missing column, a table without rows, columns of different lengths, and values that are not
    numbers.
    """
    known, notes = find_columns(df, names, reads)
    for name in known.values():
        if df[name].ndim != 1:
            raise UserError(
                f"column {name!r} must have one value a row, got shape {df[name].shape}; are there two columns of "
                "that name?"
            )
    if not (count := len(df[known["loss"]])):
        raise UserError("the table has no rows, only columns")
    labels = rows(count)
    others = sorted(known.keys() - {*ROLES, "run"})
    units = {key: unit_of(key, known[key]) for key in (*ROLES, *others) if key in known}
    notes += tuple(f"{known[key]} is in units of {unit:g}, by its name" for key, unit in units.items() if unit != 1)
    values = {key: number_column(df[known[key]], known[key], labels, unit) for key, unit in units.items()}
    run = text_column(df[known["run"]]) if "run" in known else None
    lengths = {key: len(column) for key, column in values.items()} | ({} if run is None else {"run": len(run)})
    if len(set(lengths.values())) > 1:
        raise UserError(f"columns differ in length: {lengths}")
    return NumberTable(known, labels, values, run, notes)
