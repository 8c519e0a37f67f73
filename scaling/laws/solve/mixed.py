"""Whether the rows of a fit follow one law: its residuals against replicates and the table's other columns."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.laws.arrays import Array
from scaling.laws.solve.fitted_law import FittedLaw
from scaling.laws.table.words import condition

LARGE = 0.05
"""residual sd of log losses too large for runs of one recipe: published sets lie between .001 and .03"""
TIMES = 3.0
"""residual sd in units of the scatter of replicates from which a note is made"""
SURE = 1e-4
"""level of the tests, divided by the number of columns"""
SHARE = 0.2
"""smallest share of the residuals' scatter that a column must explain to be named"""
LEAST = 3
"""fewest rows of a group that is used"""
MOST_NUMBERS = 32
"""most groups of a numeric column, such as learning rates, before it counts as a measurement"""
FAR, OFF, FEW = 10.0, 0.18, 0.1
"""residuals beyond this many robust standard deviations, and this large in log loss, are reported row by row, if at
most this share of the rows has them: of the digitised Chinchilla runs two of the five that its readers left out,
which move β from .37 to .45, and none of those they kept; in nine published sets of one experiment at most .15"""
SHOWN = 5
RISING = 0.5
"""rank correlation of the losses with FLOPs from which a note is made"""


@dataclass(frozen=True)
class Split:
    """A column whose groups differ in their residuals."""

    column: str
    share: float
    """of the sum of squares"""
    F: float
    p: float
    largest: str
    """the group with most rows"""
    groups: int

    def __str__(self) -> str:
        rows = condition(self.column, _literal(self.largest))
        return (
            f"residuals differ by {self.column} (F {self.F:.3g}, p {self.p:.1g}): {self.share:.0%} of their scatter "
            f"lies between its {self.groups} groups; fit one of them, such as {rows}"
        )


def mixed_notes(fit: FittedLaw) -> list[str]:
    """Notes about rows that residuals show not to be comparable, one line each."""
    r = fit.residuals * np.sqrt(fit.problem.weights)
    far = _far(fit)
    notes = [*_rising(fit), *_outlier_notes(fit, far), *_scatter(fit, ~far)]
    if found := splits(fit, r):
        notes.append(str(found[0]))
        if len(found) > 1:
            others = ", ".join(f"{split.column} ({split.share:.0%})" for split in found[1:])
            notes.append(f"taken alone, these columns split the residuals, too: {others}")
    return notes


def splits(fit: FittedLaw, residuals: Array) -> list[Split]:
    """The columns of the table whose groups differ in their residuals, the most explanatory first."""
    known = [fit.runs.column(name) for name in fit.form.columns]
    known += [fit.runs.flops] if {"N", "D"} <= fit.runs.values.keys() else []
    found: list[Split] = []
    for name, labels in fit.runs.labels.items():
        apart = name != fit.runs.conventions.get("run") and not _measured(labels)
        if apart and not any(_ordered(column, labels) for column in known):
            found += _split(name, labels, residuals, len(fit.runs.labels))
    return sorted(found, key=lambda split: -split.share)


def _split(name: str, labels: NDArray[np.str_], residuals: Array, columns: int) -> Iterator[Split]:
    """Analysis of variance of the residuals' ranks, which is robust to outliers."""
    from scipy.special import fdtrc

    groups, number, count = np.unique(labels, return_inverse=True, return_counts=True)
    inside = (count >= LEAST)[number]
    if (count >= LEAST).sum() < 2:
        return
    r, number = _ranks(residuals[inside]), np.unique(number[inside], return_inverse=True)[1]
    size = np.bincount(number)
    means = np.bincount(number, r) / size
    between, total = float(size @ (means - r.mean()) ** 2), float(np.sum((r - r.mean()) ** 2))
    freedom = len(size) - 1, len(r) - len(size)
    if freedom[1] < 1 or total <= 0:
        return
    F = between / freedom[0] / max((total - between) / freedom[1], 1e-12)
    p = float(fdtrc(*freedom, F))
    if p < SURE / columns and between > SHARE * total:
        yield Split(name, between / total, F, p, str(groups[count.argmax()]), len(size))


def _measured(labels: NDArray[np.str_]) -> bool:
    """Whether the groups are just values of a measurement, such as an accuracy, or of a count."""
    groups = np.unique(labels)
    return len(groups) > MOST_NUMBERS and all(_literal(str(group)) == group for group in groups)


def _ranks(values: Array) -> Array:
    """From 1; equal values share the mean of theirs."""
    _, number, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[number])


def _ordered(column: Array, labels: NDArray[np.str_]) -> bool:
    """Whether the groups are just ranges of a column that the law reads, as names of sizes are."""
    in_order = labels[np.argsort(column, kind="stable")]
    return 1 + int((in_order[1:] != in_order[:-1]).sum()) == len(np.unique(labels))


def _rising(fit: FittedLaw) -> Iterator[str]:
    if fit.form.signed or not fit.form.predicts.in_unit or not {"N", "D"} <= fit.runs.values.keys():
        return
    ranks = _ranks(fit.runs.flops), _ranks(fit.runs.loss)
    if min(map(np.ptp, ranks)) > 0 and (found := float(np.corrcoef(*ranks)[0, 1])) > RISING:
        yield (
            f"the losses rise with FLOPs (rank correlation {found:.2f}): laws describe losses that fall; for a score "
            "such as an accuracy, use 1 minus the score"
        )


def _far(fit: FittedLaw) -> NDArray[np.bool_]:
    """Outliers [rows]: rows far from a law that fits most others."""
    size = np.abs(fit.residuals)
    far = np.asarray((size > FAR * 1.4826 * np.median(size)) & (size > OFF))
    return far & (fit.residual == "log" and far.mean() <= FEW)


def _outlier_notes(fit: FittedLaw, far: NDArray[np.bool_]) -> Iterator[str]:
    if not far.any():
        return
    fitted, names = fit.problem.fitted(fit.theta), np.array(fit.runs.rows)
    rows = [f"{names[i]} ({fit.runs.loss[i]:.4g}, predicted {fitted[i]:.4g})" for i in np.flatnonzero(far)]
    yield (
        f"{len(rows)} of {len(far)} rows are far from the law, and affect its intervals: {', '.join(rows[:SHOWN])}"
        f"{', …' * (len(rows) > SHOWN)}; leave out runs that diverged or are of another kind"
    )


def _scatter(fit: FittedLaw, near: NDArray[np.bool_]) -> Iterator[str]:
    """A note on a residual sd far above that of replicates or, without outliers, above that of runs of one recipe."""
    sd = fit.residual_sd
    again, freedom = _replicates(fit)
    if freedom >= LEAST and sd > TIMES * again and sd > 1e-9:
        yield (
            f"residual sd {sd:.2g}, but {again:.2g} between runs of the same {' and '.join(fit.form.columns)}: "
            "the law does not hold for all runs, or they differ in something that it does not read"
        )
    elif fit.residual == "log" and float(np.std(fit.residuals[near])) > LARGE and {"N", "D"} <= set(fit.form.columns):
        yield (
            f"residual sd {sd:.2g}, but runs of one recipe scatter by .1 to 3 % about a law: these are from several "
            "experiments, or go beyond the range where the law holds"
        )


def _replicates(fit: FittedLaw) -> tuple[float, int]:
    """Scatter of the residuals of rows that agree in all columns that the law reads, and its degrees of freedom."""
    columns = np.stack([fit.runs.column(name) for name in fit.form.columns], 1)
    number = np.unique(columns, axis=0, return_inverse=True)[1].ravel()
    r = fit.residuals
    means = (np.bincount(number, r) / np.bincount(number))[number]
    freedom = len(r) - int(number.max()) - 1
    return float(np.sqrt(np.sum((r - means) ** 2) / max(freedom, 1))), freedom


def _literal(text: str) -> str:
    """The text of a value as a condition has it."""
    try:
        float(text)
    except ValueError:
        return text if text in ("True", "False") else repr(text)
    return text
