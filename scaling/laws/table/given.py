"""A table as its user has it: a DataFrame of pandas or polars, or a mapping of columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError

UNSET = frozenset({"None", "nan", "<NA>", "NaT"})
"""texts of the values that stand for a missing one"""


def columns_of(df: Any) -> dict[str, NDArray[Any]]:
    """The columns of a table by name, as arrays: [rows], unless its user gave something else.

    Names are texts, for numbers and the tuples of a MultiIndex, too. Raises UserError for an object that is not a
    table, and as `require_same_rows` does.
    """
    if not (isinstance(df, Mapping) or hasattr(df, "columns")):
        raise UserError(
            f"expected a table or a mapping of columns, got {type(df).__name__}; with arrays, give "
            '{"params": N, "tokens": D, "loss": loss}; with a file, laws.read_csv(path)'
        )
    if isinstance(df, Mapping):
        require_same_rows(df)
    try:
        return {str(name): array_of(df[name]) for name in getattr(df, "columns", df)}
    except TypeError:  # tables without columns by name, such as those of Arrow and lazy ones of polars
        raise UserError(f"cannot read the columns of a {type(df).__name__}; make it a DataFrame first") from None


def array_of(values: Any) -> NDArray[Any]:
    """A column as an array; what NumPy would drop (masks) or refuse (lists of several lengths) becomes objects."""
    if isinstance(values, np.ma.MaskedArray):
        column = values.data.astype(object)
        column[np.ma.getmaskarray(values)] = None
        return column
    try:
        return np.asarray(values)
    except ValueError:
        column = np.empty(len(values), object)
        column[:] = list(values)
        return column


def require_same_rows(columns: Mapping[str, Any]) -> None:
    """Raises UserError where two of the columns are Series of pandas (or a DataFrame) with different indexes: arrays
    made of them would pair rows that do not belong together."""
    labelled = {name: values.index for name, values in columns.items() if hasattr(values, "iloc")}
    for name, index in labelled.items():
        first, other = next(iter(labelled.items()))
        if not index.equals(other):
            raise UserError(
                f"the indexes of {first} and {name} differ, so rows would be paired that do not belong together; "
                "make one table of them, pandas.DataFrame({…}), or give arrays"
            )


def is_missing(value: object) -> bool:
    """Whether a value of a column stands for none: None, or pandas' NA or NaT."""
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def row_labels(df: Any, count: int) -> tuple[str, ...]:
    """The index of a DataFrame, or the numbers of its rows."""
    return tuple(str(label) for label in getattr(df, "index", range(count)))


def text_column(values: NDArray[Any]) -> NDArray[np.str_]:
    """A column of anything as texts [rows]."""
    return np.array([str(value) for value in values], np.str_) if values.dtype == object else values.astype(str)


def differing(values: NDArray[Any], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """`a and b` for each pair of rows with different values, neither of which is missing."""
    both = [(str(values[a]), str(values[b])) for a, b in pairs]
    return [f"{a} and {b}" for a, b in both if a != b and UNSET.isdisjoint((a, b))]
