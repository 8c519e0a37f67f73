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
from scaling.laws.table.reading import in_ones, unit_of

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

    columns: dict[str, Any] = {letter: _column(fit, table, letter) for letter in fit.form.columns}
    found = predicted_loss(fit, columns, level)
    values: Mapping[str, Any] = {"loss": found.loss}
    if found.level is not None:
        runs = {"run_low": found.run_low, "run_high": found.run_high}
        values = {**values, "low": found.low, "high": found.high, **runs}
    return pd.DataFrame(values, index=table.index)


def _column(fit: FittedLaw, table: "pd.DataFrame", letter: str) -> np.ndarray[Any, Any]:
    """The column that a law reads under that letter, by its name in the runs or by the letter itself."""
    named = fit.runs.conventions.get(letter, letter)
    for name, unit in ((named, unit_of(letter, named)), (letter, 1.0)):
        if name in table and letter == GROUP:
            return np.asarray(table[name])
        if name in table:
            return np.array([in_ones(value, unit) for value in table[name]])
    if letter == "C" and "C" not in fit.runs.values:
        return 6.0 * _column(fit, table, "N") * _column(fit, table, "D")
    if letter == "M":
        return np.asarray(_column(fit, table, "D") / _column(fit, table, "N"))
    raise UserError(
        f"predict: {fit.form.name} reads {letter}, which was {named!r} in its runs; the table has "
        f"{', '.join(map(str, table.columns))}: rename one to {letter}"
    )


def _derived(fit: FittedLaw, natural: np.ndarray[Any, Any]) -> dict[str, Any]:
    return dict(quantities(fit.form, natural, derived(fit.form, at_budget=False)))


def _require_draws(fit: FittedLaw) -> Draws:
    if fit.draws is None:
        raise UserError("no draws yet: call fit.bootstrap() or fit.draw() first")
    return fit.draws
