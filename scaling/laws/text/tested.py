"""How a law compares with the forecast's test runs, which it was fitted without."""

from collections.abc import Iterator, Mapping

from scaling.laws.intervals.prediction import predicted_loss
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.text import by_width, percent

SCATTERS = 3.0
"""residual standard deviations by which a test run may miss a law without intervals before a note is made"""


def tested_notes(fitted: FittedLaw, level: float = 0.9) -> Iterator[str]:
    """A line for each test run whose loss lies outside the law's interval of a single run."""
    for out in fitted.runs.exclusions:
        values = out.values or {}
        columns = _columns(values, fitted.form.columns)
        if not columns or "loss" not in values:
            continue
        loss, found = values["loss"], predicted_loss(fitted, {**columns}, level)
        predicted, off = float(found.loss), float(found.loss) / loss - 1
        if found.level is None:
            outside, forecast = abs(predicted - loss) > SCATTERS * fitted.residual_sd * predicted, f"{predicted:.4g}"
        else:
            outside = not float(found.run_low) <= loss <= float(found.run_high)
            value, ends = by_width(predicted, (float(found.run_low), float(found.run_high)))
            forecast = f"{value} ({percent(level)} of single runs {ends})"
        if outside:
            yield (
                f"the law is {abs(off):.1%} too {'high' if off > 0 else 'low'} for the test run {out.row}, which was "
                f"not fitted: its loss is {loss:.4g}, predicted was {forecast}; the law does not hold beyond its runs"
            )


def _columns(values: Mapping[str, float], letters: tuple[str, ...]) -> dict[str, float]:
    """The columns of a run that a law reads; empty where the run lacks one."""
    known = {**values, **({"M": values["D"] / values["N"]} if {"N", "D"} <= values.keys() else {})}
    return {letter: known[letter] for letter in letters} if set(letters) <= known.keys() else {}
