"""Fits, draws and predictions as pandas DataFrames, and draws for ArviZ."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.distribution import with_extra
from scaling.errors import UserError
from scaling.laws.forms.form import GROUP
from scaling.laws.intervals.prediction import interval_of, predicted_loss
from scaling.laws.quantities import derived, quantities
from scaling.laws.solve.draws import Draws
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.table.given import columns_of
from scaling.laws.table.reading import number_column, unit_of

if TYPE_CHECKING:
    import pandas as pd


def parameter_frame(fit: FittedLaw, level: float) -> "pd.DataFrame":
    """See `Fit.to_frame`."""
    import pandas as pd

    values = {**fit.params, **_derived(fit, fit.natural)}
    frame = pd.DataFrame({"value": {name: float(value) for name, value in values.items()}})
    if fit.draws is not None:
        frame = frame.join(interval_frame(fit, level))
    frame["fixed"] = [name in fit.fixed for name in frame.index]
    return frame.rename_axis("parameter")


def interval_frame(fit: FittedLaw, level: float) -> "pd.DataFrame":
    """See `Fit.conf_int`."""
    import pandas as pd

    names = [*fit.form.params, *derived(fit.form, at_budget=False)]
    ends = [interval_of(fit, name, level) for name in names]
    return pd.DataFrame(ends, index=pd.Index(names, name="parameter"), columns=["low", "high"])


def draws_frame(fit: FittedLaw) -> "pd.DataFrame":
    """See `Fit.draws_frame`."""
    import pandas as pd

    samples = _require_draws(fit).samples
    values = dict(zip(fit.form.params, samples.T, strict=True)) | _derived(fit, samples)
    return pd.DataFrame(values).rename_axis("draw")


def to_arviz(fit: FittedLaw) -> Any:
    """See `Fit.to_arviz`."""
    draws = _require_draws(fit)
    try:
        from arviz_base import from_dict
    except ImportError:
        raise UserError(f"to_arviz needs ArviZ: pip install arviz-base (or {with_extra('arviz')})") from None
    posterior = {name: column.to_numpy()[None] for name, column in draws_frame(fit).items()}
    tree = from_dict({"posterior": posterior})
    tree["posterior"].attrs.update({"law": fit.form.name, "kind": draws.kind, "data": fit.runs.hash})
    return tree


def predicted_frame(fit: FittedLaw, table: "pd.DataFrame", level: float) -> "pd.DataFrame":
    """See `Fit.predict`."""
    import pandas as pd

    given = columns_of(table)
    columns: dict[str, Any] = {letter: _column(fit, given, letter) for letter in fit.form.columns}
    found = predicted_loss(fit, columns, level)
    values: Mapping[str, Any] = {"loss": found.loss}
    if found.level is not None:
        runs = {"run_low": found.run_low, "run_high": found.run_high}
        values = {**values, "low": found.low, "high": found.high, **runs}
    return pd.DataFrame(values, index=table.index if isinstance(table, pd.DataFrame) else None)


def _column(fit: FittedLaw, table: Mapping[str, np.ndarray[Any, Any]], letter: str) -> np.ndarray[Any, Any]:
    """The column that a law reads under that letter, by its name in the runs or by the letter itself."""
    named = fit.runs.conventions.get(letter, letter)
    for name, unit in ((named, unit_of(letter, named)), (letter, 1.0)):
        if name in table and letter == GROUP:
            return table[name]
        if name in table:
            values = np.atleast_1d(table[name])
            return number_column(values, name, [str(row) for row in range(values.size)], unit)
    if letter == GROUP and (label := _label_column(fit, table)):
        return table[label]
    if letter == "C" and "C" not in fit.runs.values:
        return 6.0 * _column(fit, table, "N") * _column(fit, table, "D")
    if letter == "M":
        return np.asarray(_column(fit, table, "D") / _column(fit, table, "N"))
    raise UserError(
        f"predict: {fit.form.name} reads {letter}, which was {named!r} in its runs; the table has "
        f"{', '.join(table)}: rename one to {letter}"
    )


def _label_column(fit: FittedLaw, table: Mapping[str, Any]) -> str | None:
    """The column of the table by which the runs of a pooled fit were told apart."""
    assert fit.form.pooling is not None
    groups = np.array(fit.form.pooling.groups)[fit.runs.column(GROUP).astype(int) - 1]
    same = (name for name, labels in fit.runs.labels.items() if name in table and np.array_equal(labels, groups))
    return next(same, None)


def _derived(fit: FittedLaw, natural: np.ndarray[Any, Any]) -> dict[str, Any]:
    return dict(quantities(fit.form, natural, derived(fit.form, at_budget=False)))


def _require_draws(fit: FittedLaw) -> Draws:
    if fit.draws is None:
        raise UserError("no draws yet: call fit.bootstrap() or fit.draw() first")
    return fit.draws
