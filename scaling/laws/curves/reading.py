"""Loss curves from a table with a row for each checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from scaling.errors import UserError
from scaling.laws.curves.curve import LossCurve
from scaling.laws.table.conditions import meets
from scaling.laws.table.given import columns_of
from scaling.laws.table.losses import refuse_perplexities
from scaling.laws.table.reading import number_column, unit_of
from scaling.laws.table.text_table import read_table
from scaling.names import several

if TYPE_CHECKING:
    import pandas as pd

    from scaling.laws.arrays import Array

USUAL = {"run": "run", "step": "step", "rate": "learning_rate", "loss": "loss"}


AnyCurves: TypeAlias = "Sequence[LossCurve] | pd.DataFrame | Mapping[str, ArrayLike] | str | Path"

MOST_STEPS = 10**8
"""largest number of steps of a curve, each of which has a rate"""


def read_curves(
    table: "pd.DataFrame | Mapping[str, ArrayLike] | str | Path",
    where: Sequence[str] = (),
    *,
    run: str = USUAL["run"],
    step: str = USUAL["step"],
    rate: str = USUAL["rate"],
    loss: str = USUAL["loss"],
    N: str | None = None,
    cluster: str | None = None,
    warmup: int = 0,
    trusted: bool = False,
) -> list[LossCurve]:
    """The curves of a DataFrame or CSV file, by the names of its columns.

    A row has the learning rate at a step of a run, counted in updates from 1, and optionally the loss there. Between
    rows the rate is interpolated linearly. Before the first row it is constant, except for `warmup` steps in which it
    rises from 0: for a table that begins after the warmup, give its length.

    where, trusted: as in `laws.read_csv`. Raises UserError for a missing column, for final losses that look like
    perplexities, and as `LossCurve` does.
    """
    df = _frame_of(table)
    for condition in several(where):
        df = df[meets(df, condition)]
    named = {"run": run, "step": step, "rate": rate, "loss": loss, "N": N, "cluster": cluster}
    missing = [f"{letter}={name!r}" for letter, name in named.items() if name is not None and name not in df.columns]
    if missing or not len(df):
        what = f"has no column {', '.join(missing)}; it has" if missing else "has no row of"
        raise UserError(f"the table of curves {what} {', '.join(map(str, df.columns))}")
    curves = [_curve(str(label), rows, named, warmup) for label, rows in df.groupby(run, sort=False)]
    if not trusted and (last := [curve.loss[-1] for curve in curves if len(curve.loss)]):
        refuse_perplexities(np.array(last), loss)
    return curves


def as_curves(curves: AnyCurves) -> list[LossCurve]:
    """Curves as they are, or those of a table or a table's file with the usual names of columns.

    Raises UserError as `read_curves` does, and for anything else.
    """
    if isinstance(curves, Mapping | str | Path) or hasattr(curves, "columns"):
        return read_curves(curves)  # type: ignore[arg-type]
    if unknown := [curve for curve in curves if not isinstance(curve, LossCurve)]:
        raise UserError(f"expected loss curves, as of laws.read_curves(table); got {type(unknown[0]).__name__}")
    return list(curves)


def _frame_of(table: Any) -> "pd.DataFrame":
    import pandas as pd

    if isinstance(table, str | Path):
        return read_table(table)
    return table if isinstance(table, pd.DataFrame) else pd.DataFrame(columns_of(table))


def _curve(label: str, rows: "pd.DataFrame", named: dict[str, str | None], warmup: int) -> LossCurve:
    labels = [str(row) for row in rows.index]

    def numbers(letter: str) -> "Array":
        name = str(named[letter])
        return number_column(rows[name], name, labels, unit_of(letter, name))

    def same(letter: str) -> Any:
        values = rows[named[letter]].unique() if named[letter] else [None]
        if len(values) > 1:
            raise UserError(f"{label}: column {named[letter]!r} has several values, {values[0]} and {values[1]}")
        return values[0]

    at, rates, loss = numbers("step"), numbers("rate"), numbers("loss")
    order = np.argsort(at, kind="stable")
    at, rates, loss = at[order], rates[order], loss[order]
    if np.isnan(at).any() or np.isnan(rates).any() or at[0] < 1:
        raise UserError(f"{label}: every row needs a step of 1 or more and a learning rate")
    if at[-1] > MOST_STEPS:
        raise UserError(f"{label}: step {at[-1]:g}; a curve has at most {MOST_STEPS:,} steps")
    updates = np.arange(1, int(at[-1]) + 1)
    each = np.interp(updates, at, rates) * np.minimum(updates / max(warmup, 1), 1.0)
    there, N, cluster = ~np.isnan(loss), same("N"), same("cluster")
    return LossCurve(
        label,
        each,
        at[there],
        loss[there],
        None if N is None else float(N),
        None if cluster is None else str(cluster),
    )
