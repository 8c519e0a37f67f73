"""What the checks of a table read: the runs made from it, and the columns that no letter uses."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scaling.laws.arrays import Array

FEWEST_TOKENS = 0.05
"""median tokens per parameter below which a note is made: only the ends of wide isoFLOP grids have fewer"""


class Table(Protocol):
    """The part of `Runs` that the checks read."""

    @property
    def values(self) -> Mapping[str, Array]: ...
    @property
    def conventions(self) -> Mapping[str, str]: ...
    @property
    def labels(self) -> Mapping[str, NDArray[np.str_]]: ...
    @property
    def rows(self) -> Sequence[str]: ...
    @property
    def N(self) -> Array: ...
    @property
    def D(self) -> Array: ...
    @property
    def C(self) -> Array | None: ...
    @property
    def loss(self) -> Array: ...
    def __len__(self) -> int: ...


def unread(df: Any, runs: Table, *patterns: str) -> Iterator[str]:
    """The columns whose name (the last part of a path with slashes or dots, in lower case) is one of these."""
    for name in (str(name) for name in getattr(df, "columns", df)):
        last = re.split(r"[/.]", name)[-1].lower()
        if name not in runs.conventions.values() and any(re.fullmatch(pattern, last) for pattern in patterns):
            yield name


def number_or_none(values: Any) -> Array | None:
    """The column as float64; None where it holds something else."""
    column = np.asarray(values)
    return column.astype(np.float64) if column.dtype.kind in "iuf" else None
