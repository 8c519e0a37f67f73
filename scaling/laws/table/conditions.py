"""Which rows of a table meet a condition given by the user."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaling.errors import UserError
from scaling.names import nearest

if TYPE_CHECKING:
    import pandas as pd


def meets(table: "pd.DataFrame", condition: str) -> NDArray[np.bool_]:
    """Whether each row meets the condition; columns whose names hold dots, slashes and the like (`optimizer.b2`,
    `eval/loss`) are written as they are.

    `optimizer.clip_norm.isna()` selects rows where a key is unset.

    Raises UserError for an invalid condition.
    """
    text = _with_quoted_names(condition, [str(name) for name in table.columns])
    try:
        found = np.asarray(table.eval(text))
    except Exception as error:  # pandas passes on whatever its parser raises
        why = " ".join(f"{error}".split())
        raise UserError(
            f"cannot read the condition {condition!r}: {why}; {_columns_near(table, condition)}"
        ) from None
    if found.dtype != np.bool_ or found.shape != (len(table),):
        raise UserError(f"the condition {condition!r} is not true or false for each row; write for example 'x == 1'")
    return found


def _with_quoted_names(condition: str, columns: Sequence[str]) -> str:
    """The condition with columns that are no Python names in backticks, except inside string literals."""
    odd = sorted((name for name in columns if name and not name.isidentifier()), key=len, reverse=True)
    if not odd:
        return condition
    names = "|".join(rf"(?<![\w.]){re.escape(name)}(?!\w)" for name in odd)
    texts = r"""'[^']*'|"[^"]*"|`[^`]*`"""
    return re.sub(f"({texts})|({names})", lambda found: found[1] or f"`{found[2]}`", condition)


def _columns_near(table: "pd.DataFrame", condition: str) -> str:
    """The columns that a condition may have meant; all columns where none is similar."""
    columns = [str(name) for name in table.columns]
    words = [word for word in re.findall(r"[A-Za-z_][\w.]*", condition) if word not in columns]
    near = dict.fromkeys(name for word in words for name in nearest(word, columns))
    return f"did you mean {' or '.join(near)}?" if near else f"the table has {', '.join(columns)}"
